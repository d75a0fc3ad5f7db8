//! Whether steps that were read from a file could have been made by the compiler.
//!
//! Kernels and the code around them take for granted that operands are of the shape and kind that lowering gave them. A
//! packed model is a file, so each of its steps is held against what its kernel needs, in the order of running. A program
//! that passes can neither panic nor read what is not there: the lengths of weights follow from the kernels' own forms.

use graft_kernels::int8::{Closing, Steps, pool};
use graft_kernels::pool::Pool;
use graft_kernels::{BLOCK, Window, padded};

use crate::band::BETWEEN;
use crate::compile::MAX_ACTIVATION;
use crate::input::{Input, Kind};
use crate::plan::{Extent, Layout};
use crate::program::{Link, Shape, Step};
use crate::work::Work;

/// Returns none where something does not hang together.
pub(crate) fn check(steps: &[Step], outputs: &[Shape], input: &Input) -> Option<()> {
    input.is_sound().then_some(())?;
    // What each slot holds; there are no more slots than steps.
    let mut held: Vec<Option<Shape>> = vec![None; steps.len()];
    let mut sizes = vec![0; steps.len()];
    for step in steps {
        let to = step.to;
        for read in step.from.iter().chain(&step.other) {
            (read.slot != to.slot && *held.get(read.slot)? == Some(*read)).then_some(())?;
        }
        is_made(&to).then_some(())?;
        let links = match (&step.from, &step.links[..]) {
            (None, [link]) => step.other.is_none() && reads(link, input),
            (Some(from), links) => in_turn(links, *from, step.other)?,
            (None, _) => false,
        };
        let last = step.links.last()?;
        let written = Shape { slot: to.slot, extent: last.extent, stride: last.stride, grid: last.grid };
        (links && written == to).then_some(())?;
        *held.get_mut(to.slot)? = Some(to);
        sizes[to.slot] = to.bytes().max(sizes[to.slot]);
    }
    let all = sizes.iter().try_fold(0_usize, |all, size| all.checked_add(*size))?;
    let out = |shape: &Shape| shape.grid.is_none() && held.get(shape.slot) == Some(&Some(*shape));
    (all <= MOST && !outputs.is_empty() && outputs.iter().all(out)).then_some(())
}

/// Whether an activation is one that the compiler makes. No count of such a one overflows.
fn is_made(shape: &Shape) -> bool {
    let Shape { extent: Extent { size: [h, w], channels }, stride, .. } = *shape;
    let fits = h > 0 && w > 0 && channels > 0 && (stride == 4 && channels <= 4 || padded_is(channels, stride));
    fits && h.checked_mul(w).and_then(|n| n.checked_mul(stride)).is_some_and(|len| len <= MAX_ACTIVATION)
}

fn padded_is(channels: usize, stride: usize) -> bool {
    channels <= MAX_ACTIVATION && padded(channels) == stride
}

/// Checks work that reads the picture.
fn reads(link: &Link, input: &Input) -> bool {
    let channels = input.extent.channels;
    let fits = match &link.work {
        Work::Normalise(layout, tables) => {
            (input.kind, *layout, tables.len(), link.grid.is_some()) == (Kind::Bytes, input.layout, channels, false)
        }
        Work::LookUp(layout, tables) => {
            (input.kind, *layout, tables.len(), link.grid.is_some()) == (Kind::Bytes, input.layout, channels, true)
        }
        Work::Arrange { layout, adjustments } => {
            let each = adjustments.iter().all(|a| a.by.len() == channels);
            each && (input.kind, *layout, link.grid.is_some()) == (Kind::Floats, input.layout, false)
        }
        Work::Weave(steps) => {
            let planes = input.kind == Kind::Floats && input.layout == Layout::Planes;
            planes && link.stride == 4 && link.grid.is_some() && rounds(steps)
        }
        _ => false,
    };
    fits && link.extent == input.extent
}

