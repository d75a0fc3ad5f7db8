//! Chooses a kernel for every operation of a plan and packs its weights.
//!
//! An activation that ends rounded to at most 256 steps is kept as bytes. A convolution of bytes by s8 weights runs on
//! bytes; so do pools, sums and products between bytes. All else runs in single precision, with a step between where the
//! kinds meet.

use graft_kernels::conv::Conv;
use graft_kernels::depthwise::Depthwise;
use graft_kernels::int8::{self, Closing, Grid, Steps, Table};
use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Isa, padded};

use crate::plan::{Extent, Function, Kind, Layout, Operation, Plan, Weights};
use crate::program::{Link, Program, Shape, Step};
use crate::work::Work;

/// Turns a plan into a program for an instruction set.
pub(crate) fn lower(plan: Plan, isa: Isa) -> Program {
    let picture = picture_stride(&plan);
    let mut lowering = Lowering { isa, picture, steps: Vec::new(), made: Vec::new(), floats: Vec::new() };
    for operation in plan.operations {
        let made = lowering.operation(operation);
        lowering.made.push(made);
        lowering.floats.push(None);
    }
    let outputs = plan.outputs.iter().map(|o| lowering.floats(*o)).collect();
    Program::new(isa, lowering.steps, outputs)
}

/// Returns the channels stored for each pixel of the input: only dense convolutions take less than a whole block.
fn picture_stride(plan: &Plan) -> usize {
    let is_input = |o: &usize| matches!(plan.operations[*o].kind, Kind::Bytes { .. } | Kind::Numbers { .. });
    let narrow = plan.operations.iter().all(|operation| {
        let dense = matches!(operation.kind, Kind::Conv { depthwise: false, .. });
        let adds = operation.added.is_some_and(|(o, _)| is_input(&o));
        !adds && (dense || !operation.inputs.iter().any(is_input))
    });
    if narrow && !plan.outputs.iter().any(is_input) { 4 } else { graft_kernels::BLOCK }
}

struct Lowering {
    isa: Isa,
    /// Numbers from one pixel of the input to the next.
    picture: usize,
    steps: Vec<Step>,
    /// What each operation made.
    made: Vec<Shape>,
    /// The same in single precision, where that was asked for and it is not.
    floats: Vec<Option<Shape>>,
}

impl Lowering {
    fn operation(&mut self, mut operation: Operation) -> Shape {
        let name = std::mem::take(&mut operation.name);
        if let Some(done) = self.bytes(&name, &mut operation) {
            return done;
        }
        let Operation { kind, inputs, extent, closing, added, .. } = operation;
        let mut rest = closing.into_iter();
        let from = match kind {
            Kind::Copy => Some(self.made[inputs[0]]),
            _ => inputs.first().map(|i| self.floats(*i)),
        };
        let other = inputs.get(1).map(|i| self.floats(*i));
        let (stride, activation) = (padded(extent.channels), Activation::NONE);
        let made = match kind {
            Kind::Copy => None,
            Kind::Bytes { layout, mut tables } => {
                let last = rest.as_slice().iter().rposition(|f| f.steps().is_some_and(|s| s.grid().is_some()));
                let kept: Vec<Function> = rest.by_ref().take(last.map_or(usize::MAX, |l| l + 1)).collect();
                tables.as_flattened_mut().iter_mut().for_each(|v| *v = kept.iter().fold(*v, |v, f| f.at(v)));
                let grid = kept.last().and_then(|f| f.steps()?.grid());
                let work = match grid {
                    Some(grid) => Work::LookUp(layout, tables.iter().map(|t| t.map(|v| byte(v, grid))).collect()),
                    None => Work::Normalise(layout, tables),
                };
                Some(self.push(&name, work, None, None, extent, self.picture, grid))
            }
            Kind::Numbers { layout: Layout::Planes, adjustments }
                if self.picture == 4
                    && adjustments.is_empty()
                    && rest.as_slice().first().and_then(Function::steps).is_some_and(|s| s.grid().is_some()) =>
            {
                let steps = rest.next().and_then(|f| f.steps()).expect("the function was looked at");
                Some(self.push(&name, Work::Weave(steps), None, None, extent, self.picture, steps.grid()))
            }
            Kind::Numbers { layout, adjustments } => {
                let work = Work::Arrange { layout, adjustments };
                Some(self.push(&name, work, None, None, extent, self.picture, None))
            }
            Kind::Conv { weights, bias, window, depthwise } => {
                let (weights, bias) = (weights.floats(), bias.floats());
                let added = added.map(|(o, after)| (self.floats(o), after));
                // The sum and the function after it run in the kernel, unless something comes before the sum.
                let fused = added.filter(|(_, after)| *after == 0).map(|(shape, _)| shape);
                let f = match added.is_none() || fused.is_some() {
                    true => next(&mut rest).unwrap_or(activation),
                    false => activation,
                };
                let work = match depthwise {
                    true => Work::Depthwise(Depthwise::new(&weights, &bias, window, f)),
                    false => {
                        let size = from.expect("a convolution has an input").extent.size;
                        Work::Conv(Conv::new(&weights, &bias, window, f).for_input(size))
                    }
                };
                let mut made = self.push(&name, work, from, fused, extent, stride, None);
                if let (Some((shape, after)), None) = (added, fused) {
                    made = rest.by_ref().take(after).fold(made, |made, f| self.apply(&name, made, f));
                    let made_floats = self.in_floats(&name, made);
                    let f = next(&mut rest).unwrap_or(activation);
                    made = self.push(&name, Work::Pointwise(f), Some(made_floats), Some(shape), extent, stride, None);
                }
                Some(made)
            }
            Kind::Pool(kind, window) => {
                Some(self.push(&name, Work::Pool(kind, window), from, None, extent, stride, None))
            }
            Kind::Add => {
                let f = next(&mut rest).unwrap_or(activation);
                Some(self.push(&name, Work::Pointwise(f), from, other, extent, stride, None))
            }
            Kind::Scale => {
                let f = next(&mut rest).unwrap_or(activation);
                Some(self.push(&name, Work::Scale(f), from, other, extent, stride, None))
            }
            Kind::Product => Some(self.push(&name, Work::Product, from, other, extent, stride, None)),
            Kind::Softmax => Some(self.push(&name, Work::Softmax, from, None, extent, stride, None)),
        };
        let made = made.or(from).expect("a copy has an input");
        let rest: Vec<Function> = rest.collect();
        self.close(&name, made, &rest)
    }

