use proptest::prelude::*;

use super::*;
use crate::conv::tests::{cases, most, numbers};

/// A convolution by its definition, in double precision: the place of input, weight and output of each product.
fn products(
    window: Window,
    size: [usize; 2],
    inputs: usize,
    outputs: usize,
    mut each: impl FnMut(usize, usize, usize),
) {
    let out = window.output(size).unwrap();
    for (y, x) in (0..out[0]).flat_map(|y| (0..out[1]).map(move |x| (y, x))) {
        for tap in 0..window.kernel[0] * window.kernel[1] {
            let at = |axis: usize, at: usize, tap: usize| {
                let at = (at * window.stride[axis] + tap * window.dilation[axis]).checked_sub(window.before[axis])?;
                (at < size[axis]).then_some(at)
            };
            let (Some(iy), Some(ix)) = (at(0, y, tap / window.kernel[1]), at(1, x, tap % window.kernel[1])) else {
                continue;
            };
            for (i, o) in (0..inputs).flat_map(|i| (0..outputs).map(move |o| (i, o))) {
                let input = (iy * size[1] + ix) * padded(inputs) + i;
                let weight = (tap * inputs + i) * padded(outputs) + o;
                each(input, weight, (y * out[1] + x) * padded(outputs) + o);
            }
        }
    }
}

/// Numbers for `pixels` of so many channels, zeros in the padding.
fn activation(seed: u64, pixels: usize, channels: usize) -> Vec<f32> {
    let mut all = numbers(seed, pixels * padded(channels));
    all.chunks_mut(padded(channels)).for_each(|pixel| pixel[channels..].fill(0.0));
    all
}

fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() < 1e-5 * largest, "{what}: expected {e} at {i}, found {f}");
    }
}

proptest! {
    #![proptest_config(cases(256, 3))]

    #[test]
    fn dense_layers_and_their_gradients_are_those_of_the_definition(
        seed: u64,
        kernel in 1..4_usize, stride in 1..3_usize, dilation in 1..3_usize, before in 0..2_usize, after in 0..2_usize,
        size in [4..most(11, 6), 4..most(11, 6)],
        inputs in 1..most(40, 9), outputs in 1..most(70, 18), pictures in 1..most(4, 3),
    ) {
        let reach = (kernel - 1) * dilation;
        let window = Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [dilation; 2],
            before: [before.min(reach); 2],
            after: [after.min(reach); 2],
        };
        prop_assume!(window.output(size).is_some());
        let dense = Dense { window, inputs, outputs };
        let out = window.output(size).unwrap();
        let (pixels, results) = (size[0] * size[1], out[0] * out[1]);
        let weights = activation(seed, kernel * kernel * inputs, outputs);
        let x = activation(seed ^ 1, pictures * pixels, inputs);
        let g = activation(seed ^ 2, pictures * results, outputs);
        let mut y = vec![0.0_f64; g.len()];
        let mut dx = vec![0.0_f64; x.len()];
        let mut dw = weights.iter().map(|w| f64::from(*w)).collect::<Vec<_>>();
        for p in 0..pictures {
            let (from, to) = (p * pixels * padded(inputs), p * results * padded(outputs));
            products(window, size, inputs, outputs, |i, w, o| {
                y[to + o] += f64::from(x[from + i]) * f64::from(weights[w]);
                dx[from + i] += f64::from(g[to + o]) * f64::from(weights[w]);
                dw[w] += f64::from(x[from + i]) * f64::from(g[to + o]);
            });
        }
        for isa in Isa::available() {
            let mut before = None;
            for threads in [1, 3] {
                let mut threads = Threads::new(threads);
                let forward = dense.forward(&weights, size, pictures, &mut threads);
                let backward = dense.backward(&weights, size, pictures, &mut threads);
                let mut scratch = vec![7.0; backward.scratch(size, pictures)];
                let mut found = (vec![0.0; y.len()], vec![0.0; x.len()], weights.clone());
                let source = Source { data: &x, size, stride: padded(inputs), edges: None };
                forward.run_batch(isa, &mut threads, source, pictures, &mut found.0);
                backward.run(isa, &mut threads, &g, size, pictures, &mut scratch, &mut found.1);
                dense.weight_gradient(isa, &mut threads, source, &g, &mut found.2);
                assert_near(&found.0, &y, isa.name());
                assert_near(&found.1, &dx, isa.name());
                assert_near(&found.2, &dw, isa.name());
                prop_assert!(before.get_or_insert_with(|| found.clone()) == &found, "{} threads", threads.count());
            }
        }
    }
}
