//! Dense convolution, pointwise and fully connected layers in f32: one indirect matrix product.
//!
//! A tile of output pixels by channels is summed in registers, over rows of input pixels that are never copied. Pixels at equal
//! distances, as of pointwise layers, are reached by steps; others by a table that says where each tap of the window finds
//! its pixel, a row of zeros where it falls on padding. Windows of 3x3 may go by Winograd's method instead.
//!
//! # Source
//!
//! Dukhan, *The Indirect Convolution Algorithm*, arXiv:1907.02129.

mod tile;
mod winograd;

use std::mem::MaybeUninit;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::activation::{Activation, close};
use crate::exchange::Shared;
use crate::simd::{Simd, dispatch};
use crate::store::{Store, Stores, count};
use crate::taps::{TILE, Taps};
use crate::{BLOCK, Buffer, Isa, Threads, Window, padded};
use tile::{Even, Product, Table, multiply, together};
use winograd::run_tiles;

/// A convolution with its weights packed.
#[derive(Debug, Clone)]
pub struct Conv {
    window: Window,
    /// Channels of a tap that are multiplied.
    inputs: usize,
    outputs: usize,
    method: Method,
    weights: Store,
    /// `[padded(outputs)]`.
    bias: Store,
    /// A pixel of padding.
    zeros: Buffer,
    activation: Activation,
}

/// How it is computed, and what its weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Method {
    /// By definition; `[padded(outputs) / BLOCK, taps, inputs, BLOCK]`.
    Direct,
    /// `[places, padded(outputs) / BLOCK, inputs, BLOCK]`.
    Winograd,
}

/// What a convolution is, but for its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Form {
    window: Window,
    inputs: usize,
    outputs: usize,
    method: Method,
    activation: Activation,
}

/// An activation that is read: `[h, w]` pixels of `stride` numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Row-major pixels.
    pub data: &'a [f32],
    /// Height and width.
    pub size: [usize; 2],
    /// Numbers from one pixel to the next.
    pub stride: usize,
    /// Rows of padding above and below instead of the window's own, where these are some rows of a picture.
    pub edges: Option<[usize; 2]>,
}

impl Conv {
    /// Packs weights `[outputs, inputs, kernel h, kernel w]`, row-major, and a bias `[outputs]`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit each other.
    pub fn new(weights: &[f32], bias: &[f32], window: Window, activation: Activation) -> Self {
        let outputs = bias.len();
        let taps = window.kernel[0] * window.kernel[1];
        assert!(outputs > 0 && taps > 0 && weights.len().is_multiple_of(outputs * taps), "weights do not fit");
        let inputs = weights.len() / (outputs * taps);
        let depth = taps * inputs;
        let blank = vec![0.0; depth];
        let own = |o| if o < outputs { &weights[o * depth..(o + 1) * depth] } else { &blank[..] };
        let pack = |rows: &mut [MaybeUninit<[f32; BLOCK]>]| {
            for (block, rows) in rows.chunks_exact_mut(depth).enumerate() {
                let own: [&[f32]; BLOCK] = std::array::from_fn(|o| own(block * BLOCK + o));
                for (tap, rows) in rows.chunks_exact_mut(inputs).enumerate() {
                    for (i, row) in rows.iter_mut().enumerate() {
                        let at = i * taps + tap;
                        // SAFETY: `at` is less than `inputs * taps`, which each of them is long.
                        row.write(own.map(|own| unsafe { *own.get_unchecked(at) }));
                    }
                }
            }
        };
        // SAFETY: the rows are as many as the blocks' depths together, and each is written.
        let weights = unsafe { Buffer::written(padded(outputs) / BLOCK * depth, pack) }.into();
        let mut padded_bias = Buffer::zeros(padded(outputs));
        padded_bias[..outputs].copy_from_slice(bias);
        let (zeros, bias) = (Buffer::zeros(inputs), padded_bias.into());
        Self { window, inputs, outputs, method: Method::Direct, weights, bias, zeros, activation }
    }

