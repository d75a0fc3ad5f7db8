//! Gradients of dense convolutions, pointwise and fully connected layers.
//!
//! What a layer computes and what its input's gradient is are both convolutions, of weights packed for [`Conv`]. The
//! gradient of the weights is a product of its own, summed in registers over the pixels of all pictures: rows of inputs
//! and gradients are read where they lie.

use std::ops::Range;

use crate::conv::{Conv, Source};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};

/// A dense layer but for its weights, which are `[taps, inputs, padded(outputs)]`, row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense {
    /// Where it looks.
    pub window: Window,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
}

impl Dense {
    /// Returns the number of weights, those of padding included.
    pub fn numbers(&self) -> usize {
        self.taps() * self.inputs * padded(self.outputs)
    }

    fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Returns the layer for inputs of `size`, without bias and activation.
    ///
    /// # Panics
    ///
    /// If there are not as many weights as [`Dense::numbers`] says.
    pub fn forward(&self, weights: &[f32], size: [usize; 2]) -> Conv {
        let Self { window, inputs, outputs } = *self;
        assert_eq!(weights.len(), self.numbers());
        let rows = weights.as_chunks::<BLOCK>().0;
        let blocks = padded(outputs) / BLOCK;
        Conv::of_rows(window, inputs, outputs, |block, tap, input| rows[(tap * inputs + input) * blocks + block])
            .for_input(size)
    }

    /// Returns what makes the gradient of an input of `size` out of that of the output.
    ///
    /// # Panics
    ///
    /// If there are not as many weights as [`Dense::numbers`] says, or the window does not fit the input.
    pub fn backward(&self, weights: &[f32], size: [usize; 2]) -> Backward {
        let Self { window: w, inputs, outputs } = *self;
        assert_eq!(weights.len(), self.numbers());
        let out = w.output(size).expect("the window fits the input");
        // Gradients that lie as far apart as the window moves, zeros between them.
        let apart = [0, 1].map(|a| (out[a] - 1) * w.stride[a] + 1);
        let reach = [0, 1].map(|a| (w.kernel[a] - 1) * w.dilation[a]);
        let before = [0, 1].map(|a| reach[a].saturating_sub(w.before[a]));
        assert!((0..2).all(|a| w.before[a] <= reach[a]), "expected less padding than the window reaches");
        let after = [0, 1].map(|a| (size[a] + reach[a]).saturating_sub(apart[a] + before[a]));
        let window = Window { stride: [1; 2], before, after, ..w };
        let (taps, width) = (self.taps(), padded(outputs));
        let conv = Conv::of_rows(window, outputs, inputs, |block, tap, output| {
            let first = ((taps - 1 - tap) * inputs + block * BLOCK) * width + output;
            std::array::from_fn(|i| if block * BLOCK + i < inputs { weights[first + i * width] } else { 0.0 })
        });
        Backward { conv: conv.for_input(apart), window: w }
    }

