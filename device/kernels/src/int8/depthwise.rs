//! Depthwise convolution on bytes.
//!
//! Up to four taps of a column are brought together channel by channel, so that one instruction multiplies and sums
//! them; neighbouring outputs share the columns.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::conv::{Weights, sums};
use super::simd::{Bytes, Format, Taps, dispatch};
use super::{Closing, Requantize, RequantizeForm, Source, Span};
use crate::exchange::Shared;
use crate::simd::Simd;
use crate::store::{Store, Stores, count};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};

/// A depthwise convolution with its weights packed for one instruction set.
#[derive(Debug, Clone)]
pub struct Depthwise {
    isa: Isa,
    window: Window,
    channels: usize,
    /// Fours of taps in a column of the window.
    groups: usize,
    /// `[part of 4 * LANES channels, column, group, 4 vectors]`, each in the format of the instruction set.
    weights: Store<u8>,
    /// What the sums start with, in the order that interleaving gives channels.
    start: Store<i32>,
    /// The input's zero.
    zero: u8,
    /// It for every channel.
    padding: Buffer<u8>,
    /// No weight is -128.
    tame: bool,
    /// In the order of `start`.
    requantize: Requantize,
}

/// What a depthwise convolution is, but for its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Form {
    window: Window,
    channels: usize,
    zero: u8,
    tame: bool,
    requantize: RequantizeForm,
}

impl Depthwise {
    /// Packs weights `[channels, 1, kernel h, kernel w]` for an input whose zero is `zero`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit each other, the machine does not have the instruction set, or the closing does not
    /// write bytes.
    pub fn new(isa: Isa, weights: Weights<'_>, zero: u8, window: Window, closing: Closing) -> Self {
        let channels = weights.bias.len();
        let [height, breadth] = window.kernel;
        assert!(height * breadth > 0 && weights.values.len() == channels * height * breadth, "weights do not fit");
        assert!(weights.units.len() == channels && isa.is_available() && closing.written(false).is_some());
        let (groups, format) = (height.div_ceil(4), Format::of(isa));
        let part = 4 * format.lanes;
        let parts = padded(channels).div_ceil(part);
        let weight = |c: usize, x: usize, y: usize| match c < channels && y < height {
            true => weights.values[(c * height + y) * breadth + x],
            false => 0,
        };
        let mut packed = Buffer::zeros(parts * breadth * groups * part * format.group());
        let mut to = packed.chunks_exact_mut(format.lanes * format.group());
        // The channel of each place in memory.
        let order: Vec<usize> = (0..parts * part)
            .map(|i| i / part * part + format.channel(i % part / format.lanes, i % format.lanes))
            .collect();
        for of_part in order.chunks_exact(part) {
            for x in 0..breadth {
                for group in 0..groups {
                    for (row, lanes) in of_part.chunks_exact(format.lanes).enumerate() {
                        let to = to.next().expect("memory for all weights");
                        if Format::taps(isa) == Taps::Rows {
                            for (to, c) in to.iter_mut().zip(of_part) {
                                *to = weight(*c, x, group * 4 + row).cast_unsigned();
                            }
                            continue;
                        }
                        let each = lanes.iter().map(|c| std::array::from_fn(|y| weight(*c, x, group * 4 + y)));
                        format.pack(each, to);
                    }
                }
            }
        }
        let mut start = Buffer::zeros(order.len());
        let (mut units, mut largest) = (vec![0.0; order.len()], vec![0.0; order.len()]);
        for (i, &c) in order.iter().enumerate().filter(|(_, c)| **c < channels) {
            let own = &weights.values[c * height * breadth..(c + 1) * height * breadth];
            (start[i], largest[i]) = sums(own, weights.bias[c], format.zero(zero));
            units[i] = weights.units[c];
        }
        let padding = Buffer::filled(padded(channels), zero);
        let requantize = Requantize::new(&units, &largest, closing);
        let tame = !weights.values.contains(&-128);
        let (weights, start) = (packed.into(), start.into());
        Self { isa, window, channels, groups, weights, start, zero, padding, tame, requantize }
    }

    /// Takes it apart: what it is, and the memory of its numbers in turn.
    pub fn apart(&self) -> (Form, Vec<&[u8]>) {
        let Self { window, channels, zero, tame, .. } = *self;
        let numbers = vec![self.weights.bytes(), self.start.bytes(), self.requantize.factors.bytes()];
        (Form { window, channels, zero, tame, requantize: self.requantize.form() }, numbers)
    }

