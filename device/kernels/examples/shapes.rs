//! Times every layer shape of well-known networks, in the order and with the memory traffic of a whole run.
//!
//! ```text
//! cargo run --release -p graft-kernels --example shapes -- [NETWORK | ISA | SECONDS]...
//! ```
//!
//! Layers of one shape share a line: `ms` is the sum of each one's fastest time, `peak` the share of what a loop of
//! multiply-adds that touches no memory does in the same run. Weights and inputs are random.

use std::time::{Duration, Instant};

use graft_kernels::conv::{Conv, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::pool::{self, Pool};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window, padded};

fn main() {
    let (mut nets, mut isa, mut seconds) = (Vec::new(), Isa::best(), 4.0);
    for arg in std::env::args().skip(1) {
        if let Some(net) = NETWORKS.iter().find(|(name, _)| *name == arg) {
            nets.push(net);
        } else if let Some(found) = Isa::available().into_iter().find(|i| i.name() == arg) {
            isa = found;
        } else if let Ok(found) = arg.parse() {
            seconds = found;
        } else {
            let names: Vec<_> = NETWORKS.iter().map(|(name, _)| *name).collect();
            let isas: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
            eprintln!("{arg} is none of {}, {}, nor a number of seconds", names.join(", "), isas.join(", "));
            std::process::exit(2);
        }
    }
    if nets.is_empty() {
        nets = NETWORKS.iter().collect();
    }
    for (name, build) in nets {
        let mut net = Net::default();
        build(&mut net);
        report(name, isa, &net, Duration::from_secs_f64(seconds));
    }
}

fn report(name: &str, isa: Isa, net: &Net, time: Duration) {
    let (best, peak) = measure(isa, net, time);
    println!("{name}, {}, 1 thread, peak {peak:.0} GFLOP/s", isa.name());
    let mut shapes: Vec<(&str, usize, f64, f64)> = Vec::new();
    for (layer, ms) in net.layers.iter().zip(&best) {
        let flops = 2.0 * layer.multiplications as f64;
        match shapes.iter_mut().find(|s| s.0 == layer.name) {
            Some((_, count, sum, work)) => (*count, *sum, *work) = (*count + 1, *sum + ms, *work + flops),
            None => shapes.push((&layer.name, 1, *ms, flops)),
        }
    }
    let line = |name: &str, count: usize, ms: f64, flops: f64| {
        let rate = flops / ms / 1e6;
        println!("  {name:<34} {count:>3} {ms:>8.4} ms {rate:>6.1} GFLOP/s {:>4.0}%", rate / peak * 100.0);
    };
    for (name, count, ms, flops) in &shapes {
        line(name, *count, *ms, *flops);
    }
    // The class of a shape is its first word.
    let class = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut classes: Vec<String> = shapes.iter().map(|s| class(s.0)).collect();
    classes.sort();
    classes.dedup();
    classes.push(String::new());
    for c in classes {
        let (mut count, mut ms, mut flops) = (0, 0.0, 0.0);
        for s in shapes.iter().filter(|s| c.is_empty() || class(s.0) == c) {
            (count, ms, flops) = (count + s.1, ms + s.2, flops + s.3);
        }
        line(&format!("= {}", if c.is_empty() { "all" } else { &c }), count, ms, flops);
    }
}

/// Returns each layer's fastest time in milliseconds, and the peak in GFLOP/s.
fn measure(isa: Isa, net: &Net, time: Duration) -> (Vec<f64>, f64) {
    let mut threads = Threads::new(1);
    let mut buffers: Vec<Buffer> = (0..BUFFERS).map(|i| Buffer::copy_of(&random(i as u64, net.largest))).collect();
    let mut best = vec![f64::INFINITY; net.layers.len()];
    let (start, mut peak) = (Instant::now(), 0.0_f64);
    while start.elapsed() < time {
        for _ in 0..10 {
            for (layer, best) in net.layers.iter().zip(&mut best) {
                let begin = Instant::now();
                layer.run(isa, &mut threads, &mut buffers);
                *best = best.min(begin.elapsed().as_secs_f64() * 1e3);
            }
        }
        peak = peak.max(multiply_adds(isa));
    }
    (best, peak)
}