/// Checks the links of a step that reads an activation.
fn in_turn(links: &[Link], from: Shape, other: Option<Shape>) -> Option<bool> {
    let (last, before) = links.split_last()?;
    if !before.is_empty() {
        let row: Vec<Band> = links.iter().filter_map(|l| Band::of(&l.work)).collect();
        let known = matches!(row[..], [Band::Dense, Band::Depthwise] | [Band::Dense, Band::Depthwise, Band::Dense]);
        let whole = links.len() == row.len() && links.len() <= BETWEEN + 1;
        // So that every row of an output sees a row of the picture.
        let sees = |w: Window| w.before[0].max(w.after[0]) <= (w.kernel[0] - 1).checked_mul(w.dilation[0]).unwrap_or(0);
        let near = links.iter().filter_map(|l| l.work.window()).all(|w| w.taps_in_all().is_some() && sees(w));
        (known && whole && near).then_some(())?;
    }
    let mut from = from;
    for link in before {
        let to = Shape { slot: from.slot, extent: link.extent, stride: link.stride, grid: link.grid };
        is_made(&to).then_some(())?;
        fits(&link.work, &from, None, &to).then_some(())?;
        from = to;
    }
    let to = Shape { slot: from.slot, extent: last.extent, stride: last.stride, grid: last.grid };
    Some(fits(&last.work, &from, other.as_ref(), &to))
}

/// What may be run by bands.
enum Band {
    Dense,
    Depthwise,
}

impl Band {
    fn of(work: &Work) -> Option<Self> {
        match work {
            Work::Conv(_) | Work::ByteConv(_) => Some(Self::Dense),
            Work::Depthwise(_) | Work::ByteDepthwise(_) => Some(Self::Depthwise),
            _ => None,
        }
    }
}

/// Whether work that reads an activation is given what it needs.
fn fits(work: &Work, from: &Shape, other: Option<&Shape>, to: &Shape) -> bool {
    let kinds = (from.grid.is_some(), to.grid.is_some());
    let (floats, bytes) = (kinds == (false, false), kinds == (true, true));
    let like = |a: &Shape, b: &Shape| a.extent == b.extent && a.stride == b.stride;
    let same = like(from, to);
    let channels = (from.extent.channels, to.extent.channels);
    let wide = |shape: &Shape| shape.stride.is_multiple_of(BLOCK);
    let slides = |w: Window| w.taps_in_all().is_some() && w.output(from.extent.size) == Some(to.extent.size);
    // The second operand, of the same shape or one pixel of as many channels.
    let second = |is_bytes| other.is_some_and(|o| o.grid.is_some() == is_bytes && like(o, to));
    let factor = |is_bytes| {
        let one = |o: &Shape| o.extent == Extent { size: [1; 2], channels: channels.1 } && o.stride == to.stride;
        other.is_some_and(|o| o.grid.is_some() == is_bytes && one(o))
    };
    let alone = other.is_none();
    match work {
        Work::Conv(conv) => {
            let kind = floats && (alone || second(false));
            kind && wide(to) && slides(conv.window()) && (conv.inputs(), conv.outputs()) == channels
        }
        Work::Depthwise(conv) => {
            let kind = floats && alone && wide(from) && wide(to);
            kind && slides(conv.window()) && (conv.channels(), conv.channels()) == channels
        }
        Work::ByteConv(conv) => {
            let kind = kinds.0 && (alone || second(true)) && closes(conv.closing(), !alone, to);
            let zero = from.grid.is_some_and(|grid| grid.zero == conv.zero());
            kind && zero && wide(to) && slides(conv.window()) && (conv.inputs(), conv.outputs()) == channels
        }
        Work::ByteDepthwise(conv) => {
            let kind = bytes && alone && wide(from) && wide(to) && closes(conv.closing(), false, to);
            let zero = from.grid.is_some_and(|grid| grid.zero == conv.zero());
            kind && zero && slides(conv.window()) && (conv.channels(), conv.channels()) == channels
        }
        Work::Pool(_, window) => floats && alone && wide(from) && pools(window, from, to) && slides(*window),
        Work::BytePool(kind, window, steps) => {
            let [h, w] = [0, 1].map(|axis| window.kernel[axis].min(from.extent.size[axis]));
            let exact = h.checked_mul(w).is_some_and(|pixels| pixels <= pool::MAX_WINDOW);
            let kept = *kind != Pool::Max || from.grid == to.grid;
            // The largest of steps is one of them, and rounded to none.
            let kind = bytes && alone && kept && (*kind == Pool::Max || rounds(steps)) && wide(from);
            kind && exact && pools(window, from, to) && slides(*window)
        }
        Work::Pointwise(_) => floats && same && (alone || second(false)),
        Work::Product => floats && same && second(false),
        Work::Scale(_) => floats && same && wide(to) && factor(false),
        Work::Affine { .. } => floats && same && alone,
        Work::Softmax => floats && same && alone && from.extent.size == [1; 2],
        Work::ByteAdd(_, steps) => bytes && same && second(true) && rounds(steps),
        Work::ByteScale(steps) => bytes && same && wide(to) && factor(true) && rounds(steps),
        Work::Table(_) => bytes && same && alone,
        Work::ToBytes(steps) => kinds == (false, true) && same && alone && rounds(steps),
        Work::ToFloats => kinds == (true, false) && same && alone,
        Work::Normalise(..) | Work::LookUp(..) | Work::Arrange { .. } | Work::Weave(_) => false,
    }
}

