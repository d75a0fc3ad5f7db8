use proptest::prelude::*;

use super::norm::{self, Affine, Coefficients, Residual, Sums};
use super::{depthwise, pool};
use crate::conv::tests::{cases, most, numbers};
use crate::{Activation, BLOCK, Isa, Threads, Window};

/// Quarters from -4 to 4: their products and sums are exact in single precision, so that results equal their definition in
/// whatever order they are added up, and often lie just at a bound.
fn quarters(seed: u64, len: usize) -> Vec<f32> {
    numbers(seed, len).iter().map(|x| (x * 16.0).round() / 4.0).collect()
}

fn teams() -> [Threads; 2] {
    [Threads::new(1), Threads::new(3)]
}

/// What `f` gives on every instruction set and for one thread and three, which is the same to the bit.
fn everywhere<T: PartialEq + std::fmt::Debug>(mut f: impl FnMut(Isa, &mut Threads) -> T) -> Vec<(Isa, T)> {
    let [mut one, mut three] = teams();
    Isa::available()
        .into_iter()
        .map(|isa| {
            let result = f(isa, &mut one);
            assert_eq!(result, f(isa, &mut three), "{isa:?}: three threads differ from one");
            (isa, result)
        })
        .collect()
}

fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn bounds() -> impl Strategy<Value = (f32, f32)> {
    prop_oneof![
        Just((f32::NEG_INFINITY, f32::INFINITY)),
        Just((0.0, f32::INFINITY)),
        Just((0.0, 6.0)),
        Just((-1.0, 0.5)),
    ]
}

/// Numbers of a layer, all of them quarters.
#[derive(Debug)]
struct Layer {
    width: usize,
    z: Vec<f32>,
    gradient: Vec<f32>,
    other: Vec<f32>,
    /// Scale, shift, centre and three more, `[width]` each.
    by: [Vec<f32>; 6],
    bounds: (f32, f32),
}

impl Layer {
    fn new(seed: u64, rows: usize, width: usize, bounds: (f32, f32), random: fn(u64, usize) -> Vec<f32>) -> Self {
        let whole = |i: u64| random(seed.wrapping_add(i), rows * width);
        let by = std::array::from_fn(|i| random(seed.wrapping_add(10 + i as u64), width));
        Self { width, z: whole(0), gradient: whole(1), other: whole(2), by, bounds }
    }

    fn affine(&self) -> Affine<'_> {
        let (low, high) = self.bounds;
        self.closed(Activation::Clamp { low, high })
    }

    fn closed(&self, activation: Activation) -> Affine<'_> {
        Affine { scale: &self.by[0], shift: &self.by[1], activation }
    }

    /// `f(index, channel)` for every number.
    fn map(&self, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        (0..self.z.len()).map(|i| f(i, i % self.width)).collect()
    }

    /// The sum of `f(index, channel)` by channel.
    fn sum(&self, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        self.map(f).iter().enumerate().for_each(|(i, v)| sums[i % self.width] += v);
        sums
    }

    fn by(&self, i: usize, c: usize) -> f64 {
        f64::from(self.by[i][c])
    }

    fn z(&self, i: usize) -> f64 {
        f64::from(self.z[i])
    }

    fn scaled(&self, i: usize, c: usize) -> f64 {
        self.z(i) * self.by(0, c) + self.by(1, c)
    }

    fn clamp(&self, y: f64) -> f64 {
        y.max(f64::from(self.bounds.0)).min(f64::from(self.bounds.1))
    }

    fn open(&self, y: f64) -> f64 {
        f64::from(u8::from(f64::from(self.bounds.0) < y && y < f64::from(self.bounds.1)))
    }

    /// The gradient where it counts.
    fn g(&self, i: usize, c: usize) -> f64 {
        f64::from(self.gradient[i]) * self.open(self.scaled(i, c))
    }
}