    /// Applies functions in steps of their own, those of bytes by a table.
    fn close(&mut self, name: &str, mut made: Shape, mut functions: &[Function]) -> Shape {
        while let Some((first, rest)) = functions.split_first() {
            if let Some(grid) = made.grid
                && let Some((table, after, count)) = table(grid, functions)
            {
                let (extent, stride) = (made.extent, made.stride);
                made = self.push(name, Work::Table(table), Some(made), None, extent, stride, Some(after));
                functions = &functions[count..];
            } else {
                made = self.apply(name, made, first.clone());
                functions = rest;
            }
        }
        made
    }

    /// Applies a function in a step of its own.
    fn apply(&mut self, name: &str, made: Shape, f: Function) -> Shape {
        let (extent, stride) = (made.extent, made.stride);
        let from = self.in_floats(name, made);
        if let Some(steps) = f.steps()
            && let Some(grid) = steps.grid()
        {
            return self.push(name, Work::ToBytes(steps), Some(from), None, extent, stride, Some(grid));
        }
        match (f.activation(), f) {
            (Some(f), _) => self.push(name, Work::Pointwise(f), Some(from), None, extent, stride, None),
            (None, Function::Gated(inner)) => {
                let gate = inner.into_iter().fold(made, |made, f| self.apply(name, made, f));
                let gate = self.in_floats(name, gate);
                self.push(name, Work::Product, Some(from), Some(gate), extent, stride, None)
            }
            (None, Function::Affine { factor, term }) => {
                self.push(name, Work::Affine { factor, term }, Some(from), None, extent, stride, None)
            }
            (None, Function::Plain(_)) => unreachable!("a plain function is an activation"),
        }
    }

    /// Runs an operation on bytes, if it can be.
    fn bytes(&mut self, name: &str, operation: &mut Operation) -> Option<Shape> {
        let from = self.made.get(*operation.inputs.first()?).copied()?;
        let grid = from.grid?;
        let extent = operation.extent;
        let stride = padded(extent.channels);
        let closing = &operation.closing;
        match &mut operation.kind {
            Kind::Conv { weights: Weights::Steps(values, scales), bias, window, depthwise } => {
                let units: Vec<f32> = scales.iter().map(|s| s * grid.scale).collect();
                let added = match operation.added {
                    Some((o, after)) => Some((self.made[o], after)).filter(|(s, _)| s.grid.is_some()),
                    None => None,
                };
                (added.is_some() == operation.added.is_some()).then_some(())?;
                let (close, written, used) = fused(closing, added.map(|(_, after)| after), *depthwise)?;
                let weights = int8::conv::Weights { values, bias: &bias.steps(&units), units: &units };
                let (isa, zero, window, size) = (self.isa, grid.zero, *window, from.extent.size);
                let work = match depthwise {
                    true => Work::ByteDepthwise(int8::depthwise::Depthwise::new(isa, weights, zero, window, close)),
                    false => Work::ByteConv(int8::conv::Conv::new(isa, weights, zero, window, close).for_input(size)),
                };
                let other = added.map(|(s, _)| s);
                let made = self.push(name, work, Some(from), other, extent, stride, written);
                let rest = operation.closing.split_off(used);
                Some(self.close(name, made, &rest))
            }
            Kind::Pool(kind, window) => {
                let pixels = window.kernel[0].min(from.extent.size[0]) * window.kernel[1].min(from.extent.size[1]);
                (pixels <= int8::pool::MAX_WINDOW).then_some(())?;
                let (steps, used) = match (*kind, closing.first().and_then(Function::steps)) {
                    // The largest of steps is one of them; rounding it to the same changes nothing.
                    (Pool::Max, first) => {
                        let same = first.is_some_and(|s| s.grid() == Some(grid) && s.high - s.low == 255.0);
                        (Steps { scale: grid.scale, low: -f32::from(grid.zero), high: 255.0 }, usize::from(same))
                    }
                    (_, first) => (first?, 1),
                };
                let written = if *kind == Pool::Max { grid } else { steps.grid()? };
                let work = Work::BytePool(*kind, *window, steps);
                let made = self.push(name, work, Some(from), None, extent, stride, Some(written));
                let rest = operation.closing.split_off(used);
                Some(self.close(name, made, &rest))
            }
            Kind::Add | Kind::Scale => {
                let other = self.made[operation.inputs[1]];
                other.grid?;
                // A function before the first rounding, or none.
                let (f, at) = match (closing.first()?.steps(), closing.get(1).and_then(Function::steps)) {
                    (Some(_), _) => (Activation::NONE, 0),
                    (None, Some(_)) => (closing[0].activation()?, 1),
                    (None, None) => return None,
                };
                let steps = closing[at].steps()?;
                let written = steps.grid()?;
                let work = match operation.kind {
                    Kind::Add => Work::ByteAdd(f, steps),
                    _ if f == Activation::NONE => Work::ByteScale(steps),
                    _ => return None,
                };
                let made = self.push(name, work, Some(from), Some(other), extent, stride, Some(written));
                let rest = operation.closing.split_off(at + 1);
                Some(self.close(name, made, &rest))
            }
            _ => None,
        }
    }

