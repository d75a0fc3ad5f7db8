//! A network as operations on activations, before kernels and memory are chosen.
//!
//! `compile` makes it from an ONNX graph and `lower` turns it into a program.

use std::borrow::Cow;

use graft_kernels::int8::Steps;
use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Window};
use serde::{Deserialize, Serialize};

/// Operations in an order in which each comes after what it reads.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub operations: Vec<Operation>,
    /// The operations whose results are the network's.
    pub outputs: Vec<usize>,
}

/// Height and width, and channels, of an activation of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub size: [usize; 2],
    pub channels: usize,
}

/// One operation and the functions that close it.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Name of the value in the ONNX graph that it makes.
    pub name: String,
    pub kind: Kind,
    /// Earlier operations that it reads.
    pub inputs: Vec<usize>,
    pub extent: Extent,
    /// Applied to the result, in turn.
    pub closing: Vec<Function>,
    /// An earlier operation whose result is added, and how many functions are applied before that.
    pub added: Option<(usize, usize)>,
}

/// What is computed.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The input's bytes, each channel by its table.
    Bytes {
        layout: Layout,
        tables: Vec<[f32; 256]>,
    },
    /// The input's numbers, adjusted in turn.
    Numbers {
        layout: Layout,
        adjustments: Vec<Adjustment>,
    },
    /// A dense convolution or product, or a depthwise convolution.
    Conv {
        weights: Weights,
        bias: Bias,
        window: Window,
        depthwise: bool,
    },
    Pool(Pool, Window),
    /// The sum of two.
    Add,
    /// The first times the second, which has one pixel.
    Scale,
    /// The product of two, number by number.
    Product,
    /// Nothing: there for what closes it.
    Copy,
    /// The softmax over the channels of one pixel.
    Softmax,
}

/// Where the channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layout {
    /// `[h, w, c]`.
    ChannelsLast,
    /// `[c, h, w]`.
    Planes,
}

/// An operation on every number of the input by one of each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Adjustment {
    pub operation: Arithmetic,
    pub by: Vec<f32>,
}

/// What is done to a number with a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

impl Adjustment {
    /// Returns what becomes of a number of a channel.
    pub fn at(&self, channel: usize, x: f32) -> f32 {
        let by = self.by[channel];
        match self.operation {
            Arithmetic::Add => x + by,
            Arithmetic::Sub => x - by,
            Arithmetic::Mul => x * by,
            Arithmetic::Div => x / by,
        }
    }
}

/// A function of one number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Function {
    Plain(Activation),
    /// `x * factor + term`.
    Affine {
        factor: f32,
        term: f32,
    },
    /// The number times what the functions make of it.
    Gated(Vec<Function>),
}

/// Weights `[outputs, inputs of a group, kernel h, kernel w]`, row-major.
#[derive(Debug)]
pub(crate) enum Weights {
    Floats(Vec<f32>),
    /// Steps of one scale an output.
    Steps(Vec<i8>, Vec<f32>),
}

/// What is added to each output.
#[derive(Debug)]
pub(crate) enum Bias {
    Floats(Vec<f32>),
    /// Steps of one scale an output.
    Steps(Vec<i32>, Vec<f32>),
}

impl Weights {
    pub fn floats(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Floats(v) => Cow::Borrowed(v),
            Self::Steps(v, scales) => {
                let per = v.len() / scales.len().max(1);
                v.iter().enumerate().map(|(i, q)| f32::from(*q) * scales[i / per]).collect()
            }
        }
    }

    /// Returns the weights of the dense convolution that equals one of `groups`: zero for the inputs of other groups.
    pub fn dense(self, groups: usize, outputs: usize) -> Self {
        fn spread<T: Copy + Default>(v: &[T], groups: usize, outputs: usize) -> Vec<T> {
            let per = v.len() / outputs;
            let mut dense = vec![T::default(); v.len() * groups];
            for (o, own) in v.chunks_exact(per).enumerate() {
                let at = (o * groups + o / (outputs / groups)) * per;
                dense[at..at + per].copy_from_slice(own);
            }
            dense
        }
        match self {
            Self::Floats(v) => Self::Floats(spread(&v, groups, outputs)),
            Self::Steps(v, scales) => Self::Steps(spread(&v, groups, outputs), scales),
        }
    }
}

impl Bias {
    pub fn floats(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Floats(v) => Cow::Borrowed(v),
            Self::Steps(v, scales) => v.iter().zip(scales).map(|(q, s)| *q as f32 * s).collect(),
        }
    }

    /// Returns it in whole units of each output's sum.
    pub fn steps(&self, units: &[f32]) -> Vec<i32> {
        match self {
            Self::Steps(v, scales) if scales.iter().zip(units).all(|(s, u)| (s - u).abs() <= u * 1e-6) => v.clone(),
            _ => {
                let whole = |(b, unit): (&f32, &f32)| (f64::from(*b) / f64::from(*unit)).round_ties_even() as i32;
                self.floats().iter().zip(units).map(whole).collect()
            }
        }
    }
}