    /// Adds the gradient of the weights to `sums`, laid out as they are, over as many pictures as `gradient`
    /// `[pictures, out h, out w, padded(outputs)]` has; `input` is `[pictures, h, w, stride]`, of pictures of its size.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn weight_gradient(
        &self,
        isa: Isa,
        threads: &mut Threads,
        input: Source<'_>,
        gradient: &[f32],
        sums: &mut [f32],
    ) {
        let Self { window, inputs, outputs } = *self;
        let out = window.output(input.size).expect("the window fits the input");
        let width = padded(outputs);
        let pixels = gradient.len() / width;
        let pictures = pixels / (out[0] * out[1]);
        assert!(isa.is_available() && inputs > 0 && sums.len() == self.numbers() && input.edges.is_none());
        assert!(pixels == pictures * out[0] * out[1] && gradient.len() == pixels * width);
        assert!(input.stride >= inputs && input.data.len() >= pictures * input.size[0] * input.size[1] * input.stride);
        let taps = self.taps();
        let zeros = Buffer::<f32>::zeros(inputs);
        let scratch = taps * PIXELS * size_of::<*const f32>();
        let job = Job { layer: self, input, out, pixels, gradient, zeros: &zeros, sums: Shared::new(sums) };
        // A thread takes some blocks of outputs of a tap.
        let blocks = width / BLOCK;
        let strips = blocks.div_ceil(STRIP);
        threads.split(taps * inputs.div_ceil(ROWS) * strips, 1, scratch, &|items, scratch| {
            let part = Part { job: &job, items, strips };
            // SAFETY: the machine has the instruction set; lengths are checked above; an item is a place in `sums` that no
            // other one has.
            unsafe { dispatch!(isa, run_part, (part, scratch.view()), (Part<'_>, &mut [*const f32])) }
        });
    }
}

/// Makes the gradient of an input: [`Dense::backward`].
#[derive(Debug, Clone)]
pub struct Backward {
    conv: Conv,
    /// Of the layer.
    window: Window,
}

impl Backward {
    /// Returns the numbers of working memory that [`Backward::run`] needs for an input of `size`.
    pub fn scratch(&self, size: [usize; 2]) -> usize {
        let apart = self.apart(size);
        if self.window.stride == [1; 2] { 0 } else { apart[0] * apart[1] * padded(self.conv.inputs()) }
    }

    /// Returns the size of an output with as many zeros between its pixels as the window leaves out.
    fn apart(&self, size: [usize; 2]) -> [usize; 2] {
        let out = self.window.output(size).expect("the window fits the input");
        [0, 1].map(|a| (out[a] - 1) * self.window.stride[a] + 1)
    }

    /// Writes the gradient of one picture, `[h, w, padded(inputs)]`, out of `[out h, out w, padded(outputs)]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit, or the size is another than that it was made for, other than of a pointwise layer.
    pub fn run(
        &self,
        isa: Isa,
        threads: &mut Threads,
        gradient: &[f32],
        size: [usize; 2],
        scratch: &mut [f32],
        output: &mut [f32],
    ) {
        let (stride, apart) = (padded(self.conv.inputs()), self.apart(size));
        assert_eq!(self.conv.window().output(apart), Some(size), "expected the size that it was made for");
        let step = self.window.stride;
        if step == [1; 2] {
            let source = Source { data: gradient, size: apart, stride, edges: None };
            return self.conv.run(isa, threads, source, None, output);
        }
        let scratch = &mut scratch[..apart[0] * apart[1] * stride];
        let columns = apart[1].div_ceil(step[1]);
        scratch.fill(0.0);
        for (to, from) in scratch.chunks_mut(apart[1] * stride * step[0]).zip(gradient.chunks(columns * stride)) {
            for (to, from) in to.chunks_mut(step[1] * stride).zip(from.chunks(stride)) {
                to[..stride].copy_from_slice(from);
            }
        }
        let source = Source { data: scratch, size: apart, stride, edges: None };
        self.conv.run(isa, threads, source, None, output);
    }
}

/// One call of [`Dense::weight_gradient`], its lengths checked.
struct Job<'a> {
    layer: &'a Dense,
    input: Source<'a>,
    out: [usize; 2],
    /// Of all pictures.
    pixels: usize,
    gradient: &'a [f32],
    /// A pixel of padding.
    zeros: &'a [f32],
    sums: Shared<'a, f32>,
}

/// What one thread does of it.
struct Part<'a> {
    job: &'a Job<'a>,
    /// Each a tap, [`ROWS`] of its inputs and [`STRIP`] blocks of outputs, the last counted fastest.
    items: Range<usize>,
    strips: usize,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>((part, rows): (Part<'_>, &mut [*const f32])) {
    let job = part.job;
    let groups = job.layer.inputs.div_ceil(ROWS);
    let per_tap = groups * part.strips;
    let taps = part.items.start / per_tap..(part.items.end - 1) / per_tap + 1;
    let blocks = padded(job.layer.outputs) / BLOCK;
    for start in (0..job.pixels).step_by(PIXELS) {
        let pixels = start..job.pixels.min(start + PIXELS);
        for tap in taps.clone() {
            find(job, pixels.clone(), tap, &mut rows[(tap - taps.start) * PIXELS..][..PIXELS]);
        }
        for item in part.items.clone() {
            let (tap, group, strip) = (item / per_tap, item % per_tap / part.strips, item % part.strips);
            let rows = &rows[(tap - taps.start) * PIXELS..][..pixels.len()];
            let (mut block, end) = (strip * STRIP, blocks.min((strip + 1) * STRIP));
            let inputs = group * ROWS..job.layer.inputs.min((group + 1) * ROWS);
            while block < end {
                // Vectors of several blocks lie side by side here, unlike those of packed weights.
                let some = if V > 1 { 1 } else { (end - block).min(3) };
                let place = Place { tap, block, inputs: inputs.clone(), first: start };
                match some {
                    2 if V == 1 => fitting::<S, 2, R>(job, rows, place),
                    3 if V == 1 => fitting::<S, 3, R>(job, rows, place),
                    _ => fitting::<S, V, R>(job, rows, place),
                }
                block += some;
            }
        }
    }
}

/// Writes where a tap of some pixels finds its input.
#[inline(always)]
unsafe fn find(job: &Job<'_>, pixels: Range<usize>, tap: usize, to: &mut [*const f32]) {
    let (w, [h, width], [oh, ow]) = (&job.layer.window, job.input.size, job.out);
    let (ty, tx) = (tap / w.kernel[1], tap % w.kernel[1]);
    for (to, pixel) in to.iter_mut().zip(pixels) {
        let (picture, y, x) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        // What lies before the picture wraps round to far behind it.
        let y = (y * w.stride[0] + ty * w.dilation[0]).wrapping_sub(w.before[0]);
        let x = (x * w.stride[1] + tx * w.dilation[1]).wrapping_sub(w.before[1]);
        *to = if y < h && x < width {
            job.input.data.as_ptr().add(((picture * h + y) * width + x) * job.input.stride)
        } else {
            job.zeros.as_ptr()
        };
    }
}

/// Some inputs of a tap by some outputs, and the first of the pixels that are summed.
struct Place {
    tap: usize,
    block: usize,
    inputs: Range<usize>,
    first: usize,
}

/// Does a place in tiles of `R` inputs and what is left.
#[inline(always)]
unsafe fn fitting<S: Simd, const V: usize, const R: usize>(job: &Job<'_>, rows: &[*const f32], place: Place) {
    let mut input = place.inputs.start;
    while input < place.inputs.end {
        macro_rules! heights {
            ($($h:literal)*) => {
                match place.inputs.end - input {
                    $($h if $h < R => input += tile::<S, V, $h>(job, rows, &place, input),)*
                    _ => input += tile::<S, V, R>(job, rows, &place, input),
                }
            };
        }
        heights!(1 2 3 4 5 6 7)
    }
}

/// Adds up `H` inputs by `V` vectors of outputs, and returns `H`.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const H: usize>(
    job: &Job<'_>,
    rows: &[*const f32],
    place: &Place,
    input: usize,
) -> usize {
    let width = padded(job.layer.outputs);
    let mut gradient = job.gradient.as_ptr().add(place.first * width + place.block * BLOCK);
    let mut sums = [[S::splat(0.0); V]; H];
    for row in rows {
        let row = row.add(input);
        let mut g = [S::splat(0.0); V];
        for (v, g) in g.iter_mut().enumerate() {
            *g = S::load(gradient.add(v * S::LANES));
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            let x = S::splat(*row.add(h));
            for (sum, g) in sums.iter_mut().zip(&g) {
                *sum = S::fma(x, *g, *sum);
            }
        }
        // Behind the last pixel it points past the end.
        gradient = gradient.wrapping_add(width);
    }
    for (h, sums) in sums.iter().enumerate() {
        let at = (place.tap * job.layer.inputs + input + h) * width + place.block * BLOCK;
        let to = job.sums.at(at);
        for (v, sum) in sums.iter().enumerate() {
            let to = to.add(v * S::LANES);
            S::store(to, S::add(S::load(to), *sum));
        }
    }
    H
}

/// Pixels that are summed in registers; their inputs and gradients stay in the second cache.
const PIXELS: usize = 128;
/// Inputs of an item.
const ROWS: usize = 24;
/// Blocks of outputs of an item: twice those of the widest tile.
const STRIP: usize = 6;

#[cfg(test)]
mod tests;
