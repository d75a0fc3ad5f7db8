//! Dense convolution, pointwise and fully connected layers on bytes: one indirect matrix product.
//!
//! As the one of single precision, with the products of four input channels summed at once.

use std::ops::Range;

use super::simd::{Bytes, Format, dispatch};
use super::{Closing, Grid, Output, Requantize, Source, Steps, bound};
use crate::exchange::Shared;
use crate::simd::Simd;
use crate::{Activation, BLOCK, Buffer, Isa, Threads, Window, padded};

/// A convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Conv {
    isa: Isa,
    window: Window,
    inputs: usize,
    /// Fours of input channels.
    groups: usize,
    outputs: usize,
    /// `[padded(outputs) / BLOCK, taps, groups, BLOCK, 4]`, each vector in the format of the instruction set.
    weights: Buffer<u8>,
    /// What the sums start with, the part of the input's zero taken off: `[padded(outputs)]`.
    start: Buffer<i32>,
    /// The input's zero, a row of taps of it.
    padding: Buffer<u8>,
    /// No weight is -128.
    tame: bool,
    requantize: Requantize,
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
        let mut padding = Buffer::zeros(groups * 4 * window.kernel[1]);
        padding.fill(zero);
        let requantize = Requantize::new(weights.units, &largest, closing);
        let tame = !weights.values.contains(&-128);
        Self { isa, window, inputs, groups, outputs, weights: packed, start, padding, tame, requantize }
    }

    /// Returns the bytes of working memory that a thread needs.
    pub fn scratch(&self) -> usize {
        let taps = self.window.kernel[0] * self.window.kernel[1];
        // The table, and the runs that are put together at the borders.
        PIXELS * taps * (size_of::<*const u8>() + if self.groups == 1 { 4 } else { 0 })
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
        let (runs, only) = (self.runs(input.stride), self.requantize.only_steps(added.is_some()));
        // One pixel is split by channels, many by pixels.
        let blocks = width / BLOCK;
        let by_channel = pixels < 4 * threads.count();
        let work = |range: Range<usize>, scratch: &mut Buffer<u8>| {
            let (pixels, blocks) = if by_channel { (0..pixels, range) } else { (range, 0..blocks) };
            let job = Job { conv: self, window, runs, only, input, size, added, to, pixels, blocks };
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
            (Self::Bytes(b), Some(steps)) => S::store_bytes(b.at(at), bound::<S>(v, steps), steps),
            (Self::Floats(f), None) => S::F::store(f.at(at), v),
            _ => unreachable!("bytes are written where there are steps"),
        }
    }
}

/// What one thread does.
struct Job<'a> {
    conv: &'a Conv,
    window: Window,
    runs: Runs,
    /// The one rounding that closes it, a table aside, if that is all.
    only: Option<Steps>,
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
    // Scratch memory starts on a cache line.
    let (rows, cells) = scratch.split_at_mut(PIXELS * runs * size_of::<*const u8>());
    let rows = std::slice::from_raw_parts_mut(rows.as_mut_ptr().cast::<*const u8>(), PIXELS * runs);
    let mut at = job.pixels.start;
    while at < job.pixels.end {
        let left = job.pixels.end - at;
        let count = left.div_ceil(left.div_ceil(PIXELS));
        // Tiles of equal height: 49 pixels are seven tiles of seven rather than six of eight and one of one.
        let height = count.div_ceil(count.div_ceil(R));
        find_rows(job, at..at + count, height, rows, cells);
        let mut block = job.blocks.start;
        while block < job.blocks.end {
            let wide = V == 1 && block + 1 < job.blocks.end;
            let mut done = 0;
            while done < count {
                let h = height.min(count - done);
                let table = rows.as_ptr().add(done * runs);
                if wide {
                    pick::<S, 2, R>(job, h, table, at + done, block);
                } else {
                    pick::<S, V, R>(job, h, table, at + done, block);
                }
                done += h;
            }
            block += if wide { 2 } else { 1 };
        }
        at += count;
    }
}