    /// Packs weights that `row` gives, those of [`BLOCK`] outputs at once: `row(block, tap, input)`. No bias, no activation.
    pub(crate) fn of_rows(
        window: Window,
        inputs: usize,
        outputs: usize,
        threads: &mut Threads,
        row: impl Fn(usize, usize, usize) -> [f32; BLOCK] + Sync,
    ) -> Self {
        let taps = window.kernel[0] * window.kernel[1];
        let blocks = padded(outputs) / BLOCK;
        let pack = |rows: &mut [MaybeUninit<[f32; BLOCK]>]| {
            let rows = Shared::new(rows);
            threads.split(blocks, 1, 0, &|blocks, _| {
                for (block, tap) in blocks.flat_map(|block| (0..taps).map(move |tap| (block, tap))) {
                    for input in 0..inputs {
                        // SAFETY: a row of a block, and a block is one thread's alone.
                        unsafe { (*rows.at((block * taps + tap) * inputs + input)).write(row(block, tap, input)) };
                    }
                }
            });
        };
        // SAFETY: the rows are as many as the blocks' depths together, and each is written.
        let weights = unsafe { Buffer::written(blocks * taps * inputs, pack) }.into();
        let (zeros, bias) = (Buffer::zeros(inputs), Buffer::zeros(padded(outputs)).into());
        let activation = Activation::NONE;
        Self { window, inputs, outputs, method: Method::Direct, weights, bias, zeros, activation }
    }

    /// Takes it apart: what it is, and the memory of its numbers in turn.
    pub fn apart(&self) -> (Form, Vec<&[u8]>) {
        let Self { window, inputs, outputs, method, activation, .. } = *self;
        (Form { window, inputs, outputs, method, activation }, vec![self.weights.bytes(), self.bias.bytes()])
    }

    /// Puts one together from what [`Conv::apart`] gave; none where the form is of no convolution, or there are fewer
    /// numbers than it needs.
    pub fn whole(form: Form, numbers: &mut Stores) -> Option<Self> {
        let Form { window, inputs, outputs, method, activation } = form;
        let (taps, width) = (window.taps_in_all()?, outputs.checked_next_multiple_of(BLOCK)?);
        let places = match method {
            Method::Direct => taps,
            Method::Winograd => winograd::places(window, inputs)?,
        };
        (inputs > 0 && outputs > 0).then_some(())?;
        let weights = numbers.take(count(&[width, places, inputs])?)?;
        let bias = numbers.take(width)?;
        Some(Self { window, inputs, outputs, method, weights, bias, zeros: Buffer::zeros(inputs), activation })
    }

    /// Settles on the method that is fastest for inputs of `size`. Inputs of any other are still computed.
    ///
    /// A 3x3 window that moves by one pixel is computed by Winograd's method where the picture has tiles enough to make up
    /// for reading four times as many weights, and where those stay below 10 MB.
    #[must_use]
    pub fn for_input(self, size: [usize; 2]) -> Self {
        self.for_inputs(size, 1, &mut Threads::new(1))
    }

    /// Settles on the method that is fastest for so many pictures of `size` at once.
    #[must_use]
    pub fn for_inputs(mut self, size: [usize; 2], pictures: usize, threads: &mut Threads) -> Self {
        if self.method == Method::Direct && winograd::pays(&self, size, pictures) {
            self.weights = winograd::weights(&self, threads).into();
            self.method = Method::Winograd;
        }
        self
    }

    /// Returns the bytes of working memory that a thread needs.
    pub fn scratch(&self) -> usize {
        match self.method {
            Method::Direct => (PIXELS * self.window.kernel[0] * self.window.kernel[1] + TILE) * size_of::<*const f32>(),
            Method::Winograd => winograd::scratch(self),
        }
    }

