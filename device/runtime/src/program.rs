//! A network as a list of steps over buffers planned ahead, run by graft-kernels alone.

use std::sync::Mutex;
use std::time::Instant;

use graft_kernels::conv::{Conv, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::pool::{self, Pool};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window};
use serde::Serialize;

/// A network ready to run. Shared freely between threads.
#[derive(Debug)]
pub(crate) struct Program {
    isa: Isa,
    steps: Vec<Step>,
    outputs: Vec<Shape>,
    /// Length of each slot, in numbers.
    slots: Vec<usize>,
    /// Bytes that a kernel's thread works in.
    scratch: usize,
    /// Memory of runs that are over, for those to come.
    idle: Mutex<Vec<State>>,
}

/// What one run writes.
#[derive(Debug)]
struct State {
    slots: Vec<Buffer>,
    threads: Threads,
}

/// An activation: `[h, w]` pixels of `channels` numbers, `stride` apart, in a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub slot: usize,
    pub size: [usize; 2],
    pub channels: usize,
    pub stride: usize,
}

impl Shape {
    pub fn len(&self) -> usize {
        self.size[0] * self.size[1] * self.stride
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
    /// The picture's bytes to numbers, by a table for each channel.
    Normalise(Box<[[f32; 256]; 3]>),
    Conv(Conv),
    Depthwise(Depthwise),
    Pool(Pool, Window),
    /// A sum if there is a second operand, then the function.
    Pointwise(Activation),
}

impl Program {
    /// Plans the memory of steps whose every `to` is a slot of its own, numbered in order.
    pub fn new(mut steps: Vec<Step>, mut outputs: Vec<Shape>) -> Self {
        let mut last: Vec<usize> = (0..steps.len()).collect();
        for (i, step) in steps.iter().enumerate() {
            step.from.iter().chain(&step.other).for_each(|s| last[s.slot] = i);
        }
        outputs.iter().for_each(|s| last[s.slot] = usize::MAX);
        let (mut slots, mut free, mut place): (Vec<usize>, Vec<usize>, Vec<usize>) = Default::default();
        for (i, step) in steps.iter().enumerate() {
            let len = step.to.len();
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
        let scratch = steps.iter().map(|s| if let Work::Conv(c) = &s.work { c.scratch() } else { 0 }).max();
        Self { isa: Isa::best(), steps, outputs, slots, scratch: scratch.unwrap_or(0), idle: Mutex::default() }
    }

    /// Returns the name of the instruction set.
    pub fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Returns the numbers in an output.
    pub fn output_len(&self, index: usize) -> usize {
        let o = &self.outputs[index];
        o.size[0] * o.size[1] * o.channels
    }

    /// Runs one picture, `u8 [h, w, 3]`, and returns the outputs as `[c, h, w]`.
    pub fn run(&self, pixels: &[u8]) -> Vec<Vec<f32>> {
        let mut state = self.state();
        for step in &self.steps {
            step.run(self.isa, &mut state, pixels);
        }
        let outputs = self.outputs.iter().map(|o| planes(o, &state.slots[o.slot])).collect();
        self.give_back(state);
        outputs
    }

    /// Times every step over `runs` runs of one picture.
    pub fn explain(&self, pixels: &[u8], runs: usize) -> Vec<Explained> {
        let mut state = self.state();
        let mut fastest = vec![f64::INFINITY; self.steps.len()];
        for _ in 0..runs {
            for (step, fastest) in self.steps.iter().zip(&mut fastest) {
                let start = Instant::now();
                step.run(self.isa, &mut state, pixels);
                *fastest = fastest.min(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        self.give_back(state);
        let total: f64 = fastest.iter().sum();
        let each = self.steps.iter().zip(fastest).map(|(step, ms)| Explained {
            node: step.name.clone(),
            kernel: step.kernel(),
            shape: [step.to.size[0], step.to.size[1], step.to.channels],
            ms,
            share: ms / total,
            gflops: step.multiplications() as f64 * 2.0 / ms / 1e6,
        });
        each.collect()
    }

    fn state(&self) -> State {
        let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        idle.unwrap_or_else(|| {
            let mut threads = Threads::new(1);
            threads.reserve(self.scratch);
            State { slots: self.slots.iter().map(|len| Buffer::zeros(*len)).collect(), threads }
        })
    }

    fn give_back(&self, state: State) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(state);
    }
}

impl Step {
    fn run(&self, isa: Isa, state: &mut State, pixels: &[u8]) {
        let mut to = std::mem::take(&mut state.slots[self.to.slot]);
        self.write(isa, state, pixels, &mut to[..self.to.len()]);
        state.slots[self.to.slot] = to;
    }

    /// Returns the multiplications that the definition needs.
    fn multiplications(&self) -> usize {
        let outputs = self.to.size[0] * self.to.size[1] * self.to.channels;
        match &self.work {
            Work::Conv(conv) => outputs * conv.depth(),
            Work::Depthwise(conv) => outputs * conv.depth(),
            _ => 0,
        }
    }

    fn kernel(&self) -> &'static str {
        match self.work {
            Work::Normalise(_) => "normalise",
            Work::Conv(_) => "conv",
            Work::Depthwise(_) => "depthwise",
            Work::Pool(..) => "pool",
            Work::Pointwise(_) => "pointwise",
        }
    }

    fn write(&self, isa: Isa, state: &mut State, pixels: &[u8], to: &mut [f32]) {
        let State { slots, threads } = state;
        let numbers = |s: &Shape| &slots[s.slot][..s.len()];
        let other = self.other.as_ref().map(numbers);
        let Some(shape) = &self.from else {
            if let Work::Normalise(table) = &self.work {
                normalise(table, pixels, to, self.to.stride);
            }
            return;
        };
        let from = numbers(shape);
        match &self.work {
            Work::Normalise(_) => {}
            Work::Conv(conv) => {
                let source = Source { data: from, size: shape.size, stride: shape.stride };
                conv.run(isa, threads, source, other, to);
            }
            Work::Depthwise(conv) => conv.run(isa, threads, from, shape.size, to),
            Work::Pool(kind, window) => pool::run(isa, threads, *kind, window, from, shape.size, shape.stride, to),
            Work::Pointwise(activation) => {
                let operation = other.map_or(Pointwise::Nothing, Pointwise::Add);
                pointwise::run(isa, threads, from, operation, *activation, to);
            }
        }
    }
}

fn normalise(table: &[[f32; 256]; 3], pixels: &[u8], to: &mut [f32], stride: usize) {
    for (pixel, out) in pixels.as_chunks::<3>().0.iter().zip(to.chunks_exact_mut(stride)) {
        for ((value, byte), channel) in out.iter_mut().zip(pixel).zip(table) {
            *value = channel[usize::from(*byte)];
        }
    }
}

fn planes(shape: &Shape, numbers: &[f32]) -> Vec<f32> {
    let pixels = shape.size[0] * shape.size[1];
    let mut planes = Vec::with_capacity(pixels * shape.channels);
    for c in 0..shape.channels {
        planes.extend((0..pixels).map(|p| numbers[p * shape.stride + c]));
    }
    planes
}
