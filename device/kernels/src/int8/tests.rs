//! Every kernel on every instruction set against its definition, byte for byte.

use proptest::prelude::*;

use super::conv::{Conv, Weights};
use super::depthwise::Depthwise;
use super::pointwise::Pointwise;
use super::*;
use crate::conv::tests::{bands, cases, most};
use crate::pool::Pool;
use crate::{BLOCK, Isa, Threads, Window, padded};

/// Bytes of every value, the same for a seed.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn signed(seed: u64, len: usize) -> Vec<i8> {
    bytes(seed, len).into_iter().map(u8::cast_signed).collect()
}

/// Which bytes and weights are multiplied.
#[derive(Debug, Clone, Copy)]
enum Range {
    Any,
    /// No weight is -128, as symmetric quantization leaves them.
    Symmetric,
    /// What gives the largest sums.
    Extremes,
}

fn range() -> impl Strategy<Value = Range> {
    prop_oneof![Just(Range::Any), Just(Range::Symmetric), Just(Range::Extremes)]
}

/// Bytes and weights.
fn operands(range: Range, seed: u64, lens: [usize; 2]) -> (Vec<u8>, Vec<i8>) {
    let (x, w) = (bytes(seed, lens[0]), signed(seed ^ 1, lens[1]));
    match range {
        Range::Any => (x, w),
        Range::Symmetric => (x, w.into_iter().map(|w| w.max(-127)).collect()),
        Range::Extremes => {
            let x = x.into_iter().map(|x| if x < 240 { 0 } else { 255 });
            (x.collect(), w.into_iter().map(|w| if w < 120 { -128 } else { 127 }).collect())
        }
    }
}

/// Channels padded with bytes that must not matter.
fn spread(x: &[u8], channels: usize, stride: usize) -> Vec<u8> {
    let mut wide = Vec::new();
    for pixel in x.chunks(channels) {
        wide.extend_from_slice(pixel);
        wide.resize(wide.len() + stride - channels, 77);
    }
    wide
}

