//! A network as a list of steps over buffers planned ahead, run by graft-kernels alone.

use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use graft_kernels::conv::{Conv, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::int8::{self, Grid, Output, Steps};
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::pool::{self, Pool};
use graft_kernels::{Activation, BLOCK, Buffer, Isa, Threads, Window};
use serde::Serialize;

use crate::network::Picture;
use crate::plan::{Extent, Layout};

/// A network ready to run. Shared freely between threads.
#[derive(Debug)]
pub(crate) struct Program {
    isa: Isa,
    steps: Vec<Step>,
    outputs: Vec<Shape>,
    /// Length of each slot, in bytes.
    slots: Vec<usize>,
    /// Bytes that a kernel's thread works in.
    scratch: usize,
    /// Threads that share the work of a picture.
    threads: usize,
    /// Memory of runs that are over, for those to come.
    idle: Mutex<Vec<State>>,
}

/// What one run writes.
#[derive(Debug)]
struct State {
    slots: Vec<Buffer<u8>>,
    threads: Threads,
}

/// An activation: pixels `stride` numbers apart, in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub slot: usize,
    pub extent: Extent,
    pub stride: usize,
    /// What its bytes stand for, or none where it is in single precision.
    pub grid: Option<Grid>,
}

impl Shape {
    /// Returns the numbers in memory, rounded up to whole blocks.
    fn len(&self) -> usize {
        (self.extent.size[0] * self.extent.size[1] * self.stride).next_multiple_of(BLOCK)
    }

    fn bytes(&self) -> usize {
        self.len() * if self.grid.is_some() { 1 } else { size_of::<f32>() }
    }
}

/// What one step of a network costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// Name of the value in the ONNX graph that the step makes; what was fused into it comes before.
    pub node: String,
    /// Which kernel ran it.
    pub kernel: &'static str,
    /// Height, width and channels of what it makes.
    pub shape: [usize; 3],
    /// The fastest of its runs, in milliseconds.
    pub ms: f64,
    /// Its part of the sum of all steps, 0 to 1.
    pub share: f64,
    /// Thousand million multiplications and additions in a second; 0 where it is not a convolution.
    pub gflops: f64,
}

/// One row of a table.
impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [h, w, c] = self.shape;
        let shape = format!("{h}x{w}x{c}");
        let (percent, ms) = (self.share * 100.0, self.ms);
        write!(f, "{:<24} {:<12} {shape:<13} {ms:8.3} ms {percent:5.1} %", self.node, self.kernel)?;
        if self.gflops > 0.0 { write!(f, " {:6.1} GFLOP/s", self.gflops) } else { Ok(()) }
    }
}