/// A pool keeps the channels.
fn pools(window: &Window, from: &Shape, to: &Shape) -> bool {
    window.taps_in_all().is_some() && from.stride == to.stride && from.extent.channels == to.extent.channels
}

/// Whether what closes a convolution writes what is wanted.
fn closes(closing: &Closing, adds: bool, to: &Shape) -> bool {
    match (closing.written(adds), to.grid) {
        (Some(steps), Some(_)) => rounds(&steps),
        (None, None) => closing.table.is_none(),
        _ => false,
    }
}

/// Whether bytes hold the steps.
fn rounds(steps: &Steps) -> bool {
    steps.grid().is_some()
}

/// Most bytes of all slots together.
const MOST: usize = if cfg!(target_pointer_width = "64") { 4 << 30 } else { 1 << 30 };

#[cfg(test)]
mod tests {
    use graft_kernels::conv::Conv;
    use graft_kernels::depthwise::Depthwise;
    use graft_kernels::int8::Grid;
    use graft_kernels::{Activation, Isa};

    use super::*;
    use crate::program::Program;

    const GRID: Grid = Grid { scale: 0.5, zero: 3 };
    const STEPS: Steps = Steps { scale: 0.5, low: -3.0, high: 252.0 };

    fn input() -> Input {
        Input { kind: Kind::Floats, layout: Layout::Planes, extent: Extent { size: [8, 8], channels: 3 } }
    }

    fn shape(slot: usize, side: usize, channels: usize, stride: usize) -> Shape {
        Shape { slot, extent: Extent { size: [side; 2], channels }, stride, grid: None }
    }

    fn step(work: Work, from: Option<Shape>, other: Option<Shape>, to: Shape) -> Step {
        let Shape { extent, stride, grid, .. } = to;
        Step { name: String::new(), links: vec![Link { work, extent, stride, grid }], from, other, to }
    }

    fn window(side: usize, border: usize) -> Window {
        Window { kernel: [side; 2], before: [border; 2], after: [border; 2], ..Window::POINT }
    }

    fn conv(inputs: usize, outputs: usize) -> Work {
        let weights = vec![0.1; inputs * outputs * 9];
        Work::Conv(Conv::new(&weights, &vec![0.0; outputs], window(3, 1), Activation::NONE))
    }

    /// The picture, a convolution with a depthwise one, to bytes and back, a sum, a pool, a product by one pixel.
    fn sound() -> (Vec<Step>, Vec<Shape>) {
        let (picture, wide, back, one) =
            (shape(0, 8, 3, 4), shape(1, 8, 5, 16), shape(2, 8, 5, 16), shape(0, 1, 5, 16));
        let bytes = Shape { slot: 3, grid: Some(GRID), ..wide };
        let depthwise = Work::Depthwise(Depthwise::new(&[0.1; 45], &[0.0; 5], window(3, 1), Activation::NONE));
        let arrange = Work::Arrange { layout: Layout::Planes, adjustments: Vec::new() };
        let mut both = step(conv(3, 5), Some(picture), None, wide);
        both.links.push(Link { work: depthwise, extent: wide.extent, stride: 16, grid: None });
        let steps = vec![
            step(arrange, None, None, picture),
            both,
            step(Work::ToBytes(STEPS), Some(wide), None, bytes),
            step(Work::ToFloats, Some(bytes), None, back),
            step(Work::Pool(Pool::Mean, window(8, 0)), Some(back), None, one),
            step(Work::Scale(Activation::RELU), Some(back), Some(one), wide),
            step(Work::Pointwise(Activation::NONE), Some(wide), Some(back), Shape { slot: 4, ..wide }),
        ];
        (steps, vec![Shape { slot: 4, ..wide }])
    }