    /// Returns its window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Returns the number of input channels.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the number of output channels.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the multiplications in one number of the output.
    pub fn depth(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1] * self.inputs
    }

    /// Returns the function that closes it.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Returns the function that closes it, to be changed.
    pub fn activation_mut(&mut self) -> &mut Activation {
        &mut self.activation
    }

    /// Computes `activation(conv(input) + bias + residual)` into `[h, w, padded(outputs)]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run(
        &self,
        isa: Isa,
        threads: &mut Threads,
        input: Source<'_>,
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        self.run_all(isa, threads, input, 1, residual, output);
    }

    /// Computes so for several pictures, one after the other in `input` and `output`, but with weights read for all at once.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn run_batch(&self, isa: Isa, threads: &mut Threads, input: Source<'_>, pictures: usize, output: &mut [f32]) {
        // A table of places is made for each picture where there is one for few outputs alone.
        if self.method == Method::Direct && self.inputs < BLOCK {
            let size = self.window.output(input.size).expect("the window fits the input");
            let (from, to) = (input.size[0] * input.size[1] * input.stride, size[0] * size[1] * padded(self.outputs));
            assert!(input.data.len() >= pictures * from && output.len() >= pictures * to);
            for (data, output) in input.data.chunks_exact(from).zip(output.chunks_exact_mut(to)).take(pictures) {
                self.run_all(isa, threads, Source { data, ..input }, 1, None, output);
            }
        } else {
            self.run_all(isa, threads, input, pictures, None, output);
        }
    }

    fn run_all(
        &self,
        isa: Isa,
        threads: &mut Threads,
        input: Source<'_>,
        pictures: usize,
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let window = self.window.over(input.edges);
        let size = window.output(input.size).expect("the window fits the input");
        let pixels = pictures * size[0] * size[1];
        let width = padded(self.outputs);
        assert!(input.stride >= self.inputs);
        assert!(input.data.len() >= pictures * input.size[0] * input.size[1] * input.stride);
        assert!(output.len() >= pixels * width && residual.is_none_or(|r| r.len() >= pixels * width));
        assert!(isa.is_available());
        let job = Job { conv: self, window, input, size, residual, output: Shared::new(output) };
        if self.method == Method::Winograd {
            threads.split(pictures * winograd::tiles(size), 1, self.scratch(), &|tiles, scratch| {
                let part = winograd::Part { job: &job, tiles };
                // SAFETY: the machine has the instruction set; lengths are checked above; the tiles of the threads are
                // disjoint, and so are the pixels that they write.
                unsafe { dispatch!(isa, run_tiles, (part, scratch.view()), (winograd::Part<'_>, &mut [f32])) }
            });
            return;
        }
        // One pixel is split by channels, many by pixels.
        let blocks = width / BLOCK;
        let by_channel = pixels < 4 * threads.count();
        threads.split(if by_channel { blocks } else { pixels }, 1, self.scratch(), &|range, scratch| {
            let (pixels, blocks) = if by_channel { (0..pixels, range) } else { (range, 0..blocks) };
            let part = Part { job: &job, pixels, blocks };
            // SAFETY: the machine has the instruction set; lengths are checked above; the ranges of the threads are
            // disjoint, in pixels or in blocks of channels, so no place is written twice.
            unsafe { dispatch!(isa, run_part, (part, scratch.view()), (Part<'_>, &mut [*const f32])) }
        });
    }
}

/// One call of [`Conv::run`], its lengths checked.
struct Job<'a> {
    conv: &'a Conv,
    window: Window,
    input: Source<'a>,
    /// Of the output.
    size: [usize; 2],
    residual: Option<&'a [f32]>,
    output: Shared<'a, f32>,
}

/// What one thread does of it.
struct Part<'a> {
    job: &'a Job<'a>,
    pixels: Range<usize>,
    blocks: Range<usize>,
}

#[inline(always)]
unsafe fn run_part<S: Simd, const V: usize, const R: usize>((part, rows): (Part<'_>, &mut [*const f32])) {
    let (job, conv) = (part.job, part.job.conv);
    let taps = conv.window.kernel[0] * conv.window.kernel[1];
    assert!(rows.len() >= PIXELS * taps + TILE);
    let width = padded(conv.outputs);
    let product = Product {
        taps: conv.window.kernel,
        inputs: conv.inputs,
        weights: conv.weights.as_ptr(),
        bias: conv.bias.as_ptr(),
        residual: job.residual.map(<[f32]>::as_ptr),
        bounds: conv.activation.bounds(),
        output: job.output.at(0),
        width,
    };
    // Few weights stay in the cache and meet one tile after the other, which is written whole; many meet a batch of
    // tiles, of which the inputs stay in the cache.
    let limit = if size_of_val(&*conv.weights) <= SMALL { R } else { PIXELS };
    let layout = Layout::of(job);
    let places = {
        let Source { data, size, stride, .. } = job.input;
        Taps::new(job.window, data.as_ptr(), size, stride, job.size, conv.zeros.as_ptr())
    };
    let mut at = part.pixels.start;
    while at < part.pixels.end {
        let (left, even) = layout.run_at(job, at, part.pixels.end - at);
        let count = left.div_ceil(left.div_ceil(limit));
        // Tiles of equal height: 49 pixels are seven tiles of seven rather than six of eight and one of one.
        let tiles = count.div_ceil(R);
        if even.is_none() {
            for tile in 0..tiles {
                let pixels = tile * count / tiles..(tile + 1) * count / tiles;
                places.find(at + pixels.start, pixels.len(), rows[pixels.start * taps..].as_mut_ptr());
            }
        }
        let mut block = part.blocks.start;
        while block < part.blocks.end {
            let blocks = together::<V>(part.blocks.end - block);
            for tile in 0..tiles {
                let (start, end) = (tile * count / tiles, (tile + 1) * count / tiles);
                let (pixel, height) = (at + start, end - start);
                if let Some(even) = even {
                    multiply::<S, V, R>(&product, height, even.after(start), pixel, block, blocks);
                } else {
                    let table = Table { rows: rows.as_ptr().add(start * taps), taps: conv.window.kernel[1] };
                    multiply::<S, V, R>(&product, height, table, pixel, block, blocks);
                }
                // The product has kept to bounds already.
                if !matches!(conv.activation, Activation::Clamp { .. }) {
                    for pixel in pixel..pixel + height {
                        let out = job.output.at(pixel * width + block * BLOCK);
                        close::<S, V>(out, blocks * BLOCK, conv.activation);
                    }
                }
            }
            block += blocks;
        }
        at += count;
    }
}

/// How the outputs fall into runs of pixels that lie at equal distances and see no padding.
enum Layout {
    /// All of them are one run.
    Point,
    /// The columns within are, of the rows within.
    Inside([Range<usize>; 2]),
    /// Not used: addresses are looked up in a table, which costs little where a tap has many channels.
    Table,
}

impl Layout {
    fn of(job: &Job<'_>) -> Self {
        let w = &job.window;
        if *w == Window::POINT {
            Self::Point
        } else if job.conv.inputs < BLOCK {
            Self::Inside([0, 1].map(|axis| w.inside(axis, job.input.size[axis], job.size[axis])))
        } else {
            Self::Table
        }
    }

    /// Returns how many pixels from `at` on, of `left`, are alike, and where they lie if that is at equal distances.
    unsafe fn run_at(&self, job: &Job<'_>, at: usize, left: usize) -> (usize, Option<Even>) {
        let (w, stride) = (&job.window, job.input.stride);
        let data = job.input.data.as_ptr();
        match self {
            Self::Point => (left, Some(Even { start: data.add(at * stride), step: stride, tap: [0; 2] })),
            Self::Table => (left, None),
            Self::Inside([rows, columns]) => {
                let (y, x) = (at / job.size[1], at % job.size[1]);
                if !rows.contains(&y) || x >= columns.end {
                    return (left.min(job.size[1] - x), None);
                }
                if x < columns.start {
                    return (left.min(columns.start - x), None);
                }
                let first = w.pixel(0, y, 0) * job.input.size[1] + w.pixel(1, x, 0);
                let even = Even {
                    start: data.add(first * stride),
                    step: w.stride[1] * stride,
                    tap: [w.dilation[0] * job.input.size[1] * stride, w.dilation[1] * stride],
                };
                (left.min(columns.end - x), Some(even))
            }
        }
    }
}

/// Pixels whose input rows are looked up together; their inputs stay in the cache while the weights pass by.
const PIXELS: usize = 96;
/// Bytes of weights that stay in the first cache beside a tile's inputs.
const SMALL: usize = 24 << 10;

#[cfg(test)]
pub(crate) mod tests;
