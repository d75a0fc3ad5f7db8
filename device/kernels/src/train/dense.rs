//! Gradients of dense convolutions, pointwise and fully connected layers.
//!
//! What a layer computes and what its input's gradient is are both convolutions, of weights packed for [`Conv`]. The
//! gradient of the weights is a product of its own, summed in registers over the pixels of all pictures, some pixels at a
//! time, which are copied so that they lie side by side in the first cache.

use std::ops::Range;

use crate::conv::{Conv, Source};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::{BLOCK, Isa, Threads, Window, padded};

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

    /// Returns the layer for so many inputs of `size` at once, without bias and activation.
    ///
    /// # Panics
    ///
    /// If there are not as many weights as [`Dense::numbers`] says.
    pub fn forward(&self, weights: &[f32], size: [usize; 2], pictures: usize, threads: &mut Threads) -> Conv {
        let Self { window, inputs, outputs } = *self;
        assert_eq!(weights.len(), self.numbers());
        let rows = weights.as_chunks::<BLOCK>().0;
        let blocks = padded(outputs) / BLOCK;
        Conv::of_rows(window, inputs, outputs, threads, |block, tap, input| {
            rows[(tap * inputs + input) * blocks + block]
        })
        .for_inputs(size, pictures, threads)
    }

    /// Returns what makes the gradients of so many inputs of `size` at once out of those of the outputs.
    ///
    /// # Panics
    ///
    /// If there are not as many weights as [`Dense::numbers`] says, the window does not fit the input, or an output sees
    /// nothing but padding.
    pub fn backward(&self, weights: &[f32], size: [usize; 2], pictures: usize, threads: &mut Threads) -> Backward {
        let Self { window: w, inputs, outputs } = *self;
        assert_eq!(weights.len(), self.numbers());
        let out = w.output(size).expect("the window fits the input");
        // Gradients that lie as far apart as the window moves, zeros between them.
        let apart = [0, 1].map(|a| (out[a] - 1) * w.stride[a] + 1);
        let reach = [0, 1].map(|a| (w.kernel[a] - 1) * w.dilation[a]);
        let before = [0, 1].map(|a| reach[a].saturating_sub(w.before[a]));
        assert!((0..2).all(|a| w.before[a].max(w.after[a]) <= reach[a]), "expected no output of padding alone");
        let after = [0, 1].map(|a| (size[a] + reach[a]).saturating_sub(apart[a] + before[a]));
        let window = Window { stride: [1; 2], before, after, ..w };
        let (taps, width) = (self.taps(), padded(outputs));
        let conv = Conv::of_rows(window, outputs, inputs, threads, |block, tap, output| {
            let first = ((taps - 1 - tap) * inputs + block * BLOCK) * width + output;
            std::array::from_fn(|i| if block * BLOCK + i < inputs { weights[first + i * width] } else { 0.0 })
        });
        Backward { conv: conv.for_inputs(apart, pictures, threads), window: w }
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
        let (groups, blocks) = ((self.taps() * inputs).div_ceil(ROWS), width / BLOCK);
        // Few items are made more, so that threads have as much to do as each other.
        let enough = |strip: &usize| groups * blocks.div_ceil(*strip) >= 4 * threads.count();
        let strip = [STRIP, STRIP / 2].into_iter().find(enough).unwrap_or(1);
        let job = Job { layer: self, input, out, pixels, gradient, strip, sums: Shared::new(sums) };
        let strips = job.strips();
        let packed = if strips > 1 { PIXELS * width } else { 0 };
        let scratch = (PIXELS * ROWS + packed) * size_of::<f32>();
        // A thread takes some blocks of outputs of some rows of weights.
        threads.split(groups * strips, 1, scratch, &|items, scratch| {
            let part = Part { job: &job, items };
            // SAFETY: the machine has the instruction set; lengths are checked above; an item is a place in `sums` that no
            // other one has.
            unsafe { dispatch!(isa, run_part, (part, scratch.view()), (Part<'_>, &mut [f32])) }
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
    /// Returns the numbers of working memory that [`Backward::run`] needs for so many inputs of `size`.
    pub fn scratch(&self, size: [usize; 2], pictures: usize) -> usize {
        let apart = self.apart(size);
        if self.window.stride == [1; 2] { 0 } else { pictures * apart[0] * apart[1] * padded(self.conv.inputs()) }
    }

    /// Returns the size of an output with as many zeros between its pixels as the window leaves out.
    fn apart(&self, size: [usize; 2]) -> [usize; 2] {
        let out = self.window.output(size).expect("the window fits the input");
        [0, 1].map(|a| (out[a] - 1) * self.window.stride[a] + 1)
    }

    /// Writes the gradient of some pictures, `[pictures, h, w, padded(inputs)]`, out of `[pictures, out h, out w,
    /// padded(outputs)]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit, or the size is another than that it was made for, other than of a pointwise layer.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        isa: Isa,
        threads: &mut Threads,
        gradient: &[f32],
        size: [usize; 2],
        pictures: usize,
        scratch: &mut [f32],
        output: &mut [f32],
    ) {
        let (stride, apart) = (padded(self.conv.inputs()), self.apart(size));
        assert_eq!(self.conv.window().output(apart), Some(size), "expected the size that it was made for");
        let step = self.window.stride;
        if step == [1; 2] {
            let source = Source { data: gradient, size: apart, stride, edges: None };
            return self.conv.run_batch(isa, threads, source, pictures, output);
        }
        let scratch = &mut scratch[..pictures * apart[0] * apart[1] * stride];
        let [rows, columns] = [0, 1].map(|a| apart[a].div_ceil(step[a]));
        scratch.fill(0.0);
        let each = scratch.chunks_mut(apart[0] * apart[1] * stride).zip(gradient.chunks(rows * columns * stride));
        for (to, from) in each {
            for (to, from) in to.chunks_mut(apart[1] * stride * step[0]).zip(from.chunks(columns * stride)) {
                for (to, from) in to.chunks_mut(step[1] * stride).zip(from.chunks(stride)) {
                    to[..stride].copy_from_slice(from);
                }
            }
        }
        let source = Source { data: scratch, size: apart, stride, edges: None };
        self.conv.run_batch(isa, threads, source, pictures, output);
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
    /// Blocks of outputs of an item.
    strip: usize,
    /// `[rows, padded(outputs)]`, a row for each input of each tap.
    sums: Shared<'a, f32>,
}

impl Job<'_> {
    fn blocks(&self) -> usize {
        padded(self.layer.outputs) / BLOCK
    }

    /// Returns how many strips the outputs make.
    fn strips(&self) -> usize {
        self.blocks().div_ceil(self.strip)
    }

    /// Returns the place of an output's window: the first pixel of its picture, and row and column of its first tap, which
    /// wrap round where they lie before the picture.
    fn origin(&self, pixel: usize) -> [usize; 3] {
        let (w, [h, width], [oh, ow]) = (&self.layer.window, self.input.size, self.out);
        let (picture, y, x) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        let start = |axis: usize, at: usize| (at * w.stride[axis]).wrapping_sub(w.before[axis]);
        [picture * h * width, start(0, y), start(1, x)]
    }
}

/// What one thread does of it.
struct Part<'a> {
    job: &'a Job<'a>,
    /// Each some [`ROWS`] and a strip of outputs, the latter counted faster.
    items: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>((part, memory): (Part<'_>, &mut [f32])) {
    let job = part.job;
    let (strips, blocks, width) = (job.strips(), job.blocks(), padded(job.layer.outputs));
    let rows = job.layer.window.kernel[0] * job.layer.window.kernel[1] * job.layer.inputs;
    let (inputs, gradients) = memory.split_at_mut(PIXELS * ROWS);
    let mut origins = [[0; 3]; PIXELS];
    for start in (0..job.pixels).step_by(PIXELS) {
        let count = PIXELS.min(job.pixels - start);
        for (i, origin) in origins[..count].iter_mut().enumerate() {
            *origin = job.origin(start + i);
        }
        let gradient = &job.gradient[start * width..(start + count) * width];
        if strips > 1 {
            spread(gradient, width, job.strip * BLOCK, gradients);
        }
        let mut packed = usize::MAX;
        for item in part.items.clone() {
            let (group, strip) = (item / strips, item % strips);
            let range = group * ROWS..rows.min((group + 1) * ROWS);
            if packed != group {
                pack(job, &origins[..count], range.clone(), inputs);
                packed = group;
            }
            let place = Place {
                inputs: inputs.as_ptr(),
                // Of several strips each is on its own, narrower only the last.
                gradient: if strips > 1 {
                    gradients.as_ptr().add(strip * job.strip * BLOCK * count)
                } else {
                    gradient.as_ptr()
                },
                width: job.strip.min(blocks - strip * job.strip) * BLOCK,
                count,
                sums: job.sums.at(range.start * width + strip * job.strip * BLOCK),
                stride: width,
            };
            let mut block = 0;
            while block * BLOCK < place.width {
                // Three blocks of a vector each, or a block of several vectors.
                let some = if V > 1 { 1 } else { (place.width / BLOCK - block).min(3) };
                match some {
                    2 if V == 1 => fitting::<S, 2, R>(&place, range.len(), block),
                    3 if V == 1 => fitting::<S, 3, R>(&place, range.len(), block),
                    _ => fitting::<S, V, R>(&place, range.len(), block),
                }
                block += some;
            }
        }
    }
}

/// Cuts rows of `width` numbers into strips of `each`, with their part of every row.
fn spread(rows: &[f32], width: usize, each: usize, to: &mut [f32]) {
    let count = rows.len() / width;
    for start in (0..width).step_by(each) {
        let len = each.min(width - start);
        let to = to[start * count..][..len * count].as_chunks_mut::<BLOCK>().0;
        for (row, to) in rows.chunks_exact(width).zip(to.chunks_exact_mut(len / BLOCK)) {
            to.copy_from_slice(row[start..start + len].as_chunks::<BLOCK>().0);
        }
    }
}

/// Writes, for each pixel, what some rows of the weights see of the input; zeros where that is padding.
#[inline(always)]
unsafe fn pack(job: &Job<'_>, origins: &[[usize; 3]], rows: Range<usize>, to: &mut [f32]) {
    let (layer, [h, width]) = (job.layer, job.input.size);
    let w = &layer.window;
    let mut row = rows.start;
    while row < rows.end {
        let (tap, input) = (row / layer.inputs, row % layer.inputs);
        let len = (layer.inputs - input).min(rows.end - row);
        let (ty, tx) = (tap / w.kernel[1] * w.dilation[0], tap % w.kernel[1] * w.dilation[1]);
        for ([first, y, x], to) in origins.iter().zip(to.chunks_exact_mut(ROWS)) {
            let (y, x) = (y.wrapping_add(ty), x.wrapping_add(tx));
            let to = &mut to[row - rows.start..][..len];
            if y < h && x < width {
                let from = &job.input.data[(first + y * width + x) * job.input.stride + input..][..len];
                match (<&mut [f32; ROWS]>::try_from(&mut *to), <&[f32; ROWS]>::try_from(from)) {
                    // Of a length that is known it is three moves.
                    (Ok(to), Ok(from)) => *to = *from,
                    _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
                }
            } else {
                to.fill(0.0);
            }
        }
        row += len;
    }
}

/// Rows of weights by some outputs, over `count` pixels.
struct Place {
    /// `[count, ROWS]`.
    inputs: *const f32,
    /// `[count, width]`.
    gradient: *const f32,
    width: usize,
    count: usize,
    /// `[rows, stride]`.
    sums: *mut f32,
    stride: usize,
}

/// Does a block, or several, in tiles of `R` rows and what is left.
#[inline(always)]
unsafe fn fitting<S: Simd, const V: usize, const R: usize>(place: &Place, rows: usize, block: usize) {
    let mut row = 0;
    while row < rows {
        macro_rules! heights {
            ($($h:literal)*) => {
                match rows - row {
                    $($h if $h < R => row += tile::<S, V, $h>(place, row, block),)*
                    _ => row += tile::<S, V, R>(place, row, block),
                }
            };
        }
        heights!(1 2 3 4 5 6 7)
    }
}

/// Adds up `H` rows by `V` vectors of outputs, and returns `H`.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const H: usize>(place: &Place, row: usize, block: usize) -> usize {
    let mut x = place.inputs.add(row);
    let mut gradient = place.gradient.add(block * BLOCK);
    let mut sums = [[S::splat(0.0); V]; H];
    for _ in 0..place.count {
        let mut g = [S::splat(0.0); V];
        for (v, g) in g.iter_mut().enumerate() {
            *g = S::load(gradient.add(v * S::LANES));
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            let x = S::splat(*x.add(h));
            for (sum, g) in sums.iter_mut().zip(&g) {
                *sum = S::fma(x, *g, *sum);
            }
        }
        // Behind the last pixel they point past the end.
        x = x.wrapping_add(ROWS);
        gradient = gradient.wrapping_add(place.width);
    }
    let to = place.sums.add(row * place.stride + block * BLOCK);
    for (h, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            let to = to.add(h * place.stride + v * S::LANES);
            S::store(to, S::add(S::load(to), *sum));
        }
    }
    H
}

/// Pixels that are summed in registers: their inputs and gradients of an item fill three quarters of a first cache of 32 KB.
const PIXELS: usize = 48;
/// Rows of weights of an item: a multiple of what a tile of any instruction set has.
const ROWS: usize = 24;
/// Blocks of outputs of an item at most: twice those of the widest tile.
const STRIP: usize = 6;

#[cfg(test)]
mod tests;