    #[test]
    fn what_the_compiler_could_have_made_is_taken_and_runs() {
        let (steps, outputs) = sound();
        assert!(check(&steps, &outputs, &input()).is_some());
        let program = Program::placed(Isa::best(), steps, outputs);
        let picture: Vec<f32> = (0..192).map(|i| i as f32 * 0.1).collect();
        assert_eq!(program.run(crate::Picture::Floats(&picture))[0].len(), 320);
    }

    #[test]
    fn whatever_does_not_fit_is_refused() {
        type Change = fn(&mut Vec<Step>, &mut Vec<Shape>);
        let cases: &[(&str, Change)] = &[
            ("no steps", |s, _| s.clear()),
            ("no output", |_, o| o.clear()),
            ("an output that no step writes", |_, o| o[0].slot = 5),
            ("a slot beyond all", |_, o| o[0].slot = usize::MAX),
            ("an output larger than what is there", |_, o| o[0].extent.size[0] = 9),
            ("an output of bytes", |_, o| o[0].grid = Some(GRID)),
            ("a step to a slot beyond all", |s, _| s[6].to.slot = 7),
            ("a step into what it reads", |s, _| s[3].to.slot = 3),
            ("one that reads what is not yet written", |s, _| s[1].from = Some(shape(2, 8, 3, 4))),
            ("one that reads a larger shape", |s, _| s[2].from = Some(shape(1, 9, 5, 16))),
            ("one that reads another kind", |s, _| s[3].from = s[1].from),
            ("no links", |s, _| s[2].links.clear()),
            ("links that make something else", |s, _| s[2].links[0].extent.size[0] = 7),
            ("nothing that the second reads", |s, _| s[1].from = None),
            ("a picture of other sides", |s, _| (s[0].to.extent.size, s[0].links[0].extent.size) = ([8, 7], [8, 7])),
            ("a picture in another order", |s, _| {
                s[0].links[0].work = Work::Arrange { layout: Layout::ChannelsLast, adjustments: Vec::new() };
            }),
            ("a picture of bytes", |s, _| s[0].links[0].work = Work::Normalise(Layout::Planes, vec![[0.0; 256]; 3])),
            ("a picture by another kernel", |s, _| s[0].links[0].work = Work::ToFloats),
            ("one too many channels", |s, _| s[1].links[0].work = conv(4, 5)),
            ("one output too many", |s, _| s[1].links[0].work = conv(3, 17)),
            ("channels that overflow", |s, _| s[1].links[0].extent.channels = usize::MAX),
            ("a size that overflows", |s, _| s[1].links[0].extent.size = [usize::MAX; 2]),
            ("bands of what is no convolution", |s, _| s[1].links[1].work = Work::Softmax),
            ("bands in another order", |s, _| s[1].links.swap(0, 1)),
            ("more bands than there is memory for", |s, _| {
                let more = sound().0.swap_remove(1).links;
                s[1].links.extend(more);
            }),
            ("a sum in a depthwise step", |s, _| s[1].other = s[1].from),
            ("steps that bytes do not hold", |s, _| {
                s[2].links[0].work = Work::ToBytes(Steps { high: 253.0, ..STEPS });
            }),
            ("steps that are no number", |s, _| s[2].links[0].work = Work::ToBytes(Steps { low: f32::NAN, ..STEPS })),
            ("bytes that are none", |s, _| s[2].links[0].work = Work::ToFloats),
            ("a pool without a tap", |s, _| s[4].links[0].work = Work::Pool(Pool::Max, window(0, 0))),
            ("a pool that moves by nothing", |s, _| {
                s[4].links[0].work = Work::Pool(Pool::Max, Window { stride: [0; 2], ..window(8, 0) });
            }),
            ("a pool of another size", |s, _| s[4].links[0].work = Work::Pool(Pool::Max, window(7, 0))),
            ("a product by nothing", |s, _| s[5].other = None),
            ("a product by a picture", |s, _| s[5].other = s[5].from),
            ("a sum with one pixel", |s, _| s[6].other = s[5].other),
            ("a softmax of many pixels", |s, _| s[3].links[0].work = Work::Softmax),
        ];
        for (what, change) in cases {
            let (mut steps, mut outputs) = sound();
            change(&mut steps, &mut outputs);
            assert!(check(&steps, &outputs, &input()).is_none(), "{what}");
        }
        let (steps, outputs) = sound();
        for extent in [Extent { size: [8, 8], channels: 5 }, Extent { size: [0, 8], channels: 3 }] {
            assert!(check(&steps, &outputs, &Input { extent, ..input() }).is_none(), "{extent:?}");
        }
    }
}