    /// Puts one together from what [`Depthwise::apart`] gave for the same instruction set; none where the machine does not
    /// have that, the form is of no convolution that writes bytes, or there are fewer numbers than it needs.
    pub fn whole(isa: Isa, form: Form, numbers: &mut Stores) -> Option<Self> {
        let Form { window, channels, zero, tame, requantize } = form;
        (isa.is_available() && requantize.closing.written(false).is_some()).then_some(())?;
        window.taps_in_all()?;
        let (groups, format) = (window.kernel[0].div_ceil(4), Format::of(isa));
        let width = channels.checked_next_multiple_of(BLOCK)?.checked_next_multiple_of(4 * format.lanes)?;
        let weights = numbers.take(count(&[width, window.kernel[1], groups, format.group()])?)?;
        let start = numbers.take(width)?;
        let requantize = Requantize::whole(requantize, width, numbers)?;
        let padding = Buffer::filled(padded(channels), zero);
        Some(Self { isa, window, channels, groups, weights, start, zero, padding, tame, requantize })
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the input's zero.
    pub fn zero(&self) -> u8 {
        self.zero
    }

    /// Returns what becomes of the sums.
    pub fn closing(&self) -> &Closing {
        &self.requantize.closing
    }

    /// Returns its window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Computes `closing(conv(input) + bias)` from `[h, w, padded(channels)]` into the same layout.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run(&self, threads: &mut Threads, input: Source<'_>, output: &mut [u8]) {
        let window = self.window.over(input.edges);
        let out = window.output(input.size).expect("the window fits the input");
        let width = padded(self.channels);
        assert!(input.stride == width && input.data.len() >= input.size[0] * input.size[1] * width);
        assert!(output.len() >= out[0] * out[1] * width);
        let to = Shared::new(output);
        let steps = self.requantize.closing.written(false).expect("a closing that writes bytes");
        let (span, only) = (steps.span(), self.requantize.only_steps(false).is_some());
        threads.split(out[0], 1, 0, &|rows, _| {
            let job = Job { conv: self, window, input, out, to, rows, span, only };
            // SAFETY: the machine has the instruction set; lengths are checked above; the threads' rows are disjoint.
            unsafe { dispatch!(self.isa, run_part, &job, &Job<'_>) }
        });
    }
}

/// What one thread does.
struct Job<'a> {
    conv: &'a Depthwise,
    window: Window,
    input: Source<'a>,
    out: [usize; 2],
    to: Shared<'a, u8>,
    rows: Range<usize>,
    /// How what is written lies in bytes.
    span: Span,
    /// One rounding is all that closes it, a table aside.
    only: bool,
}

#[inline(always)]
unsafe fn run_part<S: Bytes, const V: usize, const R: usize>(job: &Job<'_>) {
    let w = &job.window;
    // Vectors of 512 bits come with registers for twice the outputs.
    let wide = V == 1 || S::WIDE_TILES;
    match (w.kernel, w.stride[1], w.dilation[1], job.only, wide) {
        ([3, 3], 1, 1, true, true) => run_rows::<S, 3, 3, 1, 4, true>(job),
        ([3, 3], 2, 1, true, true) => run_rows::<S, 3, 3, 2, 4, true>(job),
        ([5, 5], 1, 1, true, true) => run_rows::<S, 5, 5, 1, 4, true>(job),
        ([5, 5], 2, 1, true, true) => run_rows::<S, 5, 5, 2, 4, true>(job),
        ([3, 3], 1, 1, true, false) => run_rows::<S, 3, 3, 1, 2, true>(job),
        ([3, 3], 2, 1, true, false) => run_rows::<S, 3, 3, 2, 2, true>(job),
        ([5, 5], 1, 1, true, false) => run_rows::<S, 5, 5, 1, 2, true>(job),
        ([5, 5], 2, 1, true, false) => run_rows::<S, 5, 5, 2, 2, true>(job),
        ([3, 3], 1, 1, false, _) => run_rows::<S, 3, 3, 1, 1, false>(job),
        ([3, 3], 2, 1, false, _) => run_rows::<S, 3, 3, 2, 1, false>(job),
        ([5, 5], 1, 1, false, _) => run_rows::<S, 5, 5, 1, 1, false>(job),
        ([5, 5], 2, 1, false, _) => run_rows::<S, 5, 5, 2, 1, false>(job),
        _ => run_any::<S>(job),
    }
}

/// Does every row, `N` outputs at a time, of a window of `KY` times `KX` taps and stride `T` on the width; `ONLY` says
/// that one rounding closes it, a table aside.
#[inline(always)]
unsafe fn run_rows<S: Bytes, const KY: usize, const KX: usize, const T: usize, const N: usize, const ONLY: bool>(
    job: &Job<'_>,
) {
    let (conv, w) = (job.conv, &job.window);
    let (width, part) = (padded(conv.channels), 4 * S::LANES);
    let inside = w.inside(1, job.input.size[1], job.out[1]);
    for y in job.rows.clone() {
        // A row of padding is one pixel over and over. The weights of rows past the window are zero, so any do.
        let mut rows = [(conv.padding.as_ptr(), 0); ROWS];
        for (ty, row) in rows.iter_mut().enumerate().take(KY) {
            let at = (y * w.stride[0] + ty * w.dilation[0]).wrapping_sub(w.before[0]);
            if at < job.input.size[0] {
                *row = (job.input.data[at * job.input.size[1] * width..].as_ptr(), width);
            }
        }
        for channel in (0..width).step_by(part) {
            let channels = part.min(width - channel);
            let mut x = inside.start;
            while x < inside.end {
                let first = w.pixel(1, x, 0);
                let row = |r: usize| (rows[r].0.add(first * rows[r].1 + channel), rows[r].1);
                let even = Even { rows: [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)] };
                if x + N > inside.end {
                    tile::<S, _, KY, KX, T, 1, ONLY>(job, &even, [y, x], channel, channels);
                    x += 1;
                } else if channels == part {
                    tile::<S, _, KY, KX, T, N, ONLY>(job, &even, [y, x], channel, part);
                    x += N;
                } else {
                    tile::<S, _, KY, KX, T, N, ONLY>(job, &even, [y, x], channel, channels);
                    x += N;
                }
            }
        }
        for x in (0..inside.start).chain(inside.end..job.out[1]) {
            let mut table = Table { columns: [[conv.padding.as_ptr(); ROWS]; KX] };
            for (tx, column) in table.columns.iter_mut().enumerate() {
                for (ty, place) in column.iter_mut().enumerate().take(KY) {
                    *place = find(job, [y, x], [ty, tx]);
                }
            }
            for channel in (0..width).step_by(part) {
                let channels = part.min(width - channel);
                let table = Offset { table: &table, channel };
                tile::<S, _, KY, KX, T, 1, ONLY>(job, &table, [y, x], channel, channels);
            }
        }
    }
}