/// A network under construction: where the last layer left its output, and of which shape.
#[derive(Default)]
struct Net {
    layers: Vec<Layer>,
    /// Numbers in the largest activation.
    largest: usize,
    size: [usize; 2],
    channels: usize,
    at: usize,
    /// Buffers that later layers read, the current one aside.
    kept: Vec<usize>,
}

struct Layer {
    name: String,
    work: Work,
    size: [usize; 2],
    stride: usize,
    from: usize,
    other: Option<usize>,
    to: usize,
    lens: [usize; 2],
    multiplications: usize,
}

enum Work {
    Conv(Conv),
    Depthwise(Depthwise),
    Pool(Pool, Window),
    Scale(usize),
}

impl Layer {
    fn run(&self, isa: Isa, threads: &mut Threads, buffers: &mut [Buffer]) {
        let mut output = std::mem::take(&mut buffers[self.to]);
        let (input, to) = (&buffers[self.from][..self.lens[0]], &mut output[..self.lens[1]]);
        let other = self.other.map(|o| &buffers[o]);
        match &self.work {
            Work::Conv(conv) => {
                let source = Source { data: input, size: self.size, stride: self.stride, edges: None };
                conv.run(isa, threads, source, other.map(|o| &o[..self.lens[1]]), to);
            }
            Work::Depthwise(conv) => {
                let source = Source { data: input, size: self.size, stride: self.stride, edges: None };
                conv.run(isa, threads, source, to);
            }
            Work::Pool(kind, window) => pool::run(isa, threads, *kind, window, input, self.size, self.stride, to),
            Work::Scale(len) => {
                let factors = &other.expect("a product has two operands")[..*len];
                pointwise::run(isa, threads, input, Pointwise::Scale(factors), Activation::NONE, to);
            }
        }
        buffers[self.to] = output;
    }
}

impl Net {
    fn input(&mut self, side: usize) {
        (self.size, self.channels) = ([side; 2], 3);
        self.largest = side * side * 4;
    }

    fn push(&mut self, name: String, work: Work, to: ([usize; 2], usize), other: Option<usize>, depth: usize) {
        // The picture has four numbers a pixel, every other activation whole blocks.
        let stride = if self.layers.is_empty() { 4 } else { padded(self.channels) };
        let next = (0..BUFFERS)
            .find(|b| *b != self.at && Some(*b) != other && !self.kept.contains(b))
            .expect("as many buffers as the widest point of a network needs");
        let lens = [self.size[0] * self.size[1] * stride, to.0[0] * to.0[1] * padded(to.1)];
        let multiplications = to.0[0] * to.0[1] * to.1 * depth;
        let (size, from) = (self.size, self.at);
        self.layers.push(Layer { name, work, size, stride, from, other, to: next, lens, multiplications });
        self.largest = self.largest.max(lens[1]);
        (self.size, self.channels, self.at) = (to.0, to.1, next);
    }

    fn conv(&mut self, outputs: usize, k: usize, s: usize, f: Activation) {
        self.conv_onto(outputs, k, s, f, None);
    }

    /// Adds a convolution whose result is added to the buffer `residual`.
    fn conv_onto(&mut self, outputs: usize, k: usize, s: usize, f: Activation, residual: Option<usize>) {
        let (window, inputs) = (window(k, s), self.channels);
        let weights = random(1, outputs * inputs * k * k);
        let scale = 1.0 / ((inputs * k * k) as f32).sqrt();
        let weights: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        let conv = Conv::new(&weights, &random(2, outputs), window, f).for_input(self.size);
        let class = if self.size == [1, 1] {
            "full"
        } else if k == 1 {
            "point"
        } else {
            "dense"
        };
        let mut name = format!("{class} {k}x{k}/{s} {inputs}->{outputs} {}", self.size[0]);
        name.push_str(if residual.is_some() { " +" } else { "" });
        let to = window.output(self.size).expect("a window that fits");
        self.push(name, Work::Conv(conv), (to, outputs), residual, inputs * k * k);
    }

