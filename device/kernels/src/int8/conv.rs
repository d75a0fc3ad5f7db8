//! Dense convolution, pointwise and fully connected layers on bytes: one indirect matrix product.
//!
//! As the one of single precision, with the products of four input channels summed at once. Where an instruction set multiplies
//! words, what a tile sees is copied as such first; windows of 3x3 may go by Winograd's method there.

#[cfg(target_arch = "x86_64")]
mod winograd;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::simd::{Bytes, Finish, Format, dispatch};
use super::{Closing, Grid, Output, Requantize, RequantizeForm, Residual, Source, Span, Steps, bound};
use crate::buffer::LINE;
use crate::exchange::Shared;
use crate::simd::Simd;
use crate::store::{Store, Stores, count};
use crate::taps::{TILE, Taps};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};

/// A convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Conv {
    isa: Isa,
    window: Window,
    inputs: usize,
    /// Fours of input channels.
    groups: usize,
    outputs: usize,
    method: Method,
    /// Each vector in the format of the instruction set.
    weights: Store<u8>,
    /// What the sums start with, the part of the input's zero taken off: `[padded(outputs)]`.
    start: Store<i32>,
    /// The input's zero.
    zero: u8,
    /// A row of taps of it.
    padding: Buffer<u8>,
    /// No weight is -128.
    tame: bool,
    requantize: Requantize,
}

/// How it is computed, and what its weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Method {
    /// By definition; `[padded(outputs) / BLOCK, taps, groups, BLOCK, 4]`.
    Direct,
    /// `[places, padded(outputs) / BLOCK, groups, BLOCK, 4]`.
    Winograd,
}

/// What a convolution is, but for its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Form {
    window: Window,
    inputs: usize,
    outputs: usize,
    method: Method,
    zero: u8,
    tame: bool,
    requantize: RequantizeForm,
}

/// How the depth of a product lies in the input: runs of bytes, whose places a table tells for each output pixel.
#[derive(Debug, Clone, Copy)]
struct Runs {
    /// Runs a pixel.
    count: usize,
    /// Fours of bytes in a run.
    groups: usize,
    /// Pixels of the input that a run has: more than one where a row of taps lies side by side.
    pixels: usize,
}

/// Weights and what their products are worth.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// `[outputs, inputs, kernel h, kernel w]`, row-major.
    pub values: &'a [i8],
    /// What each output's sum starts with.
    pub bias: &'a [i32],
    /// What one unit of each output's sum is worth: the scale of the input times that of the weights.
    pub units: &'a [f32],
}

impl Conv {
    /// Packs weights for an input whose zero is `zero`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit each other, or the machine does not have the instruction set.
    pub fn new(isa: Isa, weights: Weights<'_>, zero: u8, window: Window, closing: Closing) -> Self {
        let outputs = weights.bias.len();
        let taps = window.kernel[0] * window.kernel[1];
        assert!(outputs > 0 && taps > 0 && weights.values.len().is_multiple_of(outputs * taps), "weights do not fit");
        assert!(weights.units.len() == outputs && isa.is_available());
        let inputs = weights.values.len() / (outputs * taps);
        let (groups, format) = (inputs.div_ceil(4), Format::of(isa));
        let weight = |o: usize, tap: usize, i: usize| match o < outputs && i < inputs {
            true => weights.values[(o * inputs + i) * taps + tap],
            false => 0,
        };
        let vector = format.lanes * format.group();
        let mut packed = Buffer::zeros(padded(outputs) * taps * groups * format.group());
        let mut to = packed.chunks_exact_mut(vector);
        for block in (0..padded(outputs)).step_by(BLOCK) {
            for tap in 0..taps {
                for group in 0..groups {
                    for o in (block..block + BLOCK).step_by(format.lanes) {
                        let each =
                            (o..o + format.lanes).map(|o| std::array::from_fn(|i| weight(o, tap, group * 4 + i)));
                        format.pack(each, to.next().expect("memory for all weights"));
                    }
                }
            }
        }
        let mut start = Buffer::zeros(padded(outputs));
        let mut largest = vec![0.0; outputs];
        for (o, s) in start.iter_mut().enumerate().take(outputs) {
            let own = &weights.values[o * inputs * taps..(o + 1) * inputs * taps];
            (*s, largest[o]) = sums(own, weights.bias[o], format.zero(zero));
        }
        let padding = Buffer::filled(groups * 4 * window.kernel[1], zero);
        let requantize = Requantize::new(weights.units, &largest, closing);
        let tame = !weights.values.contains(&-128);
        let (method, weights, start) = (Method::Direct, packed.into(), start.into());
        Self { isa, window, inputs, groups, outputs, method, weights, start, zero, padding, tame, requantize }
    }

