use proptest::prelude::*;

use super::*;
use crate::depthwise::Depthwise;

/// Uniform numbers in [-1, 1), the same for a seed.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// How much of something a test takes: little where Miri interprets each step of it.
pub(crate) const fn most(usual: usize, interpreted: usize) -> usize {
    if cfg!(miri) { interpreted } else { usual }
}

/// How often a test of random shapes is made; `PROPTEST_CASES` makes it fewer.
pub(crate) fn cases(usual: u32, interpreted: u32) -> ProptestConfig {
    let usual = if cfg!(miri) { interpreted } else { usual };
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.map_or(usual, |asked: u32| usual.min(asked)))
}

/// The definition, in double precision: `[h, w, c]` in and out, no channel padding.
fn reference(x: &[f32], size: [usize; 2], weights: &[f32], bias: &[f32], w: &Window, groups: usize) -> Vec<f64> {
    let outputs = bias.len();
    let channels = x.len() / (size[0] * size[1]);
    let (per, out) = (channels / groups, w.output(size).unwrap());
    let mut y = Vec::new();
    for oy in 0..out[0] {
        for ox in 0..out[1] {
            for (o, b) in bias.iter().enumerate() {
                let group = o / (outputs / groups);
                let mut sum = f64::from(*b);
                for i in 0..per {
                    for ky in 0..w.kernel[0] {
                        for kx in 0..w.kernel[1] {
                            let iy = (oy * w.stride[0] + ky * w.dilation[0]) as isize - w.before[0] as isize;
                            let ix = (ox * w.stride[1] + kx * w.dilation[1]) as isize - w.before[1] as isize;
                            if iy < 0 || ix < 0 || iy >= size[0] as isize || ix >= size[1] as isize {
                                continue;
                            }
                            let at = (iy as usize * size[1] + ix as usize) * channels + group * per + i;
                            let k = ((o * per + i) * w.kernel[0] + ky) * w.kernel[1] + kx;
                            sum += f64::from(x[at]) * f64::from(weights[k]);
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

/// Puts `stride` numbers between a pixel and the next.
fn spread(x: &[f32], channels: usize, stride: usize) -> Vec<f32> {
    let mut wide = Vec::new();
    for pixel in x.chunks(channels) {
        wide.extend_from_slice(pixel);
        wide.resize(wide.len() + stride - channels, 77.0);
    }
    wide
}

fn window() -> impl Strategy<Value = Window> {
    let axis = (1usize..=5, 1usize..=3, 1usize..=2, 0usize..=3, 0usize..=3);
    let any = (axis.clone(), axis).prop_map(|(a, b)| Window {
        kernel: [a.0, b.0],
        stride: [a.1, b.1],
        dilation: [a.2, b.2],
        before: [a.3, b.3],
        after: [a.4, b.4],
    });
    // What networks are made of: the kernels have paths of their own for it.
    let side = (prop_oneof![Just(3usize), Just(5)], 1usize..=2, 0usize..=2, 0usize..=2);
    let usual = side.prop_map(|(k, s, before, after)| Window {
        kernel: [k; 2],
        stride: [s; 2],
        dilation: [1; 2],
        before: [before; 2],
        after: [after; 2],
    });
    prop_oneof![2 => any, 2 => usual, 1 => Just(Window::POINT)]
}

/// Which output rows a band is, the size of the input rows they see, the first of those, and the rows of padding.
pub(crate) type Band = (Range<usize>, [usize; 2], usize, Option<[usize; 2]>);

/// Cuts a picture into bands of output rows: one where the cut would leave nothing but padding.
pub(crate) fn bands(w: &Window, size: [usize; 2], band: usize) -> Vec<Band> {
    let height = w.output(size).unwrap()[0];
    let cut: Vec<Band> = (0..height)
        .step_by(band)
        .map(|start| {
            let out = start..height.min(start + band);
            let (rows, edges) = w.rows(out.clone(), size[0]);
            (out, [rows.len(), size[1]], rows.start, Some(edges))
        })
        .collect();
    if cut.iter().any(|c| c.1[0] == 0) { vec![(0..height, size, 0, None)] } else { cut }
}

fn functions() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::NONE),
        Just(Activation::RELU6),
        Just(Activation::HardSwish),
        Just(Activation::Sigmoid),
        Just(Activation::Silu),
        // Steps far below the tolerance: a number near the border of two may fall to either.
        Just(Activation::Quantized { scale: 1e-6, low: -1e5, high: 2e5 }),
        Just(Activation::HardSigmoid { slope: 0.2, offset: 0.5 }),
    ]
}

fn exact(x: f64, f: Activation) -> f64 {
    match f {
        Activation::Clamp { low, high } => x.max(f64::from(low)).min(f64::from(high)),
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::HardSigmoid { slope, offset } => (f64::from(slope) * x + f64::from(offset)).clamp(0.0, 1.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Quantized { scale, low, high } => {
            let scale = f64::from(scale);
            (x / scale).round_ties_even().clamp(f64::from(low), f64::from(high)) * scale
        }
    }
}

proptest! {
    #![proptest_config(cases(400, 6))]

    #[test]
    fn dense_convolutions_equal_their_definition_on_every_instruction_set(
        seed: u64, w in window(), f in functions(), size in [1usize..=most(13, 3), 1usize..=most(30, 8)],
        inputs in prop_oneof![1usize..=4, 1usize..=most(70, 6)], more in 0usize..=2, outputs in 1usize..=most(70, 20),
        threads in 1usize..=3, with_residual: bool, band in 1usize..=20,
    ) {
        let Some(out) = w.output(size) else { return Ok(()) };
        let x = numbers(seed, size[0] * size[1] * inputs);
        let weights = numbers(seed ^ 1, outputs * inputs * w.kernel[0] * w.kernel[1]);
        let bias = numbers(seed ^ 2, outputs);
        let residual = numbers(seed ^ 3, out[0] * out[1] * outputs);
        let expected = reference(&x, size, &weights, &bias, &w, 1);
        let stride = if more < 2 { inputs + more } else { padded(inputs) };
        let (wide, wide_residual) = (spread(&x, inputs, stride), spread(&residual, outputs, padded(outputs)));
        let conv = Conv::new(&weights, &bias, w, f);
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let mut y = vec![55.0; out[0] * out[1] * padded(outputs)];
            let line = out[1] * padded(outputs);
            for (rows, size, from, edges) in bands(&w, size, band) {
                let source = Source { data: &wide[from * size[1] * stride..], size, stride, edges };
                let added = with_residual.then_some(&wide_residual[rows.start * line..]);
                conv.run(isa, &mut team, source, added, &mut y[rows.start * line..rows.end * line]);
            }
            for (i, e) in expected.iter().enumerate() {
                let found = y[i / outputs * padded(outputs) + i % outputs];
                let e = exact(e + if with_residual { f64::from(residual[i]) } else { 0.0 }, f);
                prop_assert!((f64::from(found) - e).abs() <= 1e-4 * (1.0 + e.abs()), "{isa:?} {i}: {found} {e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(400, 2))]

    #[test]
    fn winograds_method_equals_the_definition_on_every_instruction_set(
        seed: u64, before in [0usize..=3, 0usize..=3], after in [0usize..=3, 0usize..=3], f in functions(),
        size in [1usize..=most(18, 5), 1usize..=most(18, 5)], inputs in 1usize..=most(3, 1), more in 0usize..=2,
        outputs in 1usize..=most(70, 17), threads in 1usize..=3, with_residual: bool,
        band in 1usize..=20,
    ) {
        let w = Window { kernel: [3; 2], before, after, ..Window::POINT };
        let Some(out) = w.output(size) else { return Ok(()) };
        let inputs = inputs * BLOCK;
        let x = numbers(seed, size[0] * size[1] * inputs);
        let scale = 1.0 / (9.0 * inputs as f32).sqrt();
        let weights: Vec<f32> = numbers(seed ^ 1, outputs * inputs * 9).iter().map(|w| w * scale).collect();
        let bias = numbers(seed ^ 2, outputs);
        let residual = numbers(seed ^ 3, out[0] * out[1] * outputs);
        let expected = reference(&x, size, &weights, &bias, &w, 1);
        let stride = inputs + more;
        let (wide, wide_residual) = (spread(&x, inputs, stride), spread(&residual, outputs, padded(outputs)));
        // Of another size than it is for, too.
        let conv = Conv::new(&weights, &bias, w, f).for_input([64, 64]);
        prop_assert!(conv.method == Method::Winograd);
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let mut y = vec![55.0; out[0] * out[1] * padded(outputs)];
            let line = out[1] * padded(outputs);
            for (rows, size, from, edges) in bands(&w, size, band) {
                let source = Source { data: &wide[from * size[1] * stride..], size, stride, edges };
                let added = with_residual.then_some(&wide_residual[rows.start * line..]);
                conv.run(isa, &mut team, source, added, &mut y[rows.start * line..rows.end * line]);
            }
            for (i, e) in expected.iter().enumerate() {
                let found = y[i / outputs * padded(outputs) + i % outputs];
                let e = exact(e + if with_residual { f64::from(residual[i]) } else { 0.0 }, f);
                prop_assert!((f64::from(found) - e).abs() <= 2e-5 * (1.0 + e.abs()), "{isa:?} {i}: {found} {e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(400, 6))]

    #[test]
    fn depthwise_convolutions_equal_their_definition_on_every_instruction_set(
        seed: u64, w in window(), f in functions(), size in [1usize..=most(13, 5), 1usize..=most(30, 8)],
        channels in prop_oneof![3 => 1usize..=most(40, 20), 1 => most(60, 30)..=most(140, 40)], threads in 1usize..=3,
        band in 1usize..=20,
    ) {
        let Some(out) = w.output(size) else { return Ok(()) };
        let x = numbers(seed, size[0] * size[1] * channels);
        let weights = numbers(seed ^ 1, channels * w.kernel[0] * w.kernel[1]);
        let bias = numbers(seed ^ 2, channels);
        let expected = reference(&x, size, &weights, &bias, &w, channels);
        let wide = spread(&x, channels, padded(channels));
        let conv = Depthwise::new(&weights, &bias, w, f);
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let mut y = vec![55.0; out[0] * out[1] * padded(channels)];
            let line = out[1] * padded(channels);
            for (rows, size, from, edges) in bands(&w, size, band) {
                let source = Source { data: &wide[from * size[1] * padded(channels)..], size, stride: padded(channels), edges };
                conv.run(isa, &mut team, source, &mut y[rows.start * line..rows.end * line]);
            }
            for (i, e) in expected.iter().enumerate() {
                let found = y[i / channels * padded(channels) + i % channels];
                let e = exact(*e, f);
                prop_assert!((f64::from(found) - e).abs() <= 1e-4 * (1.0 + e.abs()), "{isa:?} {i}: {found} {e}");
            }
        }
    }
}

/// Activations as a ReLU6 leaves them, all of one sign, are the hardest: differences of large numbers.
#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn winograds_method_rounds_little_more_than_the_definition() {
    let (size, inputs, outputs) = ([14, 14], 256, 16);
    let w = Window { kernel: [3; 2], before: [1; 2], after: [1; 2], ..Window::POINT };
    let x: Vec<f32> = numbers(1, size[0] * size[1] * inputs).iter().map(|x| (6.0 * x).max(0.0)).collect();
    let scale = 1.0 / (9.0 * inputs as f32).sqrt();
    let weights: Vec<f32> = numbers(2, outputs * inputs * 9).iter().map(|w| w * scale).collect();
    let expected = reference(&x, size, &weights, &[0.0; 16], &w, 1);
    let largest = expected.iter().fold(0.0, |m: f64, e| m.max(e.abs()));
    let error = |conv: &Conv| {
        let mut y = vec![0.0; size[0] * size[1] * outputs];
        conv.run(
            Isa::best(),
            &mut Threads::new(1),
            Source { data: &x, size, stride: inputs, edges: None },
            None,
            &mut y,
        );
        y.iter().zip(&expected).fold(0.0, |m: f64, (y, e)| m.max((f64::from(*y) - e).abs())) / largest
    };
    let direct = Conv::new(&weights, &[0.0; 16], w, Activation::NONE);
    let (winograd, direct) = (error(&direct.clone().for_input(size)), error(&direct));
    assert!(winograd < 1e-5 && winograd > direct, "{winograd} {direct}");
}