    fn depthwise(&mut self, k: usize, s: usize, f: Activation) {
        let (window, c) = (window(k, s), self.channels);
        let conv = Depthwise::new(&random(1, c * k * k), &random(2, c), window, f);
        let to = window.output(self.size).expect("a window that fits");
        let name = format!("depthwise {k}x{k}/{s} {c} {}", self.size[0]);
        self.push(name, Work::Depthwise(conv), (to, c), None, k * k);
    }

    fn global_pool(&mut self) {
        let [h, w] = self.size;
        let window = Window { kernel: [h, w], ..Window::POINT };
        let name = format!("pool mean {} {h}", self.channels);
        self.push(name, Work::Pool(Pool::Mean, window), ([1, 1], self.channels), None, h * w);
    }

    /// Scales the channels by a small network of their means.
    fn squeeze(&mut self, middle: usize, f: Activation, gate: Activation) {
        let (whole, size, channels) = (self.at, self.size, self.channels);
        self.kept.push(whole);
        self.global_pool();
        self.conv(middle, 1, 1, f);
        self.conv(channels, 1, 1, gate);
        self.kept.pop();
        let factors = std::mem::replace(&mut self.at, whole);
        self.size = size;
        let name = format!("scale {channels} {}", size[0]);
        self.push(name, Work::Scale(padded(channels)), (size, channels), Some(factors), 1);
    }

    /// An inverted residual block; `squeezed` is the width of its squeeze-and-excitation, `f` its activation.
    fn inverted(&mut self, wide: usize, outputs: usize, k: usize, s: usize, f: Activation, squeezed: Option<Squeeze>) {
        let (start, inputs) = (self.at, self.channels);
        let residual = (s == 1 && inputs == outputs).then_some(start);
        self.kept.extend(residual);
        if wide != inputs {
            self.conv(wide, 1, 1, f);
        }
        self.depthwise(k, s, f);
        if let Some((middle, inner, gate)) = squeezed {
            self.squeeze(middle, inner, gate);
        }
        self.conv_onto(outputs, 1, 1, Activation::NONE, residual);
        self.kept.clear();
    }

    fn classifier(&mut self) {
        self.global_pool();
        self.conv(1000, 1, 1, Activation::NONE);
    }
}

/// Width, activation and gate of a squeeze-and-excitation.
type Squeeze = (usize, Activation, Activation);

fn window(k: usize, s: usize) -> Window {
    Window { kernel: [k; 2], stride: [s; 2], dilation: [1; 2], before: [k / 2; 2], after: [k / 2; 2] }
}

/// A network's name and what builds it.
type Named = (&'static str, fn(&mut Net));

const NETWORKS: &[Named] = &[
    ("mobilenet-v2", mobilenet_v2),
    ("mobilenet-v3-small", mobilenet_v3_small),
    ("resnet-18", resnet_18),
    ("efficientnet-b0", efficientnet_b0),
];

fn mobilenet_v2(net: &mut Net) {
    let f = Activation::RELU6;
    net.input(224);
    net.conv(32, 3, 2, f);
    for (expansion, outputs, count, stride) in
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    {
        for i in 0..count {
            let wide = net.channels * expansion;
            net.inverted(wide, outputs, 3, if i == 0 { stride } else { 1 }, f, None);
        }
    }
    net.conv(1280, 1, 1, f);
    net.classifier();
}

fn mobilenet_v3_small(net: &mut Net) {
    let gate = Activation::HardSigmoid { slope: 1.0 / 6.0, offset: 0.5 };
    let (relu, swish) = (Activation::RELU, Activation::HardSwish);
    let se = |middle| Some((middle, relu, gate));
    net.input(224);
    net.conv(16, 3, 2, swish);
    for (wide, outputs, k, s, f, squeezed) in [
        (16, 16, 3, 2, relu, se(8)),
        (72, 24, 3, 2, relu, None),
        (88, 24, 3, 1, relu, None),
        (96, 40, 5, 2, swish, se(24)),
        (240, 40, 5, 1, swish, se(64)),
        (240, 40, 5, 1, swish, se(64)),
        (120, 48, 5, 1, swish, se(32)),
        (144, 48, 5, 1, swish, se(40)),
        (288, 96, 5, 2, swish, se(72)),
        (576, 96, 5, 1, swish, se(144)),
        (576, 96, 5, 1, swish, se(144)),
    ] {
        net.inverted(wide, outputs, k, s, f, squeezed);
    }
    net.conv(576, 1, 1, swish);
    net.global_pool();
    net.conv(1024, 1, 1, swish);
    net.conv(1000, 1, 1, Activation::NONE);
}

fn resnet_18(net: &mut Net) {
    let relu = Activation::RELU;
    net.input(224);
    net.conv(64, 7, 2, relu);
    let pooled = window(3, 2).output(net.size).expect("a window that fits");
    net.push("pool max 64 112".into(), Work::Pool(Pool::Max, window(3, 2)), (pooled, 64), None, 9);
    for (outputs, stride) in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)] {
        let (mut start, size, inputs) = (net.at, net.size, net.channels);
        if stride == 2 {
            net.kept.push(start);
            net.conv(outputs, 1, 2, Activation::NONE);
            net.kept.clear();
            (start, net.at, net.size, net.channels) = (net.at, start, size, inputs);
        }
        net.kept.push(start);
        net.conv(outputs, 3, stride, relu);
        net.conv_onto(outputs, 3, 1, relu, Some(start));
        net.kept.clear();
    }
    net.classifier();
}