/// The sums of a convolution, `[h, w, outputs]`, by their definition.
fn sums(x: &[u8], zero: u8, size: [usize; 2], weights: &[i8], bias: &[i32], w: &Window, groups: usize) -> Vec<i32> {
    let outputs = bias.len();
    let channels = x.len() / (size[0] * size[1]);
    let (per, out) = (channels / groups, w.output(size).unwrap());
    let mut y = Vec::new();
    for oy in 0..out[0] {
        for ox in 0..out[1] {
            for (o, b) in bias.iter().enumerate() {
                let mut sum = *b;
                for i in 0..per {
                    for ky in 0..w.kernel[0] {
                        for kx in 0..w.kernel[1] {
                            let iy = (oy * w.stride[0] + ky * w.dilation[0]) as isize - w.before[0] as isize;
                            let ix = (ox * w.stride[1] + kx * w.dilation[1]) as isize - w.before[1] as isize;
                            if iy < 0 || ix < 0 || iy >= size[0] as isize || ix >= size[1] as isize {
                                continue;
                            }
                            let at =
                                (iy as usize * size[1] + ix as usize) * channels + o / (outputs / groups) * per + i;
                            let k = ((o * per + i) * w.kernel[0] + ky) * w.kernel[1] + kx;
                            sum += (i32::from(x[at]) - i32::from(zero)) * i32::from(weights[k]);
                        }
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

fn whole(x: f32, s: Steps) -> f32 {
    x.round_ties_even().max(s.low).min(s.high)
}

/// What a closing makes of a sum, by its definition.
fn closed(sum: i32, unit: f32, c: &Closing, added: Option<(u8, Grid)>) -> f32 {
    let mut x = sum as f32 * c.first.map_or(unit, |s| unit / s.scale);
    let steps = match c.first {
        Some(first) => {
            let steps = whole(x, first);
            x = steps * first.scale;
            Some((steps, first))
        }
        None => None,
    };
    let written = match (steps, c.written(added.is_some())) {
        (Some((steps, first)), Some(written)) if c.last.is_none() && written == first => steps - first.low,
        (_, written) => {
            if let Some((q, grid)) = added {
                x += (f32::from(q) - f32::from(grid.zero)) * grid.scale;
            }
            x = c.activation.at(x);
            written.map_or(x, |last| whole(x / last.scale, last) - last.low)
        }
    };
    match (&c.table, c.written(added.is_some())) {
        (Some(table), Some(_)) => f32::from(table[written as usize]),
        _ => written,
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
    // Those of the usual networks, which have code of their own.
    let usual = (prop_oneof![Just(1usize), Just(3), Just(5)], 1usize..=2, 0usize..=1).prop_map(|(k, s, more)| Window {
        kernel: [k; 2],
        stride: [s; 2],
        dilation: [1; 2],
        before: [k / 2 - more.min(k / 2); 2],
        after: [k / 2; 2],
    });
    prop_oneof![any, usual]
}

fn steps(scale: f32) -> impl Strategy<Value = Steps> {
    (0u8..=255).prop_map(move |zero| Steps { scale, low: -f32::from(zero), high: 255.0 - f32::from(zero) })
}

fn closing() -> impl Strategy<Value = Closing> {
    let functions = prop_oneof![Just(Activation::NONE), Just(Activation::RELU), Just(Activation::HardSwish)];
    let (first, last) = (proptest::option::of(steps(0.37)), proptest::option::of(steps(0.11)));
    (first, functions, last, any::<bool>(), any::<u64>()).prop_map(|(first, activation, last, table, seed)| {
        let table = table.then(|| Table::from(std::array::from_fn(|i| bytes(seed, 256)[i])));
        Closing { first, activation, last, table }
    })
}

/// Runs a kernel into memory of the kind that is written, and returns it as numbers.
fn run(bytes: bool, len: usize, kernel: impl FnOnce(&mut Output<'_>)) -> Vec<f32> {
    if bytes {
        let mut y = vec![55; len];
        kernel(&mut Output::Bytes(&mut y));
        y.into_iter().map(f32::from).collect()
    } else {
        let mut y = vec![55.0; len];
        kernel(&mut Output::Floats(&mut y));
        y
    }
}

/// A dense convolution, but for its window and its input.
#[derive(Debug)]
struct Dense {
    seed: u64,
    closing: Closing,
    zero: u8,
    outputs: usize,
    threads: usize,
    adds: bool,
    narrow: bool,
    band: usize,
    range: Range,
}

fn dense() -> impl Strategy<Value = Dense> {
    let numbers = (any::<u64>(), closing(), any::<u8>(), 1usize..=most(70, 20), range());
    let run = (1usize..=3, any::<bool>(), any::<bool>(), 1usize..=20);
    (numbers, run).prop_map(|((seed, closing, zero, outputs, range), (threads, adds, narrow, band))| Dense {
        seed,
        closing,
        zero,
        outputs,
        threads,
        adds,
        narrow,
        band,
        range,
    })
}

impl Dense {
    fn check(&self, w: Window, size: [usize; 2], inputs: usize) -> Result<(), TestCaseError> {
        let Self { seed, ref closing, zero, outputs, threads, adds, narrow, band, range } = *self;
        let Some(out) = w.output(size) else { return Ok(()) };
        let lens = [size[0] * size[1] * inputs, outputs * inputs * w.kernel[0] * w.kernel[1]];
        let (x, values) = operands(range, seed, lens);
        let bias: Vec<i32> = signed(seed ^ 2, outputs).into_iter().map(|b| i32::from(b) * 40).collect();
        let units: Vec<f32> = bytes(seed ^ 3, outputs).into_iter().map(|b| f32::from(b) * 4e-6 + 1e-5).collect();
        let addend = bytes(seed ^ 4, out[0] * out[1] * outputs);
        let sums = sums(&x, zero, size, &values, &bias, &w, 1);
        let stride = if narrow { inputs.next_multiple_of(4) } else { padded(inputs) };
        let (wide, wide_addend) = (spread(&x, inputs, stride), spread(&addend, outputs, padded(outputs)));
        let (grid, other) = (Grid { scale: 0.1, zero }, Grid { scale: 0.31, zero: zero / 3 });
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let weights = Weights { values: &values, bias: &bias, units: &units };
            let conv = Conv::new(isa, weights, zero, w, closing.clone()).for_input(size);
            let added = adds.then_some((&wide_addend[..], other));
            let line = out[1] * padded(outputs);
            let y = run(closing.written(adds).is_some(), out[0] * line, |y| {
                for (rows, size, from, edges) in bands(&w, size, band) {
                    let source = Source { data: &wide[from * size[1] * stride..], size, stride, grid, edges };
                    let added = added.map(|(a, grid)| (&a[rows.start * line..], grid));
                    let range = rows.start * line..rows.end * line;
                    let mut part = match y {
                        Output::Bytes(y) => Output::Bytes(&mut y[range]),
                        Output::Floats(y) => Output::Floats(&mut y[range]),
                    };
                    conv.run(&mut team, source, added, &mut part);
                }
            });
            for (i, sum) in sums.iter().enumerate() {
                let found = y[i / outputs * padded(outputs) + i % outputs];
                let e = closed(*sum, units[i % outputs], closing, adds.then_some((addend[i], other)));
                let near = closing.written(adds).is_none() && (found - e).abs() <= 1e-6 * (1.0 + e.abs());
                prop_assert!(found == e || near, "{isa:?} {i}: {found} {e}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(200, 4))]

    #[test]
    fn dense_convolutions_equal_their_definition_on_every_instruction_set(
        w in window(), size in [1usize..=most(11, 4), 1usize..=most(11, 6)],
        inputs in prop_oneof![1usize..=most(35, 9), 1usize..=4], case in dense(),
    ) {
        case.check(w, size, inputs)?;
    }

    #[test]
    #[cfg_attr(miri, ignore = "for AVX2 alone")]
    fn windows_that_winograds_method_computes_give_the_same_sums(
        [top, left, bottom, right] in [0usize..=2, 0usize..=2, 0usize..=2, 0usize..=2], size in [3usize..=15, 3usize..=15],
        sixteens in 1usize..=4, case in dense(),
    ) {
        let w = Window { kernel: [3; 2], before: [top, left], after: [bottom, right], ..Window::POINT };
        case.check(w, size, 16 * sixteens)?;
    }

    #[test]
    fn depthwise_convolutions_equal_their_definition_on_every_instruction_set(
        seed: u64, w in window(), closing in closing(), size in [1usize..=most(14, 5), 1usize..=most(14, 7)], zero: u8,
        channels in 1usize..=most(150, 40), threads in 1usize..=3, band in 1usize..=20, range in range(),
    ) {
        let Some(out) = w.output(size) else { return Ok(()) };
        if closing.written(false).is_none() { return Ok(()) }
        let lens = [size[0] * size[1] * channels, channels * w.kernel[0] * w.kernel[1]];
        let (x, values) = operands(range, seed, lens);
        let bias: Vec<i32> = signed(seed ^ 2, channels).into_iter().map(|b| i32::from(b) * 40).collect();
        let units: Vec<f32> = bytes(seed ^ 3, channels).into_iter().map(|b| f32::from(b) * 4e-6 + 1e-4).collect();
        let sums = sums(&x, zero, size, &values, &bias, &w, channels);
        let stride = padded(channels);
        let (wide, grid) = (spread(&x, channels, stride), Grid { scale: 0.1, zero });
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let weights = Weights { values: &values, bias: &bias, units: &units };
            let conv = Depthwise::new(isa, weights, zero, w, closing.clone());
            let mut y = vec![55; out[0] * out[1] * stride];
            let line = out[1] * stride;
            for (rows, size, from, edges) in bands(&w, size, band) {
                let source = Source { data: &wide[from * size[1] * stride..], size, stride, grid, edges };
                conv.run(&mut team, source, &mut y[rows.start * line..rows.end * line]);
            }
            for (i, sum) in sums.iter().enumerate() {
                let found = f32::from(y[i / channels * stride + i % channels]);
                let e = closed(*sum, units[i % channels], &closing, None);
                prop_assert!(found == e, "{isa:?} {i}: {found} {e}");
            }
        }
    }

    #[test]
    fn functions_of_a_place_equal_their_definition_on_every_instruction_set(
        seed: u64, pixels in 1usize..=9, blocks in 1usize..=3, last in steps(0.21), threads in 1usize..=3,
        z: u8, other: u8, floats: bool,
    ) {
        let channels = blocks * BLOCK;
        let (a, b) = (bytes(seed, pixels * channels), bytes(seed ^ 1, pixels * channels));
        let numbers: Vec<f32> = a.iter().map(|v| f32::from(*v) * 0.3 - 40.0).collect();
        let (grid, grid2) = (Grid { scale: 0.13, zero: z }, Grid { scale: 0.07, zero: other });
        let real = |q: u8, g: Grid| (f32::from(q) - f32::from(g.zero)) * g.scale;
        let steps = (!floats).then_some(last);
        let rounded = |x: f32| steps.map_or(x, |s| whole(x / s.scale, s) - s.low);
        let factor = grid.scale * grid2.scale;
        let unit = steps.map_or(factor, |s| factor / s.scale);
        let product = |q: u8, f: u8| {
            let x = (f32::from(q) - f32::from(z)) * (f32::from(f) - f32::from(other)) * unit;
            steps.map_or(x, |s| whole(x, s) - s.low)
        };
        let sum = Pointwise::Add { a: (&a, grid), b: (&b, grid2), activation: Activation::RELU };
        let scale = Pointwise::Scale { a: (&a, grid), b: (&b[..channels], grid2) };
        let cases: [(Pointwise<'_>, &dyn Fn(usize) -> f32); 4] = [
            (sum, &|i| rounded((real(a[i], grid) + real(b[i], grid2)).max(0.0))),
            (scale, &|i| product(a[i], b[i % channels])),
            (Pointwise::Bytes(&a, grid), &|i| rounded(real(a[i], grid))),
            (Pointwise::Floats(&numbers), &|i| rounded(numbers[i])),
        ];
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            for (n, (operation, expected)) in cases.iter().enumerate() {
                let y = run(!floats, a.len(), |y| pointwise::run(isa, &mut team, *operation, steps, y));
                for (i, found) in y.iter().enumerate() {
                    prop_assert!(*found == expected(i), "{isa:?} {n} {i}: {found} {}", expected(i));
                }
            }
        }
    }

    #[test]
    fn pools_equal_their_definition_on_every_instruction_set(
        seed: u64, w in window(), size in [1usize..=most(9, 4), 1usize..=most(9, 6)], last in steps(0.21),
        threads in 1usize..=3, zero: u8, kind in prop_oneof![Just(Pool::Max), Just(Pool::Mean), Just(Pool::MeanWithPadding)],
    ) {
        let Some(out) = w.output(size) else { return Ok(()) };
        let stride = 2 * BLOCK;
        let x = bytes(seed, size[0] * size[1] * stride);
        let grid = Grid { scale: 0.13, zero };
        let mut team = Threads::new(threads);
        for isa in Isa::available() {
            let mut y = vec![55; out[0] * out[1] * stride];
            pool::run(isa, &mut team, kind, &w, Source { data: &x, size, stride, grid, edges: None }, last, &mut y);
            for (i, found) in y.iter().enumerate() {
                let (oy, ox, c) = (i / stride / out[1], i / stride % out[1], i % stride);
                let mut seen = Vec::new();
                for ty in w.taps(0, oy, size[0]) {
                    for tx in w.taps(1, ox, size[1]) {
                        seen.push(x[(w.pixel(0, oy, ty) * size[1] + w.pixel(1, ox, tx)) * stride + c]);
                    }
                }
                let count = match kind {
                    Pool::MeanWithPadding => w.kernel[0] * w.kernel[1],
                    _ => seen.len().max(1),
                };
                let sum: i32 = seen.iter().map(|q| i32::from(*q) - i32::from(zero)).sum();
                let expected = match kind {
                    Pool::Max => f32::from(seen.iter().copied().max().unwrap_or(0)),
                    _ => whole(sum as f32 * (grid.scale / (count as f32 * last.scale)), last) - last.low,
                };
                prop_assert!(f32::from(*found) == expected, "{isa:?} {i}: {found} {expected}");
            }
        }
    }
}

/// Colours side by side are one run of taps; without its width a window of one row would be that of a pointwise layer, and runs
/// that reach beyond the picture are put together elsewhere.
#[test]
fn rows_of_taps_over_colours_equal_their_definition() {
    let closing = Closing { first: None, activation: Activation::NONE, last: None, table: None };
    let (size, zero, outputs, grid) = ([most(5, 2), 9], 7, 5, Grid { scale: 0.1, zero: 7 });
    let flat = (1..=4).step_by(most(1, 3)).map(|breadth| Window { kernel: [1, breadth], ..Window::POINT });
    for w in flat.chain([Window { kernel: [3; 2], before: [1; 2], after: [1; 2], ..Window::POINT }]) {
        let (x, values) = (bytes(1, size[0] * size[1] * 3), signed(2, outputs * 3 * w.kernel[0] * w.kernel[1]));
        let (bias, units) = ([3; 5], [1.0; 5]);
        let expected = sums(&x, zero, size, &values, &bias, &w, 1);
        for isa in Isa::available() {
            let conv =
                Conv::new(isa, Weights { values: &values, bias: &bias, units: &units }, zero, w, closing.clone());
            let source = Source { data: &spread(&x, 3, 4), size, stride: 4, grid, edges: None };
            let y = run(false, expected.len() / outputs * padded(outputs), |y| {
                conv.run(&mut Threads::new(2), source, None, y);
            });
            let found: Vec<f32> = y.chunks(padded(outputs)).flat_map(|p| p[..outputs].to_vec()).collect();
            assert_eq!(found, expected.iter().map(|s| *s as f32).collect::<Vec<_>>(), "{isa:?} {w:?}");
        }
    }
}

#[test]
fn planes_are_rounded_and_woven_on_every_instruction_set() {
    let steps = Steps { scale: 0.05, low: -7.0, high: 248.0 };
    let mut team = Threads::new(2);
    for (channels, pixels) in [(1, 5), (3, 37), (4, 100), (3, 16)] {
        let planes: Vec<f32> = bytes(9, channels * pixels).into_iter().map(|b| f32::from(b) * 0.09 - 6.0).collect();
        for isa in Isa::available() {
            let mut y = vec![0; pixels * 4];
            pointwise::weave(isa, &mut team, &planes, channels, steps, &mut y);
            for (i, found) in y.iter().enumerate().filter(|(i, _)| i % 4 < channels) {
                let expected = whole(planes[i % 4 * pixels + i / 4] / 0.05, steps) + 7.0;
                assert_eq!(f32::from(*found), expected, "{isa:?} {channels} {i}");
            }
        }
    }
}

#[test]
fn a_table_is_looked_up_by_every_thread() {
    let table = std::array::from_fn(|i| 255 - i as u8);
    let x = bytes(3, 1000);
    let mut y = vec![0; 1000];
    pointwise::look_up(&mut Threads::new(3), &table, &x, &mut y);
    assert!(x.iter().zip(&y).all(|(x, y)| *y == 255 - x));
}

#[test]
fn steps_that_bytes_cannot_hold_have_no_grid() {
    let steps = |low, high| Steps { scale: 0.5, low, high };
    assert_eq!(steps(-3.0, 252.0).grid(), Some(Grid { scale: 0.5, zero: 3 }));
    assert_eq!(steps(0.0, 20.0).grid(), Some(Grid { scale: 0.5, zero: 0 }));
    assert_eq!(steps(-3.0, 253.0).grid(), None);
    assert_eq!(steps(1.0, 20.0).grid(), None);
    assert_eq!(steps(-20.0, -1.0).grid(), None);
}

/// The largest sums that Winograd's method may be given: whether four times them still fits.
#[test]
#[cfg_attr(miri, ignore = "for AVX2 alone")]
fn winograds_method_holds_the_largest_sums() {
    let (inputs, w) = (1024, Window { kernel: [3; 2], before: [1; 2], after: [1; 2], ..Window::POINT });
    for weight in [-128, 127] {
        let (x, values) = (vec![255; 36 * inputs], vec![weight; 16 * inputs * 9]);
        let weights = Weights { values: &values, bias: &[0; 16], units: &[1.0; 16] };
        let closing = Closing { first: None, activation: Activation::NONE, last: None, table: None };
        for isa in Isa::available() {
            let conv = Conv::new(isa, weights, 0, w, closing.clone()).for_input([6; 2]);
            #[cfg(target_arch = "x86_64")]
            assert_eq!(format!("{:?}", conv.apart().0).contains("Winograd"), isa == Isa::Avx2);
            let y = run(false, 36 * 16, |y| {
                let source =
                    Source { data: &x, size: [6; 2], stride: inputs, grid: Grid { scale: 1.0, zero: 0 }, edges: None };
                conv.run(&mut Threads::new(1), source, None, y);
            });
            // A tap of four, six or nine falls on the picture.
            let sum = |taps: i32| (taps * 255 * i32::from(weight) * inputs as i32) as f32;
            assert_eq!([y[0], y[16], y[7 * 16]], [sum(4), sum(6), sum(9)], "{isa:?}");
        }
    }
}
