//! Sizes of what flows through a network, and the windows over it.

use anyhow::{Result, bail, ensure};
use graft_kernels::train::norm::Affine;
use graft_kernels::{Activation, Window, padded};
use graft_zoo::network::{self, Op};
use graft_zoo::{Network, Padding};

/// What a node gives, for one picture: `[h, w, stride]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: [usize; 2],
    pub(super) channels: usize,
    /// Numbers from one pixel to the next.
    pub(super) stride: usize,
}

impl Shape {
    pub(super) fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    pub(super) fn numbers(&self) -> usize {
        self.pixels() * self.stride
    }
}

/// Returns the shape of every node for square pictures.
///
/// # Errors
///
/// If the network shrinks such pictures to nothing, channels do not fit, or no gradient is known here for a sum: of two
/// convolutions with an activation, or closed by another function than a clamp.
pub(super) fn shapes(network: &Network, side: usize) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(network.nodes.len());
    for node in &network.nodes {
        let from = |at: usize| node.inputs.get(at).map(|&j| shapes[j]);
        let shape = match (&node.op, from(0)) {
            (Op::Conv(c), Some(x)) => {
                fits(&c.name, c.inputs, x)?;
                ensure!(
                    c.groups == 1 || (c.groups == c.inputs && c.inputs == c.outputs),
                    "expected {} dense or depthwise, found {} groups",
                    c.name,
                    c.groups
                );
                let size = output(window(network.padding, x.size, c.kernel, c.stride), x.size)?;
                Shape { size, channels: c.outputs, stride: padded(c.outputs) }
            }
            (Op::Add(activation), Some(x)) => {
                ensure!(from(1) == Some(x), "expected a sum of two shapes that are one, found {x:?} and {:?}", from(1));
                let is_closed = |&&j: &&usize| match &network.nodes[j].op {
                    Op::Conv(c) => function(c.activation) != Activation::NONE,
                    _ => false,
                };
                let closed = node.inputs.iter().filter(is_closed).count();
                ensure!(closed < 2, "expected a sum of at most one convolution with an activation, found {closed}");
                ensure!(bounds(*activation).is_some(), "expected a sum closed by a clamp, found {activation:?}");
                x
            }
            (Op::SqueezeExcite(s), Some(x)) => {
                fits(&s.reduce, s.channels, x)?;
                x
            }
            (Op::Linear(l), Some(x)) => {
                fits(&l.name, l.inputs, x)?;
                ensure!(x.size == [1; 2], "expected a pooled picture before {}, found {:?} pixels", l.name, x.size);
                Shape { channels: l.outputs, stride: padded(l.outputs), ..x }
            }
            (Op::MaxPool, Some(x)) => Shape { size: output(window(network.padding, x.size, 3, 2), x.size)?, ..x },
            (Op::GlobalAveragePool, Some(x)) => Shape { size: [1; 2], ..x },
            (Op::Input, _) => Shape { size: [side; 2], channels: 3, stride: 3 },
            (op, None) => bail!("expected a node that {op:?} reads, found none"),
        };
        shapes.push(shape);
    }
    Ok(shapes)
}

fn fits(name: &str, channels: usize, x: Shape) -> Result<()> {
    ensure!(x.channels == channels, "expected {channels} channels before {name}, found {}", x.channels);
    Ok(())
}

fn output(window: Window, size: [usize; 2]) -> Result<[usize; 2]> {
    match window.output(size) {
        Some(out) => Ok(out),
        None => bail!("expected larger pictures: {size:?} pixels are left where a window of {:?} looks", window.kernel),
    }
}

pub(super) fn window(padding: Padding, size: [usize; 2], kernel: usize, stride: usize) -> Window {
    let amounts = size.map(|len| padding.amounts(len, kernel, stride));
    Window {
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        before: amounts.map(|a| a.0),
        after: amounts.map(|a| a.1),
    }
}

/// Returns the kernels' function.
pub(super) fn function(activation: network::Activation) -> Activation {
    match activation {
        network::Activation::None => Activation::NONE,
        network::Activation::Relu => Activation::RELU,
        network::Activation::Relu6 => Activation::RELU6,
        network::Activation::HardSwish => Activation::HardSwish,
        network::Activation::Silu => Activation::Silu,
        network::Activation::HardSigmoid => Activation::HardSigmoid { slope: 1.0 / 6.0, offset: 0.5 },
        network::Activation::Sigmoid => Activation::Sigmoid,
    }
}

/// Returns the bounds of a clamp; none of another function.
pub(super) fn bounds(activation: network::Activation) -> Option<(f32, f32)> {
    match function(activation) {
        Activation::Clamp { low, high } => Some((low, high)),
        _ => None,
    }
}

/// Scales of one and shifts of zero, for as many channels as any node has.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Identity {
    pub(super) fn new(shapes: &[Shape]) -> Self {
        let width = shapes.iter().map(|s| s.stride).max().unwrap_or(0);
        Self { scale: vec![1.0; width], shift: vec![0.0; width] }
    }

    pub(super) fn affine(&self, width: usize, activation: Activation) -> Affine<'_> {
        Affine { scale: &self.scale[..width], shift: &self.shift[..width], activation }
    }
}