fn efficientnet_b0(net: &mut Net) {
    let f = Activation::Silu;
    net.input(224);
    net.conv(32, 3, 2, f);
    for (expansion, outputs, count, stride, k) in [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ] {
        for i in 0..count {
            let inputs = net.channels;
            let squeezed = Some((inputs / 4, f, Activation::Sigmoid));
            net.inverted(inputs * expansion, outputs, k, if i == 0 { stride } else { 1 }, f, squeezed);
        }
    }
    net.conv(1280, 1, 1, f);
    net.classifier();
}

/// Uniform numbers in [-1, 1), the same for a seed.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Returns the GFLOP/s of independent multiply-adds in registers.
fn multiply_adds(isa: Isa) -> f64 {
    const ROUNDS: usize = 20_000;
    let begin = Instant::now();
    let flops = match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers pass what `Isa::available` names.
        Isa::Avx2 => unsafe { registers::avx2(ROUNDS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { registers::avx512(ROUNDS) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { registers::neon(ROUNDS) },
        _ => registers::scalar(ROUNDS),
    };
    flops as f64 / begin.elapsed().as_secs_f64() / 1e9
}

/// Loops of `rounds` times twelve multiply-adds that return how many operations that is.
mod registers {
    #[cfg(target_arch = "aarch64")]
    use std::arch::aarch64::*;
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::*;
    use std::hint::black_box;

    macro_rules! twelve {
        ($rounds:ident, $lanes:literal, $splat:path, |$x:ident, $acc:ident| $fma:expr) => {{
            let $x = $splat(black_box(0.5));
            let mut sums = [$x; 12];
            for _ in 0..$rounds {
                for $acc in &mut sums {
                    *$acc = $fma;
                }
            }
            black_box(sums);
            2 * 12 * $lanes * $rounds
        }};
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rounds: usize) -> usize {
        twelve!(rounds, 8, _mm256_set1_ps, |x, acc| _mm256_fmadd_ps(x, x, *acc))
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rounds: usize) -> usize {
        twelve!(rounds, 16, _mm512_set1_ps, |x, acc| _mm512_fmadd_ps(x, x, *acc))
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    pub(super) fn neon(rounds: usize) -> usize {
        twelve!(rounds, 4, vdupq_n_f32, |x, acc| vfmaq_f32(*acc, x, x))
    }

    pub(super) fn scalar(rounds: usize) -> usize {
        twelve!(rounds, 1, std::convert::identity, |x, acc| x * x + *acc)
    }
}

/// Activations that are alive at once: input, output, a residual and a tensor that waits for its factors.
const BUFFERS: usize = 4;