impl Function {
    /// Returns its value at `x`.
    pub fn at(&self, x: f32) -> f32 {
        match self {
            Self::Plain(f) => f.at(x),
            Self::Affine { factor, term } => x * factor + term,
            Self::Gated(inner) => x * inner.iter().fold(x, |v, f| f.at(v)),
        }
    }

    /// Returns it as one that kernels know.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Plain(f) => Some(*f),
            Self::Affine { .. } => None,
            Self::Gated(inner) => match inner[..] {
                [Self::Plain(Activation::Sigmoid)] => Some(Activation::Silu),
                [Self::Plain(Activation::HardSigmoid { slope, offset })]
                    if (slope - 1.0 / 6.0).abs() < 1e-7 && offset == 0.5 =>
                {
                    Some(Activation::HardSwish)
                }
                _ => None,
            },
        }
    }

    /// Returns the steps it rounds to.
    pub fn steps(&self) -> Option<Steps> {
        match *self {
            Self::Plain(Activation::Quantized { scale, low, high }) => Some(Steps { scale, low, high }),
            _ => None,
        }
    }
}

impl Operation {
    /// Applies a further function.
    pub fn close(&mut self, f: Function) {
        // What comes before a sum stays there.
        let fixed = self.added.map_or(0, |(_, before)| before);
        then(&mut self.closing, fixed, f);
    }
}

/// Appends a function, merged with the last ones where that gives the same, but for the first `fixed`.
fn then(functions: &mut Vec<Function>, fixed: usize, f: Function) {
    use Activation::{Clamp, HardSigmoid};
    use Function::{Affine, Gated, Plain};
    match (&mut functions[fixed..], f) {
        // Rounding to the same steps once more changes nothing.
        ([.., last], f) if *last == f && f.steps().is_some() => {}
        ([.., Plain(last)], Plain(f)) if last.then(f).is_some() => *last = last.then(f).unwrap_or(f),
        ([.., Affine { factor, term }], Affine { factor: by, term: more }) => {
            (*factor, *term) = (*factor * by, *term * by + more);
        }
        ([.., last @ Affine { .. }], Plain(Clamp { low: 0.0, high: 1.0 })) => {
            if let Affine { factor: slope, term: offset } = *last {
                *last = Plain(HardSigmoid { slope, offset });
            }
        }
        // Bounds and a positive factor change places, so that `min(max(x + 3, 0), 6) / 6` is seen to be a hard sigmoid.
        ([.., Affine { .. }, Plain(Clamp { low, high })], f @ Affine { factor, term: 0.0 }) if factor > 0.0 => {
            let bounds = Plain(Clamp { low: *low * factor, high: *high * factor });
            functions.pop();
            then(functions, fixed, f);
            then(functions, fixed, bounds);
        }
        ([.., Gated(inner)], f @ Affine { term: 0.0, .. }) => then(inner, 0, f),
        (_, f) => functions.push(f),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affine(factor: f32, term: f32) -> Function {
        Function::Affine { factor, term }
    }

    fn of(functions: &[Function]) -> Vec<Function> {
        let mut merged = Vec::new();
        functions.iter().for_each(|f| then(&mut merged, 0, f.clone()));
        for i in -100..100 {
            let x = i as f32 * 0.07;
            let value = |list: &[Function]| list.iter().fold(x, |x, f| f.at(x));
            let (found, expected) = (value(&merged), value(functions));
            assert!((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{functions:?} {merged:?} {x}");
        }
        merged
    }

    #[test]
    fn hard_functions_are_seen_however_they_are_written() {
        let (three, sixth) = (affine(1.0, 3.0), affine(1.0 / 6.0, 0.0));
        let six = Function::Plain(Activation::RELU6);
        let sigmoid = Activation::HardSigmoid { slope: 1.0 / 6.0, offset: 0.5 };
        let gate = [three.clone(), six.clone(), sixth.clone()];
        assert_eq!(of(&gate), [Function::Plain(sigmoid)]);
        let swish = |functions: &[Function]| match &of(functions)[..] {
            [one] => one.activation(),
            _ => None,
        };
        assert_eq!(swish(&[Function::Gated(of(&gate))]), Some(Activation::HardSwish));
        assert_eq!(swish(&[Function::Gated(vec![three, six]), sixth]), Some(Activation::HardSwish));
    }

    #[test]
    fn functions_that_do_not_merge_stay_in_turn() {
        let six = Function::Plain(Activation::RELU6);
        for second in [affine(-1.0, 0.0), affine(2.0, 1.0)] {
            assert_eq!(of(&[affine(1.0, 3.0), six.clone(), second.clone()]).len(), 3);
            assert_eq!(of(&[six.clone(), second]).len(), 2);
        }
        assert_eq!(of(&[affine(2.0, 3.0), affine(-1.0, 1.0)]), [affine(-2.0, -2.0)]);
        let mut list = vec![affine(2.0, 3.0)];
        then(&mut list, 1, affine(2.0, 3.0));
        assert_eq!(list.len(), 2, "what is fixed stays");
    }
}