proptest! {
    #![proptest_config(cases(60, 4))]

    #[test]
    fn normalising_equals_its_definition(
        seed: u64, rows in 0usize..=most(60, 9), blocks in 1usize..=most(6, 2), bounds in bounds(),
    ) {
        let l = Layer::new(seed, rows, blocks * BLOCK, bounds, quarters);
        let scaled = Residual::Scaled { z: &l.other, scale: &l.by[2], shift: &l.by[3] };
        let other = |i: usize| f64::from(l.other[i]);
        for (residual, expected) in [
            (None, l.map(|i, c| l.clamp(l.scaled(i, c)))),
            (Some(Residual::Plain(&l.other)), l.map(|i, c| l.clamp(l.scaled(i, c) + other(i)))),
            (Some(scaled), l.map(|i, c| l.clamp(l.scaled(i, c) + other(i) * l.by(2, c) + l.by(3, c)))),
        ] {
            for (isa, y) in everywhere(|isa, threads| {
                let mut y = vec![55.0; l.z.len()];
                norm::normalise(isa, threads, &l.z, l.affine(), residual, &mut y);
                y
            }) {
                prop_assert_eq!(&y, &singles(&expected), "{:?} {:?}", isa, residual);
            }
        }
    }

    #[test]
    fn statistics_and_moments_equal_their_definition(
        seed: u64, rows in 0usize..=most(600, 40), blocks in 1usize..=most(6, 2), bounds in bounds(),
    ) {
        let l = Layer::new(seed, rows, blocks * BLOCK, bounds, quarters);
        let centred = |i, c| l.z(i) - l.by(2, c);
        let before = Sums { first: vec![3.0; l.width], second: vec![-5.0; l.width] };
        let onto = |by: f64, sums: Vec<f64>| sums.iter().map(|s| s + by).collect::<Vec<f64>>();
        let squares = l.sum(|i, c| centred(i, c) * centred(i, c));
        let statistics = Sums { first: onto(3.0, l.sum(centred)), second: onto(-5.0, squares) };
        let moments = Sums {
            first: onto(3.0, l.sum(|i, c| l.g(i, c))),
            second: onto(-5.0, l.sum(|i, c| l.g(i, c) * centred(i, c))),
        };
        for (isa, found) in everywhere(|isa, threads| {
            let mut sums = [before.clone(), before.clone()];
            norm::statistics(isa, threads, &l.z, &l.by[2], &mut sums[0]);
            norm::moments(isa, threads, &l.z, l.affine(), &l.gradient, &l.by[2], &mut sums[1]);
            sums
        }) {
            prop_assert_eq!(&found[0], &statistics, "{:?}", isa);
            prop_assert_eq!(&found[1], &moments, "{:?}", isa);
        }
    }

    #[test]
    fn combining_equals_its_definition(
        seed: u64, rows in 0usize..=most(60, 9), blocks in 1usize..=most(6, 2), bounds in bounds(),
    ) {
        let l = Layer::new(seed, rows, blocks * BLOCK, bounds, quarters);
        let [_, _, _, a, k, b] = &l.by;
        for (k, b) in [(None, None), (Some(k), None), (None, Some(b)), (Some(k), Some(b))] {
            let by = Coefficients { a, k: k.map(|k| &k[..]), b: b.map(|b| &b[..]) };
            let at = |v: Option<&Vec<f32>>, c: usize| v.map_or(0.0, |v| f64::from(v[c]));
            let expected = singles(&l.map(|i, c| l.by(3, c) * l.g(i, c) + at(k, c) * l.z(i) + at(b, c)));
            for (isa, (out, in_place)) in everywhere(|isa, threads| {
                let (mut out, mut in_place) = (vec![55.0; l.z.len()], l.gradient.clone());
                norm::combine(isa, threads, &l.z, l.affine(), &l.gradient, by, &mut out);
                norm::combine_in_place(isa, threads, &l.z, l.affine(), &mut in_place, by);
                (out, in_place)
            }) {
                prop_assert_eq!(&out, &expected, "{:?} {:?}", isa, by);
                prop_assert_eq!(&in_place, &expected, "{:?} {:?}, in place", isa, by);
            }
        }
    }

    #[test]
    fn masks_and_sums_equal_their_definition(seed: u64, blocks in 0usize..=most(300, 20), bounds in bounds()) {
        let l = Layer::new(seed, blocks, BLOCK, bounds, quarters);
        let clamped = singles(&l.map(|i, _| l.clamp(l.z(i))));
        let masked = singles(&l.map(|i, _| f64::from(l.gradient[i]) * l.open(l.z(i))));
        let added = singles(&l.map(|i, _| f64::from(l.gradient[i]) + l.z(i)));
        for (isa, found) in everywhere(|isa, threads| {
            let mut to = [l.gradient.clone(), l.gradient.clone()];
            norm::mask(isa, threads, &clamped, l.bounds, &mut to[0]);
            norm::add(isa, threads, &l.z, &mut to[1]);
            to
        }) {
            prop_assert_eq!(&found[0], &masked, "{:?}", isa);
            prop_assert_eq!(&found[1], &added, "{:?}", isa);
        }
    }

    #[test]
    fn a_gradient_stops_just_where_a_number_was_held(seed: u64, rows in 1usize..=most(400, 20), blocks in 1usize..=most(3, 2)) {
        let mut l = Layer::new(seed, rows, blocks * BLOCK, (0.0, 0.25), numbers);
        l.by[0].iter_mut().for_each(|scale| *scale += if *scale < 0.0 { -0.1 } else { 0.1 });
        // Bounds that some results lie at to the bit, so that one more rounding forwards or backwards would show.
        for i in (0..l.z.len()).step_by(3) {
            l.z[i] = -l.by[1][i % l.width] / l.by[0][i % l.width];
        }
        let ones = vec![1.0; l.z.len()];
        for (isa, [y, passed, sums]) in everywhere(|isa, threads| {
            let (mut y, mut passed, mut sums) = (ones.clone(), ones.clone(), Sums::zeros(l.width));
            norm::normalise(isa, threads, &l.z, l.affine(), None, &mut y);
            let by = Coefficients { a: &ones[..l.width], k: None, b: None };
            norm::combine_in_place(isa, threads, &l.z, l.affine(), &mut passed, by);
            norm::moments(isa, threads, &l.z, l.affine(), &ones, &l.by[2], &mut sums);
            [y, passed, singles(&sums.first)]
        }) {
            let open: Vec<f32> = y.iter().map(|y| f32::from(u8::from(0.0 < *y && *y < 0.25))).collect();
            let mut masked = ones.clone();
            norm::mask(isa, &mut Threads::new(1), &y, (0.0, 0.25), &mut masked);
            prop_assert_eq!(&passed, &open, "{:?}", isa);
            prop_assert_eq!(&masked, &open, "{:?}", isa);
            let count = singles(&l.sum(|i, _| f64::from(open[i])));
            prop_assert_eq!(&sums, &count, "{:?}", isa);
        }
    }
}