/// Fills the table of input runs, `[tile, run, pixel of the tile]`.
#[inline(always)]
unsafe fn find_rows(job: &Job<'_>, pixels: Range<usize>, height: usize, rows: &mut [*const u8], cells: &mut [u8]) {
    // Copies of all that is read, as what is written might be any of it for all the compiler knows.
    let (w, Source { size, stride, .. }, runs) = (job.window, job.input, job.runs);
    let (data, padding) = (job.input.data.as_ptr(), job.conv.padding.as_ptr());
    let (count, breadth) = (pixels.len(), job.size[1]);
    if w == Window::POINT {
        for (i, row) in rows.iter_mut().enumerate().take(count) {
            *row = data.add((pixels.start + i) * stride);
        }
        return;
    }
    let inside = w.inside(1, size[1], breadth);
    let (mut y, mut x) = (pixels.start / breadth, pixels.start % breadth);
    let (mut tile, mut in_tile) = (0, 0);
    let mut cell = cells.as_mut_ptr();
    while tile + in_tile < count {
        let tile_height = height.min(count - tile);
        let mut to = rows.as_mut_ptr().add(tile * runs.count + in_tile);
        // What lies before the picture wraps round to far behind it.
        let first_x = (x * w.stride[1]).wrapping_sub(w.before[1]);
        let is_inside = inside.contains(&x);
        for ty in 0..w.kernel[0] {
            let at_y = (y * w.stride[0] + ty * w.dilation[0]).wrapping_sub(w.before[0]);
            let in_picture = at_y < size[0];
            let row = data.wrapping_add(at_y.wrapping_mul(size[1]).wrapping_mul(stride));
            let find = |tx: usize| {
                let at_x = first_x.wrapping_add(tx * w.dilation[1]);
                if in_picture && at_x < size[1] { row.add(at_x * stride) } else { padding }
            };
            if runs.pixels == 1 {
                for tx in 0..w.kernel[1] {
                    *to = find(tx);
                    to = to.add(tile_height);
                }
                continue;
            }
            *to = if is_inside || !in_picture {
                find(0)
            } else {
                // Put together from pixels and padding.
                let start = cell;
                for tx in 0..w.kernel[1] {
                    cell.cast::<[u8; 4]>().write(find(tx).cast::<[u8; 4]>().read());
                    cell = cell.add(4);
                }
                start
            };
            to = to.add(tile_height);
        }
        in_tile += 1;
        if in_tile == height {
            (tile, in_tile) = (tile + height, 0);
        }
        x += 1;
        if x == breadth {
            (y, x) = (y + 1, 0);
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
    let at = pixel * padded(conv.outputs) + block * BLOCK;
    match (job.only, job.to) {
        (Some(steps), To::Bytes(bytes)) => {
            let factors = conv.requantize.factors.as_ptr().add(block * BLOCK);
            let mut own = [S::F::splat(0.0); V];
            for (v, own) in own.iter_mut().enumerate() {
                *own = S::F::load(factors.add(v * S::LANES));
            }
            S::store_rows::<V, H>(bytes.at(at), padded(conv.outputs), &acc, &own, steps);
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

/// Closes sums in any way.
#[inline(always)]
unsafe fn close<S: Bytes, const V: usize, const H: usize>(
    job: &Job<'_>,
    sums: &[[S::I; V]; H],
    at: usize,
    block: usize,
) {
    let (conv, closing) = (job.conv, &job.conv.requantize.closing);
    if V == 4
        && let (Some(first), Some(added), Some(last)) = (closing.first, job.added, closing.last)
        && let (Activation::NONE, To::Bytes(to)) = (closing.activation, job.to)
    {
        return close_added::<S, V, H>(conv, sums, added, [first, last], to.at(0), at, block);
    }
    let written = closing.written(job.added.is_some());
    for v in 0..V {
        let factors = S::F::load(conv.requantize.factors.as_ptr().add(block * BLOCK + v * S::LANES));
        for (h, row) in sums.iter().enumerate() {
            let at = at + h * padded(conv.outputs) + v * S::LANES;
            let added = job.added.map(|(bytes, grid)| (bytes.as_ptr().add(at), grid));
            job.to.write::<S>(at, conv.requantize.close::<S>(row[v], factors, added), written);
        }
    }
}

/// Closes sums of four vectors that are rounded, added to and rounded again: as [`Requantize::close`] does, a row at a time.
#[inline(always)]
unsafe fn close_added<S: Bytes, const V: usize, const H: usize>(
    conv: &Conv,
    sums: &[[S::I; V]; H],
    (added, grid): (&[u8], Grid),
    [first, last]: [Steps; 2],
    to: *mut u8,
    at: usize,
    block: usize,
) {
    let factors = conv.requantize.factors.as_ptr().add(block * BLOCK);
    let (zero, scale) = (S::F::splat(-f32::from(grid.zero)), S::F::splat(grid.scale));
    for (h, row) in sums.iter().enumerate() {
        let at = at + h * padded(conv.outputs);
        let mut done = [zero; 4];
        for v in 0..V {
            let factor = S::F::load(factors.add(v * S::LANES));
            let x = S::F::round(bound::<S>(S::F::mul(S::float(row[v]), factor), first));
            let steps = S::F::add(S::load_bytes(added.as_ptr().add(at + v * S::LANES)), zero);
            let x = S::F::add(S::F::mul(x, S::F::splat(first.scale)), S::F::mul(steps, scale));
            done[v] = bound::<S>(S::over(x, last.scale, conv.requantize.reciprocal), last);
        }
        S::store_interleaved(to.add(at), done, last, V * S::LANES);
    }
}

/// Pixels whose input rows are looked up together; their inputs stay in the cache while the weights pass by.
const PIXELS: usize = 96;
