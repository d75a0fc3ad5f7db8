//! Times the kernels of training: those that pass over memory beside a copy, and the gradients of depthwise convolutions
//! beside the forward pass. `cargo run --release -p graft-kernels --example train [THREADS]`

use std::time::Instant;

use graft_kernels::conv::Source;
use graft_kernels::depthwise::Depthwise;
use graft_kernels::train::norm::{self, Affine, Coefficients, Sums};
use graft_kernels::train::{depthwise, pool};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window};

fn main() {
    let count = std::env::args().nth(1).map_or(1, |arg| arg.parse().expect("a number of threads"));
    for isa in [Isa::Scalar, Isa::best()] {
        let mut threads = Threads::new(count);
        println!("{}, {count} threads", isa.name());
        for (pictures, side, width) in [(8, 112, 96), (8, 14, 576), (32, 7, 1280)] {
            passes(isa, &mut threads, pictures, side, width);
        }
        for (side, width) in [(112, 96), (14, 576)] {
            for (k, s) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
                convolutions(isa, &mut threads, side, width, k, s);
            }
        }
    }
}

/// Prints GB/s of memory read and written.
fn passes(isa: Isa, threads: &mut Threads, pictures: usize, side: usize, width: usize) {
    let pixels = side * side;
    let len = pictures * pixels * width;
    let (z, gradient, mut out) = (numbers(1, len), numbers(2, len), Buffer::zeros(len));
    let [scale, shift, centre] = [3, 4, 5].map(|seed| numbers(seed, width));
    let affine = Affine { scale: &scale, shift: &shift, activation: Activation::RELU6 };
    let by = Coefficients { a: &scale, k: Some(&shift), b: Some(&centre) };
    let mut sums = Sums::zeros(width);
    let mut means = vec![0.0; pictures * width];
    let whole = (4 * len) as f64 / 1e9;
    print!("{pictures} x {side}x{side}x{width}, GB/s:");
    print!(" copy {:.1}", 2.0 * whole / fastest(|| out.copy_from_slice(&z)));
    print!(" statistics {:.1}", whole / fastest(|| norm::statistics(isa, threads, &z, &centre, &mut sums)));
    print!(" normalise {:.1}", 2.0 * whole / fastest(|| norm::normalise(isa, threads, &z, affine, None, &mut out)));
    let seconds = fastest(|| norm::moments(isa, threads, &z, affine, &gradient, &centre, &mut sums));
    print!(" moments {:.1}", 2.0 * whole / seconds);
    let seconds = fastest(|| norm::combine(isa, threads, &z, affine, &gradient, by, &mut out));
    print!(" combine {:.1}", 3.0 * whole / seconds);
    let seconds = fastest(|| norm::combine_in_place(isa, threads, &z, affine, &mut out, by));
    print!(" in place {:.1}", 3.0 * whole / seconds);
    let seconds = fastest(|| pool::mean(isa, threads, &z, affine, pixels, width, &mut means));
    println!(" mean {:.1}", whole / seconds);
}

/// Prints billions of multiplications and additions a second.
fn convolutions(isa: Isa, threads: &mut Threads, side: usize, width: usize, k: usize, s: usize) {
    let window = Window { kernel: [k; 2], stride: [s; 2], dilation: [1; 2], before: [k / 2; 2], after: [k / 2; 2] };
    let size = [side; 2];
    let out = window.output(size).expect("a window that fits");
    let (inputs, outputs) = (side * side * width, out[0] * out[1] * width);
    let (input, weights) = (numbers(1, inputs), numbers(2, k * k * width));
    let (mut output, mut result) = (numbers(3, outputs), Buffer::zeros(inputs));
    let conv = Depthwise::new(&weights, &numbers(4, width), window, Activation::NONE);
    let operations = (2 * outputs * k * k) as f64 / 1e9;
    let forward = fastest(|| {
        let source = Source { data: &input, size, stride: width, edges: None };
        conv.run(isa, threads, source, &mut output);
    });
    let mut sums = vec![0.0; weights.len()];
    let by_weights = fastest(|| {
        depthwise::weight_gradient(isa, threads, window, &input, size, width, &output, &mut sums);
    });
    let by_input = fastest(|| {
        depthwise::input_gradient(isa, threads, window, &weights, &output, size, width, &mut result);
    });
    println!(
        "depthwise {k}x{k}/{s} {side}x{side}x{width}, GFLOP/s: forward {:.1} by weights {:.1} by input {:.1}",
        operations / forward,
        operations / by_weights,
        operations / by_input
    );
}

/// Returns the seconds of the fastest of several turns.
fn fastest(mut f: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut turns = 0;
    while turns < 5 || begin.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        turns += 1;
    }
    best
}

/// Uniform numbers in [-1, 1), the same for a seed.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}
