//! A network as a list of steps over buffers planned ahead, run by graft-kernels alone.

use std::fmt;
use std::sync::Mutex;
use std::time::Instant;

use graft_kernels::int8::{Grid, Output};
use graft_kernels::{BLOCK, Buffer, Isa, Threads};
use serde::Serialize;

use crate::band::{self, Bands};
use crate::network::Picture;
use crate::plan::Extent;
use crate::work::{Numbers, Operand, Work};

/// A network ready to run. Shared freely between threads.
#[derive(Debug)]
pub(crate) struct Program {
    isa: Isa,
    steps: Vec<Step>,
    outputs: Vec<Shape>,
    /// Length of each slot, in bytes.
    slots: Vec<usize>,
    /// Bytes of the bands between the links of a step.
    bands: [usize; band::BETWEEN],
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
    bands: Bands,
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

    /// Returns the bytes that they take.
    pub fn bytes(&self) -> usize {
        self.len() * if self.grid.is_some() { 1 } else { size_of::<f32>() }
    }
}

/// What one step of a network costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// Name of the value in the ONNX graph that the step makes; what was fused into it comes before.
    pub node: String,
    /// Which kernel ran it, or which in a row.
    pub kernel: String,
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
        write!(f, "{:<24} {:<24} {shape:<13} {ms:8.3} ms {percent:5.1} %", self.node, self.kernel)?;
        if self.gflops > 0.0 { write!(f, " {:6.1} GFLOP/s", self.gflops) } else { Ok(()) }
    }
}

/// One kernel's work, or that of a few in a row.
#[derive(Debug)]
pub(crate) struct Step {
    /// Name of the value that it makes.
    pub name: String,
    /// Each reads what the one before makes.
    pub links: Vec<Link>,
    pub from: Option<Shape>,
    /// The second operand of the last: what a convolution or sum adds.
    pub other: Option<Shape>,
    pub to: Shape,
}

/// One kernel's work in a step, and what it makes.
#[derive(Debug)]
pub(crate) struct Link {
    pub work: Work,
    pub extent: Extent,
    pub stride: usize,
    pub grid: Option<Grid>,
}

impl Link {
    /// Returns the numbers of a row of what it makes.
    pub fn line(&self) -> usize {
        self.extent.size[1] * self.stride
    }

    /// Returns the bytes of a row of what it makes.
    pub fn line_bytes(&self) -> usize {
        self.line() * if self.grid.is_some() { 1 } else { size_of::<f32>() }
    }
}

impl Program {
    /// Plans the memory of steps whose every `to` is a slot of its own, numbered in order.
    pub fn new(isa: Isa, steps: Vec<Step>, mut outputs: Vec<Shape>) -> Self {
        let mut steps = band::fuse(steps, &mut outputs);
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
        Self::placed(isa, steps, outputs)
    }

    /// Takes steps whose slots are settled, and gives each slot the memory that it needs.
    pub fn placed(isa: Isa, steps: Vec<Step>, outputs: Vec<Shape>) -> Self {
        let count = steps.iter().map(|s| s.to.slot + 1).max().unwrap_or(0);
        let mut slots = vec![0; count];
        steps.iter().for_each(|s| slots[s.to.slot] = s.to.bytes().max(slots[s.to.slot]));
        let scratch = steps.iter().flat_map(|s| &s.links).map(|l| l.work.scratch()).max().unwrap_or(0);
        let bands = band::bytes(&steps);
        Self { isa, steps, outputs, slots, bands, scratch, threads: 1, idle: Mutex::default() }
    }

    /// Returns the steps and the outputs.
    pub fn parts(&self) -> (&[Step], &[Shape]) {
        (&self.steps, &self.outputs)
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

    /// Returns the bytes that one picture at a time needs besides the weights: activations, and what kernels work in.
    pub fn working(&self) -> usize {
        self.slots.iter().chain(&self.bands).sum::<usize>() + self.scratch * self.threads
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
            let slots = self.slots.iter().map(|len| Buffer::zeros(*len)).collect();
            State { slots, bands: self.bands.map(Buffer::zeros), threads }
        })
    }

    fn give_back(&self, state: State) {
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(state);
    }
}

impl Step {
    fn run(&self, isa: Isa, state: &mut State, picture: Picture<'_>) {
        let mut memory = std::mem::take(&mut state.slots[self.to.slot]);
        let mut to = output(&mut memory, self.to.grid, 0..self.to.len());
        let State { slots, bands, threads } = state;
        let operand = |s: &Shape| {
            let memory = &slots[s.slot];
            let numbers = match s.grid {
                Some(grid) => Numbers::Bytes(&memory[..s.len()], grid),
                None => Numbers::Floats(&memory.read()[..s.len()]),
            };
            Operand { numbers, size: s.extent.size, channels: s.extent.channels, stride: s.stride, edges: None }
        };
        let other = self.other.as_ref().map(operand);
        match (&self.from, &self.links[..]) {
            (None, [link]) => link.work.read(isa, threads, picture, self.to.extent.channels, self.to.stride, &mut to),
            (Some(from), [link]) => link.work.run(isa, threads, operand(from), other, &mut to),
            (Some(from), links) => band::run(links, isa, threads, bands, operand(from), other, &mut to),
            (None, _) => unreachable!("what reads the input is a step of its own"),
        }
        state.slots[self.to.slot] = memory;
    }

    /// Returns the multiplications that the definition needs.
    fn multiplications(&self) -> usize {
        let of = |link: &Link| {
            let Extent { size, channels } = link.extent;
            size[0] * size[1] * channels * link.work.depth()
        };
        self.links.iter().map(of).sum()
    }

    fn kernel(&self) -> String {
        self.links.iter().map(|link| link.work.kernel()).collect::<Vec<_>>().join(" + ")
    }
}

/// Returns a part of memory to be written, as what it is to hold.
pub(crate) fn output(memory: &mut Buffer<u8>, grid: Option<Grid>, range: std::ops::Range<usize>) -> Output<'_> {
    match grid {
        Some(_) => Output::Bytes(&mut memory[range]),
        None => Output::Floats(&mut memory.view()[range]),
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