/// Where the columns that a tile sees are, and their rows.
trait Places {
    /// # Safety
    ///
    /// The tile sees the column, or the weights of the row are zero.
    unsafe fn at(&self, column: usize, row: usize) -> *const u8;
    /// Returns the rows and the bytes from one of their columns to the next, where these are at equal distances.
    fn even(&self) -> Option<&[(*const u8, usize)]>;
}

/// Columns at equal distances in each row.
struct Even {
    rows: [(*const u8, usize); ROWS],
}

impl Places for Even {
    #[inline(always)]
    unsafe fn at(&self, column: usize, row: usize) -> *const u8 {
        self.rows[row].0.add(column * self.rows[row].1)
    }
    #[inline(always)]
    fn even(&self) -> Option<&[(*const u8, usize)]> {
        Some(&self.rows)
    }
}

/// Columns anywhere, or padding.
struct Table<const KX: usize> {
    columns: [[*const u8; ROWS]; KX],
}

/// A table from one channel on.
struct Offset<'a, const KX: usize> {
    table: &'a Table<KX>,
    channel: usize,
}

impl<const KX: usize> Places for Offset<'_, KX> {
    #[inline(always)]
    unsafe fn at(&self, column: usize, row: usize) -> *const u8 {
        self.table.columns[column % KX][row].add(self.channel)
    }
    #[inline(always)]
    fn even(&self) -> Option<&[(*const u8, usize)]> {
        None
    }
}

/// Computes `channels` channels of `N` neighbouring outputs.
#[inline(always)]
unsafe fn tile<
    S: Bytes,
    P: Places,
    const KY: usize,
    const KX: usize,
    const T: usize,
    const N: usize,
    const ONLY: bool,