    /// Returns what an operation made in single precision.
    fn floats(&mut self, operation: usize) -> Shape {
        let made = self.made[operation];
        if made.grid.is_none() {
            return made;
        }
        if let Some(floats) = self.floats[operation] {
            return floats;
        }
        let floats = self.in_floats("", made);
        self.floats[operation] = Some(floats);
        floats
    }

    fn in_floats(&mut self, name: &str, made: Shape) -> Shape {
        match made.grid {
            Some(_) => self.push(name, Work::ToFloats, Some(made), None, made.extent, made.stride, None),
            None => made,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn push(
        &mut self,
        name: &str,
        work: Work,
        from: Option<Shape>,
        other: Option<Shape>,
        extent: Extent,
        stride: usize,
        grid: Option<Grid>,
    ) -> Shape {
        let to = Shape { slot: self.steps.len(), extent, stride, grid };
        let links = vec![Link { work, extent, stride, grid }];
        self.steps.push(Step { name: name.to_owned(), links, from, other, to });
        to
    }
}

/// Takes the next function if kernels of single precision know it; what rounds to bytes is left to a step of its own.
fn next(rest: &mut std::vec::IntoIter<Function>) -> Option<Activation> {
    let first = rest.as_slice().first()?;
    if first.steps().is_some_and(|s| s.grid().is_some()) {
        return None;
    }
    let f = first.activation()?;
    rest.next();
    Some(f)
}

/// Returns how a kernel on bytes closes with the first of the functions, the grid that it writes, and how many it took.
fn fused(functions: &[Function], added: Option<usize>, bytes_only: bool) -> Option<(Closing, Option<Grid>, usize)> {
    let mut used = 0;
    let mut closing = Closing { first: None, activation: Activation::NONE, last: None, table: None };
    if let Some(steps) = functions.first().and_then(Function::steps)
        && added.is_none_or(|after| after == 1)
    {
        steps.grid().or(added.map(|_| Grid { scale: 1.0, zero: 0 }))?;
        closing.first = Some(steps);
        used = 1;
    }
    if let Some(after) = added {
        (used == after).then_some(())?;
    }
    if added.is_some() || closing.first.is_none() {
        if let Some(f) = functions.get(used).filter(|f| f.steps().is_none()) {
            closing.activation = f.activation()?;
            used += 1;
        }
        if let Some(steps) = functions.get(used).and_then(Function::steps) {
            steps.grid()?;
            closing.last = Some(steps);
            used += 1;
        }
    }
    let mut written = closing.written(added.is_some()).and_then(Steps::grid);
    if let Some(grid) = written
        && let Some((table, after, count)) = table(grid, &functions[used..])
    {
        closing.table = Some(table);
        written = Some(after);
        used += count;
    }
    (!bytes_only || written.is_some()).then_some((closing, written, used))
}

/// Returns what the functions, as far as they end in bytes, make of every byte of a grid, and how many they are.
fn table(grid: Grid, functions: &[Function]) -> Option<(Table, Grid, usize)> {
    let last = functions.iter().rposition(|f| f.steps().is_some_and(|s| s.grid().is_some()))?;
    let after = functions[last].steps()?.grid()?;
    let of = |q: usize| {
        let x = (q as f32 - f32::from(grid.zero)) * grid.scale;
        byte(functions[..=last].iter().fold(x, |x, f| f.at(x)), after)
    };
    Some((Table::from(std::array::from_fn(of)), after, last + 1))
}

/// Returns the byte that stands for a number that was rounded to a grid.
fn byte(x: f32, grid: Grid) -> u8 {
    ((x / grid.scale).round_ties_even() + f32::from(grid.zero)) as u8
}