/// Functions other than clamps in double precision, with their slopes where they have one: but for two points.
fn smooth(f: Activation, x: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    let hard = |slope: f64, offset: f64| {
        let y = slope * x + offset;
        (y.clamp(0.0, 1.0), if 0.0 < y && y < 1.0 { slope } else { 0.0 })
    };
    match f {
        Activation::HardSwish => {
            let (gate, slope) = hard(1.0 / 6.0, 0.5);
            (x * gate, gate + x * slope)
        }
        Activation::HardSigmoid { slope, offset } => hard(slope.into(), offset.into()),
        Activation::Sigmoid => (sigmoid, sigmoid * (1.0 - sigmoid)),
        Activation::Silu => (x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid)),
        other => panic!("expected a function that is no clamp, found {other:?}"),
    }
}

#[test]
fn other_functions_and_their_slopes_equal_their_definition() {
    let hard = Activation::HardSigmoid { slope: 0.2, offset: 0.5 };
    for f in [Activation::HardSwish, hard, Activation::Sigmoid, Activation::Silu] {
        let rows = most(200, 20);
        let mut l = Layer::new(3, rows, 2 * BLOCK, (0.0, 0.0), numbers);
        // Far beyond every bend of a function, on both sides.
        l.by[0].iter_mut().for_each(|scale| *scale *= 10.0);
        let scaled = |i, c| l.scaled(i, c);
        let g = |i: usize, c: usize| f64::from(l.gradient[i]) * smooth(f, scaled(i, c)).1;
        let centred = |i, c| l.z(i) - l.by(2, c);
        let value = l.map(|i, c| smooth(f, scaled(i, c)).0);
        let combined = l.map(|i, c| l.by(3, c) * g(i, c) + l.by(4, c) * l.z(i) + l.by(5, c));
        let [_, _, _, a, k, b] = &l.by;
        let by = Coefficients { a, k: Some(k), b: Some(b) };
        let mean = l.sum(|i, c| smooth(f, scaled(i, c)).0 / rows as f64);
        let expected = [value, combined, l.sum(g), l.sum(|i, c| g(i, c) * centred(i, c)), mean];
        for (isa, found) in everywhere(|isa, threads| {
            let (mut y, mut out, mut mean) = (vec![0.0; l.z.len()], vec![0.0; l.z.len()], vec![0.0; l.width]);
            let mut sums = Sums::zeros(l.width);
            norm::normalise(isa, threads, &l.z, l.closed(f), None, &mut y);
            norm::combine(isa, threads, &l.z, l.closed(f), &l.gradient, by, &mut out);
            norm::moments(isa, threads, &l.z, l.closed(f), &l.gradient, &l.by[2], &mut sums);
            pool::mean(isa, threads, &l.z, l.closed(f), rows, l.width, &mut mean);
            [y, out, singles(&sums.first), singles(&sums.second), mean]
        }) {
            for (what, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
                for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off <= 5e-6 * largest, "{f:?} {isa:?} {what} {i}: {found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn sums_keep_their_digits_over_many_rows_far_from_zero() {
    let (rows, width) = (most(50_000, 300), most(2, 1) * BLOCK);
    let mut l = Layer::new(5, rows, width, (0.0, f32::INFINITY), numbers);
    l.z.iter_mut().for_each(|z| *z += 1000.0);
    l.by[2].iter_mut().for_each(|centre| *centre += 1000.0);
    // Half of the gradients count, and their sums do not cancel.
    l.by[0].fill(1.0);
    l.by[1].fill(-1000.0);
    l.gradient.iter_mut().for_each(|g| *g = g.abs());
    let centred = |i: usize, c: usize| l.z(i) - l.by(2, c);
    let expected = [
        l.sum(centred),
        l.sum(|i, c| centred(i, c) * centred(i, c)),
        l.sum(|i, c| l.g(i, c)),
        l.sum(|i, c| l.g(i, c) * centred(i, c)),
    ];
    for (isa, found) in everywhere(|isa, threads| {
        let (mut statistics, mut moments) = (Sums::zeros(width), Sums::zeros(width));
        norm::statistics(isa, threads, &l.z, &l.by[2], &mut statistics);
        norm::moments(isa, threads, &l.z, l.affine(), &l.gradient, &l.by[2], &mut moments);
        [statistics.first, statistics.second, moments.first, moments.second]
    }) {
        for (kind, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (c, (found, expected)) in found.iter().zip(expected).enumerate() {
                // Each number is rounded to a step of 2^-24 or less, in blocks that lean no one way.
                let error = (found - expected).abs();
                assert!(error < 1e-6 * rows as f64, "{isa:?} {kind} {c}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let width = 2 * BLOCK;
    let mut l = Layer::new(1, 40, width, (0.0, 6.0), quarters);
    let at = 21 * width + 17;
    l.z[at] = f32::NAN;
    for isa in Isa::available() {
        let mut threads = Threads::new(1);
        let (mut y, mut sums) = (l.z.clone(), Sums::zeros(width));
        norm::normalise(isa, &mut threads, &l.z, l.affine(), Some(Residual::Plain(&l.other)), &mut y);
        norm::moments(isa, &mut threads, &l.z, l.affine(), &l.gradient, &l.by[2], &mut sums);
        let mut masked = vec![1.0; y.len()];
        norm::mask(isa, &mut threads, &y, l.bounds, &mut masked);
        let by = Coefficients { a: &l.by[3], k: Some(&l.by[4]), b: None };
        let mut out = y.clone();
        norm::combine(isa, &mut threads, &l.z, l.affine(), &l.gradient, by, &mut out);
        let not_numbers = |v: &[f32]| v.iter().enumerate().filter(|v| v.1.is_nan()).map(|v| v.0).collect::<Vec<_>>();
        assert_eq!(not_numbers(&y), [at], "{isa:?}");
        assert_eq!(masked[at], 1.0, "{isa:?}");
        assert_eq!(not_numbers(&out), [at], "{isa:?}");
        assert_eq!(not_numbers(&singles(&sums.second)), [17], "{isa:?}");
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let l = Layer::new(1, 4, BLOCK, (0.0, 6.0), quarters);
    let (short, by) = (&l.z[BLOCK..], Coefficients { a: &l.by[3], k: None, b: Some(&l.by[4][1..]) });
    type Call<'a> = &'a dyn Fn(&mut Threads, &mut [f32], &mut Sums);
    let isa = Isa::Scalar;
    let calls: [Call<'_>; 7] = [
        &|t, _, sums| norm::statistics(isa, t, &l.z, &[0.0; 2 * BLOCK], sums),
        &|t, _, sums| norm::statistics(isa, t, &l.z[1..], &l.by[2], sums),
        &|t, y, _| norm::normalise(isa, t, short, l.affine(), None, y),
        &|t, y, _| norm::normalise(isa, t, &l.z, l.affine(), Some(Residual::Plain(short)), y),
        &|t, _, sums| norm::moments(isa, t, &l.z, l.affine(), short, &l.by[2], sums),
        &|t, y, _| norm::combine(isa, t, &l.z, l.affine(), &l.gradient, by, y),
        &|t, y, _| norm::add(isa, t, short, y),
    ];
    for (i, call) in calls.iter().enumerate() {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            call(&mut Threads::new(1), &mut l.z.clone(), &mut Sums::zeros(BLOCK));
        }));
        assert!(outcome.is_err(), "call {i}");
    }
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
    let side = (prop_oneof![Just(3usize), Just(5)], 1usize..=2, 0usize..=3, 0usize..=3);
    let usual = side.prop_map(|(k, s, before, after)| Window {
        kernel: [k; 2],
        stride: [s; 2],
        dilation: [1; 2],
        before: [before; 2],
        after: [after; 2],
    });
    prop_oneof![1 => any, 2 => usual]
}

/// Every output, tap and pixel of one picture of which the tap of the output sees the pixel, in order.
fn seen(w: &Window, size: [usize; 2]) -> Vec<[usize; 3]> {
    let out = w.output(size).unwrap();
    let mut all = Vec::new();
    for at in 0..out[0] * out[1] {
        for tap in 0..w.kernel[0] * w.kernel[1] {
            let (at2, tap2) = ([at / out[1], at % out[1]], [tap / w.kernel[1], tap % w.kernel[1]]);
            let pixel = [0, 1].map(|a| (at2[a] * w.stride[a] + tap2[a] * w.dilation[a]).checked_sub(w.before[a]));
            if let [Some(y), Some(x)] = pixel
                && y < size[0]
                && x < size[1]
            {
                all.push([at, tap, y * size[1] + x]);
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(cases(60, 4))]

    #[test]
    fn the_gradient_of_a_largest_equals_its_definition(
        seed: u64, w in window(), size in [1usize..=most(13, 6), 1usize..=most(13, 6)], blocks in 1usize..=most(5, 1),
    ) {
        let Some(out) = w.output(size) else { return Ok(()) };
        let width = blocks * BLOCK;
        let input = quarters(seed, size[0] * size[1] * width);
        let gradient = quarters(seed ^ 1, out[0] * out[1] * width);
        let mut output = vec![f32::NEG_INFINITY; gradient.len()];
        let seen = seen(&w, size);
        for ([at, _, pixel], c) in seen.iter().flat_map(|s| (0..width).map(move |c| (s, c))) {
            output[at * width + c] = output[at * width + c].max(input[pixel * width + c]);
        }
        let (mut expected, mut found) = (vec![0.0; input.len()], vec![false; output.len()]);
        for ([at, _, pixel], c) in seen.iter().flat_map(|s| (0..width).map(move |c| (s, c))) {
            let (o, i) = (at * width + c, pixel * width + c);
            if output[o] == input[i] && !std::mem::replace(&mut found[o], true) {
                expected[i] += gradient[o];
            }
        }
        for (isa, result) in everywhere(|isa, threads| {
            let mut result = vec![55.0; input.len()];
            pool::max_gradient(isa, threads, &w, &input, size, width, &output, &gradient, &mut result);
            result
        }) {
            prop_assert_eq!(&result, &expected, "{:?}", isa);
        }
    }

    #[test]
    fn means_and_their_gradients_equal_their_definition(
        seed: u64, pictures in 0usize..=5,
        pixels in prop_oneof![1usize..=most(50, 9), most(100, 20)..=most(300, 30)], blocks in 1usize..=most(4, 1),
        bounds in bounds(),
    ) {
        let l = Layer::new(seed, pictures * pixels, blocks * BLOCK, bounds, quarters);
        let clamped = l.map(|i, c| l.clamp(l.scaled(i, c)));
        let gradient = quarters(seed ^ 1, pictures * l.width);
        let mut expected = vec![0.0; gradient.len()];
        let picture = |i: usize| i / l.width / pixels * l.width + i % l.width;
        clamped.iter().enumerate().for_each(|(i, y)| expected[picture(i)] += y / pixels as f64);
        let spread: Vec<f32> = (0..l.z.len()).map(|i| gradient[picture(i)] / pixels as f32).collect();
        for (isa, (means, gradients)) in everywhere(|isa, threads| {
            let (mut means, mut gradients) = (vec![55.0; gradient.len()], vec![55.0; l.z.len()]);
            pool::mean(isa, threads, &l.z, l.affine(), pixels, l.width, &mut means);
            pool::mean_gradient(isa, threads, &gradient, pixels, l.width, &mut gradients);
            (means, gradients)
        }) {
            for (found, expected) in means.iter().zip(&expected) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5, "{:?}: {} for {}", isa, found, expected);
            }
            prop_assert_eq!(&gradients, &spread, "{:?}", isa);
        }
    }
}

proptest! {
    #![proptest_config(cases(150, 3))]

    #[test]
    fn depthwise_gradients_equal_their_definition(
        seed: u64, w in window(), height in prop_oneof![3 => 1usize..=most(16, 5), 1 => most(30, 6)..=most(70, 7)],
        breadth in 1usize..=most(30, 6), blocks in 1usize..=most(5, 1),
    ) {
        let size = [height, breadth];
        let Some(out) = w.output(size) else { return Ok(()) };
        let (width, taps) = (blocks * BLOCK, w.kernel[0] * w.kernel[1]);
        let [input, gradient, weights, before] = [(0, size[0] * size[1]), (1, out[0] * out[1]), (2, taps), (3, taps)]
            .map(|(i, rows)| quarters(seed.wrapping_add(i), rows * width));
        let (mut by_weights, mut by_input) = (before.clone(), vec![0.0; input.len()]);
        for ([at, tap, pixel], c) in seen(&w, size).iter().flat_map(|s| (0..width).map(move |c| (s, c))) {
            let g = gradient[at * width + c];
            by_weights[tap * width + c] += g * input[pixel * width + c];
            by_input[pixel * width + c] += g * weights[tap * width + c];
        }
        for (isa, [found_weights, found_input]) in everywhere(|isa, threads| {
            let (mut sums, mut result) = (before.clone(), vec![55.0; input.len()]);
            depthwise::weight_gradient(isa, threads, w, &input, size, width, &gradient, &mut sums);
            depthwise::input_gradient(isa, threads, w, &weights, &gradient, size, width, &mut result);
            [sums, result]
        }) {
            prop_assert_eq!(&found_weights, &by_weights, "{:?}", isa);
            prop_assert_eq!(&found_input, &by_input, "{:?}", isa);
        }
    }
}

#[test]
fn depthwise_gradients_of_large_pictures_keep_their_digits() {
    let size = [most(113, 34), most(97, 3)];
    for (k, s) in [(3, 1), (5, 2), (3, 2), (5, 1), (4, 3)].into_iter().take(most(5, 1)) {
        let w = Window { kernel: [k; 2], stride: [s; 2], dilation: [1; 2], before: [k / 2; 2], after: [k / 2; 2] };
        let (out, width) = (w.output(size).unwrap(), most(3, 1) * BLOCK);
        let [input, gradient, weights] = [(1, size[0] * size[1]), (2, out[0] * out[1]), (3, k * k)]
            .map(|(seed, rows)| numbers(seed, rows * width).iter().map(|v| v + 0.5).collect::<Vec<f32>>());
        let (mut by_weights, mut by_input) = (vec![0.0_f64; weights.len()], vec![0.0_f64; input.len()]);
        for ([at, tap, pixel], c) in seen(&w, size).iter().flat_map(|s| (0..width).map(move |c| (s, c))) {
            let g = f64::from(gradient[at * width + c]);
            by_weights[tap * width + c] += g * f64::from(input[pixel * width + c]);
            by_input[pixel * width + c] += g * f64::from(weights[tap * width + c]);
        }
        for (isa, [found_weights, found_input]) in everywhere(|isa, threads| {
            let (mut sums, mut result) = (vec![0.0; weights.len()], vec![55.0; input.len()]);
            depthwise::weight_gradient(isa, threads, w, &input, size, width, &gradient, &mut sums);
            depthwise::input_gradient(isa, threads, w, &weights, &gradient, size, width, &mut result);
            [sums, result]
        }) {
            let near = |found: &[f32], expected: &[f64], most: f64| {
                found.iter().zip(expected).all(|(f, e)| (f64::from(*f) - e).abs() < most)
            };
            // The sums by weights are near a quarter of the number of outputs, 2700 for the largest.
            assert!(near(&found_weights, &by_weights, 1e-6 * (out[0] * out[1]) as f64), "{isa:?} {w:?}");
            assert!(near(&found_input, &by_input, 1e-5), "{isa:?} {w:?}");
        }
    }
}