>(
    job: &Job<'_>,
    places: &P,
    at: [usize; 2],
    channel: usize,
    channels: usize,
) {
    let conv = job.conv;
    let mut acc = [start::<S>(conv, channel); N];
    let weights = conv.weights.as_ptr().add(channel * KY.div_ceil(4) * KX * S::FORMAT.group());
    // One after the other rather than in loops, so that sums stay in registers.
    macro_rules! multiply {
        ($i:literal $group:literal $bytes:ident $weights:ident $($n:literal)*) => {$(
            // Which column of its window this is for output `n`.
            if $n < N && $i >= $n * T && $i < $n * T + KX {
                let tap = ($i - $n * T) * KY.div_ceil(4) + $group;
                let weights = $weights.add(tap * 4 * S::LANES * S::FORMAT.group());
                let taps = KY.saturating_sub($group * 4).min(4);
                if S::TAPS == Taps::Fours || job.conv.tame {
                    S::column::<true>(&mut acc[$n % N], &$bytes, weights, taps);
                } else {
                    S::column::<false>(&mut acc[$n % N], &$bytes, weights, taps);
                }
            }
        )*};
    }
    macro_rules! columns {
        ($group:literal $($i:literal)*) => {$(
            if $group < KY.div_ceil(4) && $i < (N - 1) * T + KX {
                // In place of a row past the window, whose weights are zero, the one that was loaded last.
                let row = |r: usize| places.at($i, ($group * 4 + r).min(KY - 1));
                let from = [row(0), row(1), row(2), row(3)];
                let bytes = S::interleave(from, channels);
                let weights = S::anew(weights);
                multiply!($i $group bytes weights 0 1 2 3);
            }
        )*};
    }
    match places.even() {
        Some(rows) if S::COLUMNS && N == 2 => S::columns::<KY, KX, T, N>(&mut acc, rows, weights, channels),
        _ => {
            columns!(0 0 1 2 3 4 5 6 7 8 9 10);
            columns!(1 0 1 2 3 4 5 6 7 8 9 10);
        }
    }
    macro_rules! outputs {
        ($($n:literal)*) => {$(
            if $n < N {
                close::<S, ONLY>(job, acc[$n % N], [at[0], at[1] + $n], channel, channels);
            }
        )*};
    }
    outputs!(0 1 2 3);
}

/// Computes outputs of any window one by one.
#[inline(always)]
unsafe fn run_any<S: Bytes>(job: &Job<'_>) {
    let (width, part) = (padded(job.conv.channels), 4 * S::LANES);
    for y in job.rows.clone() {
        for x in 0..job.out[1] {
            for channel in (0..width).step_by(part) {
                any::<S>(job, [y, x], channel, part.min(width - channel));
            }
        }
    }
}

/// Computes `channels` channels of one output of any window.
#[inline(always)]
unsafe fn any<S: Bytes>(job: &Job<'_>, at: [usize; 2], channel: usize, channels: usize) {
    let conv = job.conv;
    let [height, breadth] = conv.window.kernel;
    let mut acc = start::<S>(conv, channel);
    let weights = conv.weights.as_ptr().add(channel * conv.groups * breadth * S::FORMAT.group());
    for tx in 0..breadth {
        for group in 0..conv.groups {
            let rows = std::array::from_fn(|r| match group * 4 + r {
                ty if ty < height => find(job, at, [ty, tx]).add(channel),
                _ => conv.padding.as_ptr().add(channel),
            });
            let bytes = S::interleave(rows, channels);
            let tap = (tx * conv.groups + group) * 4;
            S::column::<false>(&mut acc, &bytes, weights.add(tap * S::LANES * S::FORMAT.group()), 4);
        }
    }
    close::<S, false>(job, acc, at, channel, channels);
}

/// Returns the pixel that a tap of an output sees, or padding.
#[inline(always)]
fn find(job: &Job<'_>, at: [usize; 2], tap: [usize; 2]) -> *const u8 {
    let w = &job.window;
    // What lies before the picture wraps round to far behind it.
    let axis = |a: usize| (at[a] * w.stride[a] + tap[a] * w.dilation[a]).wrapping_sub(w.before[a]);
    let (y, x) = (axis(0), axis(1));
    if y < job.input.size[0] && x < job.input.size[1] {
        job.input.data[(y * job.input.size[1] + x) * job.input.stride..].as_ptr()
    } else {
        job.conv.padding.as_ptr()
    }
}

#[inline(always)]
unsafe fn start<S: Bytes>(conv: &Depthwise, channel: usize) -> [S::I; 4] {
    let from = conv.start.as_ptr().add(channel);
    [S::sums(from), S::sums(from.add(S::LANES)), S::sums(from.add(2 * S::LANES)), S::sums(from.add(3 * S::LANES))]
}

#[inline(always)]
unsafe fn close<S: Bytes, const ONLY: bool>(
    job: &Job<'_>,
    acc: [S::I; 4],
    at: [usize; 2],
    channel: usize,
    channels: usize,
) {
    let conv = job.conv;
    let to = job.to.at((at[0] * job.out[1] + at[1]) * padded(conv.channels) + channel);
    let factors = conv.requantize.factors.as_ptr().add(channel);
    let mut done = [S::F::splat(0.0); 4];
    macro_rules! each {
        ($($v:literal)*) => {$(
            let own = S::F::load(factors.add($v * S::LANES));
            done[$v] = match ONLY {
                true => S::F::mul(S::float(acc[$v]), own),
                false => conv.requantize.close::<S>(acc[$v], own, None),
            };
        )*};
    }
    each!(0 1 2 3);
    S::store_interleaved(to, done, job.span, channels);
    if let Some(table) = &conv.requantize.closing.table {
        S::look_up(table, to, 1, channels, channels);
    }
}

/// Most rows, padded to fours, of a window that has code of its own.
const ROWS: usize = 8;