/// One kernel's work.
#[derive(Debug)]
pub(crate) struct Step {
    /// Name of the value that it makes.
    pub name: String,
    pub work: Work,
    pub from: Option<Shape>,
    /// The second operand: what a convolution or sum adds.
    pub other: Option<Shape>,
    pub to: Shape,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Work {
    /// The input's bytes to numbers, by a table for each channel.
    Normalise(Vec<[f32; 256]>),
    /// The input's bytes to bytes, by a table for each channel.
    LookUp(Vec<[u8; 256]>),
    /// The input's numbers to channels last, less the mean and over the deviation.
    Arrange {
        layout: Layout,
        mean: Vec<f32>,
        std: Vec<f32>,
    },
    /// The input's planes of numbers to bytes.
    Weave(Steps),
    Conv(Conv),
    Depthwise(Depthwise),
    Pool(Pool, Window),
    /// A sum if there is a second operand, then the function.
    Pointwise(Activation),
    /// The product by the second operand's one pixel, then the function.
    Scale(Activation),
    /// The product of two.
    Product,
    Softmax,
    ByteConv(int8::conv::Conv),
    ByteDepthwise(int8::depthwise::Depthwise),
    BytePool(Pool, Window, Steps),
    ByteAdd(Activation, Steps),
    ByteScale(Steps),
    /// Every byte by a table.
    Table(Box<[u8; 256]>),
    ToBytes(Steps),
    ToFloats,
}

impl Program {
    /// Plans the memory of steps whose every `to` is a slot of its own, numbered in order.
    pub fn new(isa: Isa, mut steps: Vec<Step>, mut outputs: Vec<Shape>) -> Self {
        let mut last: Vec<usize> = (0..steps.len()).collect();
        for (i, step) in steps.iter().enumerate() {
            step.from.iter().chain(&step.other).for_each(|s| last[s.slot] = i);
        }
        outputs.iter().for_each(|s| last[s.slot] = usize::MAX);
        let (mut slots, mut free, mut place): (Vec<usize>, Vec<usize>, Vec<usize>) = Default::default();
        for (i, step) in steps.iter().enumerate() {
            let len = step.to.bytes();
            // The smallest that holds it, else the largest, which grows least.
            let fit = (0..free.len()).min_by_key(|&f| {
                let size = slots[free[f]];
                if size >= len { (0, size) } else { (1, usize::MAX - size) }
            });
            let slot = fit.map_or_else(|| slots.len(), |f| free.swap_remove(f));
            if slot == slots.len() {
                slots.push(len);
            }
            slots[slot] = slots[slot].max(len);
            place.push(slot);
            for used in step.from.iter().chain(&step.other).chain([&step.to]).map(|s| s.slot) {
                if last[used] == i {
                    free.push(place[used]);
                    // Given back once, though a sum may read it twice.
                    last[used] = usize::MAX;
                }
            }
        }
        let moved = |s: &mut Shape| s.slot = place[s.slot];
        for step in &mut steps {
            step.from.iter_mut().chain(&mut step.other).for_each(moved);
            moved(&mut step.to);
        }
        outputs.iter_mut().for_each(moved);
        let scratch = steps.iter().map(|s| match &s.work {
            Work::Conv(c) => c.scratch(),
            Work::ByteConv(c) => c.scratch(),
            _ => 0,
        });
        let scratch = scratch.max().unwrap_or(0);
        Self { isa, steps, outputs, slots, scratch, threads: 1, idle: Mutex::default() }
    }

    /// Returns the name of the instruction set.
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Has `threads` threads share the work of a picture.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
        self.idle = Mutex::default();
    }

    /// Returns the numbers in an output.
    pub fn output_len(&self, index: usize) -> usize {
        let o = &self.outputs[index].extent;
        o.size[0] * o.size[1] * o.channels
    }

    /// Runs one picture, whose kind and length the caller has checked, and returns the outputs as `[c, h, w]`.
    pub fn run(&self, picture: Picture<'_>) -> Vec<Vec<f32>> {
        let mut state = self.state();
        for step in &self.steps {
            step.run(self.isa, &mut state, picture);
        }
        let outputs = self.outputs.iter().map(|o| planes(o, state.slots[o.slot].read())).collect();
        self.give_back(state);
        outputs
    }