    /// Settles on the method that is fastest for inputs of `size`. Inputs of any other are still computed, and the outputs are
    /// the same.
    ///
    /// Where words are multiplied, a 3x3 window that moves by one pixel is computed by Winograd's method if the picture has
    /// tiles enough to make up for reading more weights.
    #[must_use]
    pub fn for_input(self, size: [usize; 2]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if self.method == Method::Direct && winograd::pays(&self, size) {
            let weights = winograd::weights(&self).into();
            return Self { method: Method::Winograd, weights, ..self };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = size;
        self
    }

    /// Takes it apart: what it is, and the memory of its numbers in turn.
    pub fn apart(&self) -> (Form, Vec<&[u8]>) {
        let Self { window, inputs, outputs, method, zero, tame, .. } = *self;
        let numbers = vec![self.weights.bytes(), self.start.bytes(), self.requantize.factors.bytes()];
        (Form { window, inputs, outputs, method, zero, tame, requantize: self.requantize.form() }, numbers)
    }

    /// Puts one together from what [`Conv::apart`] gave for the same instruction set; none where the machine does not have
    /// that, the form is of no convolution, or there are fewer numbers than it needs.
    pub fn whole(isa: Isa, form: Form, numbers: &mut Stores) -> Option<Self> {
        let Form { window, inputs, outputs, method, zero, tame, requantize } = form;
        (isa.is_available() && inputs > 0 && outputs > 0).then_some(())?;
        let (taps, width) = (window.taps_in_all()?, outputs.checked_next_multiple_of(BLOCK)?);
        let places = match method {
            Method::Direct => taps,
            #[cfg(target_arch = "x86_64")]
            Method::Winograd => winograd::places(isa, window, inputs)?,
            #[cfg(not(target_arch = "x86_64"))]
            Method::Winograd => return None,
        };
        let groups = inputs.div_ceil(4);
        let weights = numbers.take(count(&[width, places, groups, Format::of(isa).group()])?)?;
        let start = numbers.take(width)?;
        let requantize = Requantize::whole(requantize, width, numbers)?;
        let padding = Buffer::filled(groups * 4 * window.kernel[1], zero);
        Some(Self { isa, window, inputs, groups, outputs, method, weights, start, zero, padding, tame, requantize })
    }

    /// Returns the number of input channels.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the input's zero.
    pub fn zero(&self) -> u8 {
        self.zero
    }

    /// Returns what becomes of the sums.
    pub fn closing(&self) -> &Closing {
        &self.requantize.closing
    }

    /// Returns the bytes of working memory that a thread needs.
    pub fn scratch(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.method == Method::Winograd {
            return winograd::scratch(self);
        }
        let taps = self.window.kernel[0] * self.window.kernel[1];
        // The table, the runs that are put together at the borders, and the words.
        let cells = if self.groups == 1 { PIXELS * taps * 4 } else { 0 };
        let words = if Format::widens(self.isa) { self.batch() * self.words() } else { 0 };
        table(PIXELS * taps) + cells + words
    }

    /// Returns the pixels whose input rows are looked up together; what they see stays in the cache while the weights pass by.
    fn batch(&self) -> usize {
        if Format::widens(self.isa) { (MOST_WORDS / self.words()).clamp(2 * TILE, PIXELS) } else { PIXELS }
    }

    /// Returns the bytes of what a pixel sees, as words.
    fn words(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.groups * 8
    }

    /// The taps of a row make one run where the pixels of the input have nothing between them.
    fn runs(&self, stride: usize) -> Runs {
        let [height, breadth] = self.window.kernel;
        if self.groups == 1 && stride == 4 && self.window.dilation[1] == 1 {
            return Runs { count: height, groups: breadth, pixels: breadth };
        }
        Runs { count: height * breadth, groups: self.groups, pixels: 1 }
    }

    /// Returns its window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.inputs
    }

