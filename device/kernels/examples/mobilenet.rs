//! Runs the layers of MobileNetV2 (width 1, 224 x 224) on data of its own each, to compare what machines make of them.
//!
//! ```text
//! mobilenet f32|int8 [ISA]
//! ```
//!
//! Prints the instruction set and a digest of the bytes, or numbers, that came out: the digest of `int8` is the same on
//! every machine. `shapes` times.

use std::process::ExitCode;

use graft_kernels::int8::{self, Closing, Grid, Output, Steps};
use graft_kernels::pool::{self, Pool};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window, conv, depthwise, padded};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut kind, mut isa) = (None, Isa::best());
    for argument in &arguments {
        if let Some(found) = Isa::available().into_iter().find(|i| i.name() == argument) {
            isa = found;
        } else {
            kind = Some(argument.as_str());
        }
    }
    let digest = match kind {
        Some("f32") => floats(isa),
        Some("int8") => bytes(isa),
        _ => {
            let isas: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
            eprintln!("expected f32 or int8, and one of {}; found {arguments:?}", isas.join(", "));
            return ExitCode::from(2);
        }
    };
    println!("{} {digest:016x}", isa.name());
    ExitCode::SUCCESS
}

/// A convolution with as many outputs as inputs a group, or the mean of all pixels.
#[derive(Clone, Copy)]
struct Layer {
    kind: Kind,
    side: usize,
    stride: usize,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The first, of a picture with four numbers a pixel.
    Picture,
    Expand,
    Depthwise,
    Project,
    /// With the block's input added.
    ProjectOnto,
    Mean,
    Classify,
}

impl Layer {
    fn window(&self) -> Window {
        match self.kind {
            Kind::Picture | Kind::Depthwise => {
                Window { kernel: [3; 2], stride: [self.stride; 2], dilation: [1; 2], before: [1; 2], after: [1; 2] }
            }
            Kind::Mean => Window { kernel: [self.side; 2], ..Window::POINT },
            _ => Window::POINT,
        }
    }

    fn size(&self) -> [usize; 2] {
        [self.side; 2]
    }

    /// Numbers from one pixel of the input to the next.
    fn step(&self) -> usize {
        if self.kind == Kind::Picture { 4 } else { padded(self.inputs) }
    }

    /// Numbers of the input and of the output.
    fn lens(&self) -> [usize; 2] {
        let [h, w] = self.window().output(self.size()).expect("a window that fits");
        [self.side * self.side * self.step(), h * w * padded(self.outputs)]
    }

    /// Multiplications in one number of the output.
    fn depth(&self) -> usize {
        match self.kind {
            Kind::Picture => 27,
            Kind::Depthwise => 9,
            _ => self.inputs,
        }
    }
}

fn layers() -> Vec<Layer> {
    let mut all = Vec::new();
    let (mut side, mut inputs) = (224, 3);
    let mut push = |kind, stride, inputs, outputs| {
        let layer = Layer { kind, side, stride, inputs, outputs };
        side = layer.window().output(layer.size()).expect("a window that fits")[0];
        all.push(layer);
        outputs
    };
    inputs = push(Kind::Picture, 2, inputs, 32);
    for (expansion, outputs, count, stride) in
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    {
        for i in 0..count {
            let wide = inputs * expansion;
            if expansion > 1 {
                push(Kind::Expand, 1, inputs, wide);
            }
            push(Kind::Depthwise, if i == 0 { stride } else { 1 }, wide, wide);
            inputs = push(if i == 0 { Kind::Project } else { Kind::ProjectOnto }, 1, wide, outputs);
        }
    }
    push(Kind::Expand, 1, inputs, 1280);
    push(Kind::Mean, 1, 1280, 1280);
    push(Kind::Classify, 1, 1280, 1000);
    all
}

