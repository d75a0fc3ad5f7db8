//! A network as operations on activations, before kernels and memory are chosen.
//!
//! `compile` makes it from an ONNX graph and `lower` turns it into a program.

use std::borrow::Cow;

use graft_kernels::int8::Steps;
use graft_kernels::pool::Pool;
use graft_kernels::{Activation, Window};

/// Operations in an order in which each comes after what it reads.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub operations: Vec<Operation>,
    /// The operations whose results are the network's.
    pub outputs: Vec<usize>,
}

/// Height and width, and channels, of an activation of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// The input's bytes, `[h, w, c]`, each channel by its table.
    Bytes(Vec<[f32; 256]>),
    /// The input's numbers, `[h, w, c]` or `[c, h, w]`, each channel less its mean and over its deviation.
    Numbers {
        layout: Layout,
        mean: Vec<f32>,
        std: Vec<f32>,
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
    /// Nothing: there for what closes it.
    Copy,
    /// The softmax over the channels of one pixel.
    Softmax,
}

/// Where the channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[h, w, c]`.
    ChannelsLast,
    /// `[c, h, w]`.
    Planes,
}

/// A function of one number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Function {
    Plain(Activation),
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
            Self::Gated(inner) => x * inner.iter().fold(x, |v, f| f.at(v)),
        }
    }

    /// Returns it as one that kernels know.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Plain(f) => Some(*f),
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
        let after_sum = self.added.is_some_and(|(_, after)| after == self.closing.len());
        let last = self.closing.last_mut().filter(|_| !after_sum);
        match (last, f) {
            // Rounding to the same steps once more changes nothing.
            (Some(last), f) if *last == f && f.steps().is_some() => {}
            (Some(Function::Plain(last)), Function::Plain(f)) if last.then(f).is_some() => {
                *last = last.then(f).unwrap_or(f);
            }
            (_, f) => self.closing.push(f),
        }
    }
}