    /// Computes `closing(conv(input) + bias)` into `[h, w, padded(outputs)]`; `added` is the addend and its grid.
    ///
    /// # Panics
    ///
    /// If a length does not fit, or the output is not of the kind that the closing writes.
    pub fn run(&self, threads: &mut Threads, input: Source<'_>, added: Option<(&[u8], Grid)>, output: &mut Output<'_>) {
        let window = self.window.over(input.edges);
        let size = window.output(input.size).expect("the window fits the input");
        let pixels = size[0] * size[1];
        let width = padded(self.outputs);
        assert!(input.stride.is_multiple_of(4) && input.stride >= self.groups * 4);
        assert!(input.data.len() >= input.size[0] * input.size[1] * input.stride);
        assert!(output.len() >= pixels * width && added.is_none_or(|(a, _)| a.len() >= pixels * width));
        let bytes = self.requantize.closing.written(added.is_some()).is_some();
        assert!(bytes == matches!(output, Output::Bytes(_)));
        let to = To::new(output);
        let runs = self.runs(input.stride);
        let way = match (self.requantize.only_steps(added.is_some()), added) {
            (Some(steps), _) => Way::Rounded(steps.span()),
            (None, Some((bytes, grid))) => match self.requantize.residual(grid) {
                Some(residual) => Way::Residual(residual, bytes),
                None => Way::Any,
            },
            (None, None) => Way::Any,
        };
        let whole =
            Job { conv: self, window, runs, way, input, size, added, to, pixels: 0..pixels, blocks: 0..width / BLOCK };
        #[cfg(target_arch = "x86_64")]
        if self.method == Method::Winograd {
            threads.split(winograd::tiles(size), 1, self.scratch(), &|tiles, scratch| {
                // SAFETY: the machine has the instruction set; lengths are checked above; the tiles of the threads are
                // disjoint, and so are the pixels that they write.
                unsafe { winograd::run_tiles_avx2(&whole, tiles, scratch) }
            });
            return;
        }
        // One pixel is split by channels, many by pixels.
        let blocks = width / BLOCK;
        let by_channel = pixels < 4 * threads.count();
        let work = |range: Range<usize>, scratch: &mut Buffer<u8>| {
            let (pixels, blocks) = if by_channel { (0..pixels, range) } else { (range, 0..blocks) };
            let job = Job { pixels, blocks, ..whole.clone() };
            // SAFETY: the machine has the instruction set; lengths are checked above; the ranges of the threads are
            // disjoint, in pixels or in blocks of channels, so no place is written twice.
            unsafe { dispatch!(self.isa, run_part, (&job, scratch), (&Job<'_>, &mut [u8])) }
        };
        threads.split(if by_channel { blocks } else { pixels }, 1, self.scratch(), &work);
    }
}

/// Returns what the sum of an output starts with, for weights and a zero of the input, and how large the sum can become.
pub(super) fn sums(weights: &[i8], bias: i32, zero: i32) -> (i32, f32) {
    let sum = weights.iter().fold(0i32, |sum, w| sum.wrapping_add(i32::from(*w)));
    let largest = weights.iter().fold(0.0, |sum, w| sum + f32::from(w.unsigned_abs()) * 255.0);
    (bias.wrapping_sub(sum.wrapping_mul(zero)), largest + bias.unsigned_abs() as f32)
}

/// Where threads write.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    Bytes(Shared<'a, u8>),
    Floats(Shared<'a, f32>),
}

impl<'a> To<'a> {
    pub fn new(output: &'a mut Output<'_>) -> Self {
        match output {
            Output::Bytes(b) => Self::Bytes(Shared::new(b)),
            Output::Floats(f) => Self::Floats(Shared::new(f)),
        }
    }

    /// Writes one vector at an index, as bytes if there are steps.
    ///
    /// # Safety
    ///
    /// The machine has the instructions of `S`, and no other thread writes there.
    #[inline(always)]
    pub unsafe fn write<S: Bytes>(self, at: usize, v: <S::F as Simd>::V, steps: Option<Steps>) {
        match (self, steps) {
            (Self::Bytes(b), Some(steps)) => S::store_bytes(b.at(at), bound::<S>(v, steps), steps.span()),
            (Self::Floats(f), None) => S::F::store(f.at(at), v),
            _ => unreachable!("bytes are written where there are steps"),
        }
    }
}

/// How sums are closed, a table aside.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// By one rounding.
    Rounded(Span),
    /// Rounded, added to these bytes, rounded again.
    Residual(Residual, &'a [u8]),
    /// As the closing says.
    Any,
}

/// What one thread does.
#[derive(Clone)]
struct Job<'a> {
    conv: &'a Conv,
    window: Window,
    runs: Runs,
    way: Way<'a>,
    input: Source<'a>,
    size: [usize; 2],
    added: Option<(&'a [u8], Grid)>,
    to: To<'a>,
    pixels: Range<usize>,
    blocks: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Bytes, const V: usize, const R: usize>((job, scratch): (&Job<'_>, &mut [u8])) {
    let runs = job.runs.count;
    assert!(scratch.len() >= job.conv.scratch());
    let (batch, words) = (job.conv.batch(), job.conv.words());
    // Scratch memory starts on a cache line.
    let (rows, rest) = scratch.split_at_mut(table(PIXELS * runs));
    let rows = std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast::<*const u8>(), PIXELS * runs + TILE);
    let (wide, cells) = rest.split_at_mut(if S::WIDENS { batch * words } else { 0 });
    let taps = {
        let Source { data, size, stride, .. } = job.input;
        let [height, breadth] = job.window.kernel;
        let window = Window { kernel: [height, if job.runs.pixels == 1 { breadth } else { 1 }], ..job.window };
        Taps::new(window, data.as_ptr(), size, stride, job.size, job.conv.padding.as_ptr())
    };
    let mut at = job.pixels.start;
    while at < job.pixels.end {
        let left = job.pixels.end - at;
        // Whole tiles where there are enough; else of equal height: 49 pixels are seven tiles of seven rather than six of
        // eight and one of one.
        let even = left.div_ceil(left.div_ceil(batch));
        let count = if even == left { left } else { even.next_multiple_of(R).min(batch) };
        let height = count.div_ceil(count.div_ceil(R));
        // Each tile has its own part of them: what the rows of another point to is not borrowed anew.
        let (mut wide, mut cells) = (&mut wide[..], &mut cells[..]);
        for first in (0..count).step_by(height) {
            let (len, rows) = (height.min(count - first), rows.as_mut_ptr().add(first * runs));
            taps.find(at + first, len, rows);
            if job.runs.pixels > 1 {
                let own = cells.split_off_mut(..len * runs * job.runs.pixels * 4).expect("memory for each run");
                mend_runs(job, at + first, len, rows, own);
            }
            if S::WIDENS {
                let own = wide.split_off_mut(..len * words).expect("memory for the words of each pixel");
                widen::<S>(job, len, rows, own.as_mut_ptr());
            }
        }
        let mut block = job.blocks.start;
        while block < job.blocks.end {
            let wide = V == 1 && block + 1 < job.blocks.end;
            for first in (0..count).step_by(height) {
                let (len, rows) = (height.min(count - first), rows.as_ptr().add(first * runs));
                if wide {
                    pick::<S, 2, R>(job, len, rows, at + first, block);
                } else {
                    pick::<S, V, R>(job, len, rows, at + first, block);
                }
            }
            block += if wide { 2 } else { 1 };
        }
        at += count;
    }
}

/// Writes what each of `count` pixels sees as words, one after the other, and has the first `count` of `rows` point there.
#[inline(always)]
unsafe fn widen<S: Bytes>(job: &Job<'_>, count: usize, rows: *mut *const u8, mut to: *mut u8) {
    let Runs { count: runs, groups, .. } = job.runs;
    for pixel in 0..count {
        let start = to.cast_const();
        for run in 0..runs {
            S::widen(*rows.add(run * count + pixel), groups, to);
            to = to.add(groups * 8);
        }
        *rows.add(pixel) = start;
    }
}

/// Has runs of pixels that begin or end outside the picture point to `cells`, where they are put together.
#[inline(always)]
unsafe fn mend_runs(job: &Job<'_>, pixel: usize, count: usize, rows: *mut *const u8, cells: &mut [u8]) {
    let (w, size) = (job.window, job.input.size);
    let inside = w.inside(1, size[1], job.size[1]);
    let mut cells = cells.chunks_exact_mut(job.runs.pixels * 4);
    let (row, column) = (pixel / job.size[1], pixel % job.size[1]);
    if inside.contains(&column) && inside.contains(&(column + count - 1)) {
        return;
    }
    for i in 0..count {
        let (y, x) = (row + (column + i) / job.size[1], (column + i) % job.size[1]);
        if inside.contains(&x) {
            continue;
        }
        let (ys, xs) = (w.taps(0, y, size[0]), w.taps(1, x, size[1]));
        for ty in 0..w.kernel[0] {
            let cell = cells.next().expect("memory for each run");
            for (tx, to) in cell.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let seen = ys.contains(&ty) && xs.contains(&tx);
                *to = if seen {
                    let at = w.pixel(0, y, ty) * size[1] + w.pixel(1, x, tx);
                    job.input.data.as_ptr().add(at * 4).cast::<[u8; 4]>().read()
                } else {
                    job.conv.padding.as_ptr().cast::<[u8; 4]>().read()
                };
            }
            *rows.add(ty * count + i) = cell.as_ptr();
        }
    }
}

/// Calls the tile of `height` rows.
#[inline(always)]
unsafe fn pick<S: Bytes, const V: usize, const R: usize>(
    job: &Job<'_>,
    height: usize,
    rows: *const *const u8,
    pixel: usize,
    block: usize,
) {
    macro_rules! heights {
        ($($h:literal)*) => {
            match height {
                $($h if $h <= R => tile::<S, V, $h>(job, rows, pixel, block),)*
                _ => unreachable!("tiles have 1 to R rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8)
}

/// Computes `H` pixels of `V` vectors of channels.
#[inline(always)]
unsafe fn tile<S: Bytes, const V: usize, const H: usize>(
    job: &Job<'_>,
    rows: *const *const u8,
    pixel: usize,
    block: usize,
) {
    let (conv, Runs { count, groups, .. }) = (job.conv, job.runs);
    // Words lie in one run.
    let (count, groups) = if S::WIDENS { (1, count * groups) } else { (count, groups) };
    let group = S::FORMAT.group();
    let depth = count * groups * BLOCK * group;
    let weights = conv.weights.as_ptr().add(block * depth);
    // Vector `v` of a tile is in block `v * LANES / BLOCK` of the weights.
    let mut b: [*const u8; V] = [weights; V];
    let mut acc = [[S::sums(conv.start.as_ptr().add(block * BLOCK)); V]; H];
    for v in 0..V {
        b[v] = weights.add(v * S::LANES / BLOCK * depth + v * S::LANES % BLOCK * group);
        let start = S::sums(conv.start.as_ptr().add(block * BLOCK + v * S::LANES));
        acc.iter_mut().for_each(|row| row[v] = start);
    }
    for run in 0..count {
        let mut a = [std::ptr::null(); H];
        for (h, p) in a.iter_mut().enumerate() {
            *p = *rows.add(run * H + h);
        }
        S::products::<V, H>(&mut acc, &a, &mut b, groups, conv.tame);
    }
    write::<S, V, H>(job, &acc, pixel, block);
}

/// Closes sums of `H` pixels, one after the other, and writes them.
#[inline(always)]
unsafe fn write<S: Bytes, const V: usize, const H: usize>(
    job: &Job<'_>,
    acc: &[[S::I; V]; H],
    pixel: usize,
    block: usize,
) {
    let conv = job.conv;
    let at = pixel * padded(conv.outputs) + block * BLOCK;
    let (width, factors) = (padded(conv.outputs), conv.requantize.factors.as_ptr().add(block * BLOCK));
    let mut own = [S::F::splat(0.0); V];
    for (v, own) in own.iter_mut().enumerate() {
        *own = S::F::load(factors.add(v * S::LANES));
    }
    match (job.way, job.to) {
        (Way::Rounded(span), To::Bytes(bytes)) => {
            S::store_rows::<V, H>(bytes.at(at), width, acc, &Rounded(own), span);
        }
        (Way::Residual(residual, added), To::Bytes(bytes)) => {
            let finish = Added::<S, V> { factors: own, residual, added: added.as_ptr().add(at), width };
            S::store_rows::<V, H>(bytes.at(at), width, acc, &finish, residual.span);
        }
        _ => {
            // What this loop over sums in memory does must not keep those of the product out of registers.
            let mut sums = [[acc[0][0]; V]; H];
            for h in 0..H {
                for v in 0..V {
                    sums[h][v] = acc[h][v];
                }
            }
            close::<S, V, H>(job, &sums, at, block);
        }
    }
    if let (Some(table), To::Bytes(bytes)) = (&conv.requantize.closing.table, job.to) {
        S::look_up(table, bytes.at(at), H, padded(conv.outputs), V * S::LANES);
    }
}

/// Sums times what one unit of each is worth.
struct Rounded<F, const V: usize>([F; V]);

impl<S: Bytes, const V: usize> Finish<S> for Rounded<<S::F as Simd>::V, V> {
    #[inline(always)]
    unsafe fn steps(&self, sum: S::I, _: usize, v: usize) -> <S::F as Simd>::V {
        S::F::mul(S::float(sum), self.0[v])
    }
}

/// The same, and the rest of a residual connection.
struct Added<S: Bytes, const V: usize> {
    factors: [<S::F as Simd>::V; V],
    residual: Residual,
    /// What is added to the first row, of rows `width` bytes apart.
    added: *const u8,
    width: usize,
}

impl<S: Bytes, const V: usize> Finish<S> for Added<S, V> {
    #[inline(always)]
    unsafe fn steps(&self, sum: S::I, h: usize, v: usize) -> <S::F as Simd>::V {
        let added = self.added.add(h * self.width + v * S::LANES);
        self.residual.close::<S>(S::F::mul(S::float(sum), self.factors[v]), added)
    }
}

/// Closes sums in any way.
#[inline(always)]
unsafe fn close<S: Bytes, const V: usize, const H: usize>(
    job: &Job<'_>,
    sums: &[[S::I; V]; H],
    at: usize,
    block: usize,
) {
    let conv = job.conv;
    let written = conv.requantize.closing.written(job.added.is_some());
    for v in 0..V {
        let factors = S::F::load(conv.requantize.factors.as_ptr().add(block * BLOCK + v * S::LANES));
        for (h, row) in sums.iter().enumerate() {
            let at = at + h * padded(conv.outputs) + v * S::LANES;
            let added = job.added.map(|(bytes, grid)| (bytes.as_ptr().add(at), grid));
            job.to.write::<S>(at, conv.requantize.close::<S>(row[v], factors, added), written);
        }
    }
}

/// Returns the bytes of a table of addresses; finding some writes a few more.
fn table(addresses: usize) -> usize {
    ((addresses + TILE) * size_of::<*const u8>()).next_multiple_of(LINE)
}

/// Most pixels of a batch.
const PIXELS: usize = 96;
/// Bytes of words that stay in the second cache beside the weights.
const MOST_WORDS: usize = 192 << 10;