    /// Times every step over `runs` runs of one picture.
    pub fn explain(&self, picture: Picture<'_>, runs: usize) -> Vec<Explained> {
        let mut state = self.state();
        let mut fastest = vec![f64::INFINITY; self.steps.len()];
        for _ in 0..runs {
            for (step, fastest) in self.steps.iter().zip(&mut fastest) {
                let start = Instant::now();
                step.run(self.isa, &mut state, picture);
                *fastest = fastest.min(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        self.give_back(state);
        let total: f64 = fastest.iter().sum();
        let each = self.steps.iter().zip(fastest).map(|(step, ms)| Explained {
            node: step.name.clone(),
            kernel: step.kernel(),
            shape: [step.to.extent.size[0], step.to.extent.size[1], step.to.extent.channels],
            ms,
            share: ms / total,
            gflops: step.multiplications() as f64 * 2.0 / ms / 1e6,
        });
        each.collect()
    }

    fn state(&self) -> State {
        let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        idle.unwrap_or_else(|| {
            let mut threads = Threads::new(self.threads);
            threads.reserve(self.scratch);
            State { slots: self.slots.iter().map(|len| Buffer::zeros(*len)).collect(), threads }
        })
    }

    fn give_back(&self, state: State) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(state);
    }
}

impl Step {
    fn run(&self, isa: Isa, state: &mut State, picture: Picture<'_>) {
        let mut memory = std::mem::take(&mut state.slots[self.to.slot]);
        let len = self.to.len();
        let mut to = match self.to.grid {
            Some(_) => Output::Bytes(&mut memory[..len]),
            None => Output::Floats(&mut memory.view()[..len]),
        };
        match &self.from {
            None => self.read(isa, &mut state.threads, picture, &mut to),
            Some(from) => self.write(isa, state, from, &mut to),
        }
        state.slots[self.to.slot] = memory;
    }

    /// Returns the multiplications that the definition needs.
    fn multiplications(&self) -> usize {
        let Extent { size, channels } = self.to.extent;
        let depth = match &self.work {
            Work::Conv(conv) => conv.depth(),
            Work::Depthwise(conv) => conv.depth(),
            Work::ByteConv(conv) => conv.depth(),
            Work::ByteDepthwise(conv) => conv.depth(),
            _ => 0,
        };
        size[0] * size[1] * channels * depth
    }

    fn kernel(&self) -> &'static str {
        match self.work {
            Work::Normalise(_) => "normalise",
            Work::LookUp(_) => "normalise u8",
            Work::Arrange { .. } => "arrange",
            Work::Weave(_) => "quantize",
            Work::Conv(_) => "conv",
            Work::Depthwise(_) => "depthwise",
            Work::Pool(..) => "pool",
            Work::Pointwise(_) => "pointwise",
            Work::Scale(_) | Work::Product => "product",
            Work::Softmax => "softmax",
            Work::ByteConv(_) => "conv u8",
            Work::ByteDepthwise(_) => "depthwise u8",
            Work::BytePool(..) => "pool u8",
            Work::ByteAdd(..) => "sum u8",
            Work::ByteScale(_) => "product u8",
            Work::Table(_) => "table u8",
            Work::ToBytes(_) => "quantize",
            Work::ToFloats => "dequantize",
        }
    }

    /// Does a step that reads the input.
    fn read(&self, isa: Isa, threads: &mut Threads, picture: Picture<'_>, to: &mut Output<'_>) {
        let (stride, channels) = (self.to.stride, self.to.extent.channels);
        match (&self.work, picture, to) {
            (Work::Normalise(tables), Picture::Bytes(bytes), Output::Floats(to)) => look_up(tables, bytes, to, stride),
            (Work::LookUp(tables), Picture::Bytes(bytes), Output::Bytes(to)) => look_up(tables, bytes, to, stride),
            (Work::Arrange { layout, mean, std }, Picture::Floats(numbers), Output::Floats(to)) => {
                arrange(*layout, numbers, mean, std, to, stride);
            }
            (Work::Weave(steps), Picture::Floats(numbers), Output::Bytes(to)) => {
                int8::pointwise::weave(isa, threads, numbers, channels, *steps, to);
            }
            _ => unreachable!("a step that reads the input fits its kind"),
        }
    }

    fn write(&self, isa: Isa, state: &mut State, shape: &Shape, to: &mut Output<'_>) {
        let State { slots, threads } = state;
        let floats = |s: &Shape| &slots[s.slot].read::<f32>()[..s.len()];
        let bytes = |s: &Shape| {
            let grid = s.grid.expect("an activation of bytes has a grid");
            (&slots[s.slot][..s.len()], grid)
        };
        let size = shape.extent.size;
        let source = || {
            let (data, grid) = bytes(shape);
            int8::Source { data, size, stride: shape.stride, grid }
        };
        let byte_wise = |threads: &mut Threads, operation, steps, to: &mut Output<'_>| {
            int8::pointwise::run(isa, threads, operation, steps, to);
        };
        match (&self.work, to) {
            (Work::Conv(conv), Output::Floats(to)) => {
                let source = Source { data: floats(shape), size, stride: shape.stride };
                conv.run(isa, threads, source, self.other.as_ref().map(floats), to);
            }
            (Work::Depthwise(conv), Output::Floats(to)) => conv.run(isa, threads, floats(shape), size, to),
            (Work::Pool(kind, window), Output::Floats(to)) => {
                pool::run(isa, threads, *kind, window, floats(shape), size, shape.stride, to);
            }
            (Work::Pointwise(activation), Output::Floats(to)) => {
                let operation = self.other.as_ref().map_or(Pointwise::Nothing, |o| Pointwise::Add(floats(o)));
                pointwise::run(isa, threads, floats(shape), operation, *activation, to);
            }
            (Work::Scale(activation), Output::Floats(to)) => {
                let factors = self.other.as_ref().map(floats).unwrap_or_default();
                pointwise::run(isa, threads, floats(shape), Pointwise::Scale(factors), *activation, to);
            }
            (Work::Product, Output::Floats(to)) => {
                let factors = self.other.as_ref().map(floats).unwrap_or_default();
                for ((to, a), b) in to.iter_mut().zip(floats(shape)).zip(factors) {
                    *to = a * b;
                }
            }
            (Work::Softmax, Output::Floats(to)) => {
                let logits = &floats(shape)[..shape.extent.channels];
                to[..logits.len()].copy_from_slice(&crate::network::softmax(logits));
            }
            (Work::ByteConv(conv), to) => conv.run(threads, source(), self.other.as_ref().map(bytes), to),
            (Work::ByteDepthwise(conv), Output::Bytes(to)) => conv.run(threads, source(), to),
            (Work::BytePool(kind, window, steps), Output::Bytes(to)) => {
                int8::pool::run(isa, threads, *kind, window, source(), *steps, to);
            }
            (Work::ByteAdd(activation, steps), to) => {
                let b = self.other.as_ref().map(bytes).expect("a sum has two operands");
                let operation = int8::pointwise::Pointwise::Add { a: bytes(shape), b, activation: *activation };
                byte_wise(threads, operation, Some(*steps), to);
            }
            (Work::ByteScale(steps), to) => {
                let b = self.other.as_ref().map(bytes).expect("a product has two operands");
                byte_wise(threads, int8::pointwise::Pointwise::Scale { a: bytes(shape), b }, Some(*steps), to);
            }
            (Work::Table(table), Output::Bytes(to)) => int8::pointwise::look_up(threads, table, bytes(shape).0, to),
            (Work::ToBytes(steps), to) => {
                byte_wise(threads, int8::pointwise::Pointwise::Floats(floats(shape)), Some(*steps), to);
            }
            (Work::ToFloats, to) => {
                let (data, grid) = bytes(shape);
                byte_wise(threads, int8::pointwise::Pointwise::Bytes(data, grid), None, to);
            }
            _ => unreachable!("a step writes the kind of its kernel"),
        }
    }
}