fn floats(isa: Isa) -> u64 {
    let (mut threads, mut digest) = (Threads::new(1), Digest::default());
    for layer in layers() {
        let [from, to] = layer.lens();
        let number = |q: &u8| f32::from(*q) / 128.0 - 1.0;
        let fill = |seed, len| random(seed, len).iter().map(number).collect::<Vec<f32>>();
        let (x, mut y) = (Buffer::copy_of(&fill(3, from)), Buffer::<f32>::zeros(to));
        let x: &[f32] = &x;
        let added = (layer.kind == Kind::ProjectOnto).then(|| fill(4, to));
        let weights: Vec<f32> =
            fill(1, layer.outputs * layer.depth()).iter().map(|w| w / layer.depth() as f32).collect();
        let (bias, window) = (fill(2, layer.outputs), layer.window());
        let source = conv::Source { data: x, size: layer.size(), stride: layer.step(), edges: None };
        match layer.kind {
            Kind::Depthwise => {
                let kernel = depthwise::Depthwise::new(&weights, &bias, window, Activation::RELU6);
                kernel.run(isa, &mut threads, source, &mut y);
            }
            Kind::Mean => pool::run(isa, &mut threads, Pool::Mean, &window, x, layer.size(), layer.step(), &mut y),
            kind => {
                let wide = matches!(kind, Kind::Picture | Kind::Expand);
                let closes = if wide { Activation::RELU6 } else { Activation::NONE };
                let kernel = conv::Conv::new(&weights, &bias, window, closes);
                kernel.run(isa, &mut threads, source, added.as_deref(), &mut y);
            }
        }
        y.iter().for_each(|v| digest.add(v.to_bits()));
    }
    digest.0
}

fn bytes(isa: Isa) -> u64 {
    let (mut threads, mut digest) = (Threads::new(1), Digest::default());
    // Clamping to the bytes' range is the networks' ReLU6.
    let steps = Steps { scale: 0.0235, low: 0.0, high: 255.0 };
    let (grid, linear) = (Grid { scale: 0.0235, zero: 0 }, Steps { scale: 0.05, low: -128.0, high: 127.0 });
    for layer in layers() {
        let [from, to] = layer.lens();
        let (x, mut y) = (random(3, from), vec![0; to]);
        let added = (layer.kind == Kind::ProjectOnto).then(|| random(4, to));
        let values: Vec<i8> =
            random(1, layer.outputs * layer.depth()).into_iter().map(|q| q.cast_signed().max(-127)).collect();
        let bias: Vec<i32> = random(2, layer.outputs).into_iter().map(|q| i32::from(q.cast_signed()) * 64).collect();
        let units = vec![0.0005 / (layer.depth() as f32).sqrt(); layer.outputs];
        let weights = int8::conv::Weights { values: &values, bias: &bias, units: &units };
        let source = int8::Source { data: &x, size: layer.size(), stride: layer.step(), grid, edges: None };
        let (window, zero) = (layer.window(), grid.zero);
        let closing = |first, last| Closing { first: Some(first), activation: Activation::NONE, last, table: None };
        match layer.kind {
            Kind::Depthwise => {
                let kernel = int8::depthwise::Depthwise::new(isa, weights, zero, window, closing(steps, None));
                kernel.run(&mut threads, source, &mut y);
            }
            Kind::Mean => int8::pool::run(isa, &mut threads, Pool::Mean, &window, source, steps, &mut y),
            kind => {
                let wide = matches!(kind, Kind::Picture | Kind::Expand);
                let closing = closing(if wide { steps } else { linear }, added.as_ref().map(|_| linear));
                let kernel = int8::conv::Conv::new(isa, weights, zero, window, closing);
                let added = added.as_deref().map(|a| (a, Grid { scale: 0.06, zero: 128 }));
                kernel.run(&mut threads, source, added, &mut Output::Bytes(&mut y));
            }
        }
        y.iter().for_each(|v| digest.add(u32::from(*v)));
    }
    digest.0
}

/// FNV-1a.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x100_0000_01b3);
    }
}

/// Bytes of every value, the same for a seed.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as u8
        })
        .collect()
}