fn look_up<T: Copy>(tables: &[[T; 256]], bytes: &[u8], to: &mut [T], stride: usize) {
    for (pixel, out) in bytes.chunks_exact(tables.len()).zip(to.chunks_exact_mut(stride)) {
        for ((value, byte), table) in out.iter_mut().zip(pixel).zip(tables) {
            *value = table[usize::from(*byte)];
        }
    }
}

/// Brings the channels of each pixel together, less the mean and over the deviation.
fn arrange(layout: Layout, numbers: &[f32], mean: &[f32], std: &[f32], to: &mut [f32], stride: usize) {
    let channels = mean.len();
    let pixels = numbers.len() / channels;
    let (pixel, channel) = match layout {
        Layout::ChannelsLast => (channels, 1),
        Layout::Planes => (1, pixels),
    };
    for c in 0..channels {
        let from = numbers[c * channel..].iter().step_by(pixel);
        let to = to[c..].iter_mut().step_by(stride);
        // Most graphs have the numbers normalised before.
        if (mean[c], std[c]) == (0.0, 1.0) {
            to.zip(from).take(pixels).for_each(|(to, from)| *to = *from);
        } else {
            to.zip(from).take(pixels).for_each(|(to, from)| *to = (from - mean[c]) / std[c]);
        }
    }
}

fn planes(shape: &Shape, numbers: &[f32]) -> Vec<f32> {
    let Extent { size, channels } = shape.extent;
    let pixels = size[0] * size[1];
    let mut planes = Vec::with_capacity(pixels * channels);
    for c in 0..channels {
        planes.extend((0..pixels).map(|p| numbers[p * shape.stride + c]));
    }
    planes
}
