//! Sizes of what flows through a network, and the windows over it.

use anyhow::{Result, bail, ensure};
use graft_kernels::train::norm::Affine;
use graft_kernels::{Window, padded};
use graft_zoo::network::Op;
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
/// If the network shrinks such pictures to nothing, or a sum is of nodes with an activation, which no gradient is known
/// for here.
pub(super) fn shapes(network: &Network, side: usize) -> Result<Vec<Shape>> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(network.nodes.len());
    for node in &network.nodes {
        let from = |at: usize| node.inputs.get(at).map(|&j| shapes[j]);
        let shape = match (&node.op, from(0)) {
            (Op::Conv(c), Some(x)) => {
                ensure!(
                    x.channels == c.inputs,
                    "expected {} channels before {}, found {}",
                    c.inputs,
                    c.name,
                    x.channels
                );
                ensure!(
                    c.groups == 1 || (c.groups == c.inputs && c.inputs == c.outputs),
                    "expected {} dense or depthwise, found {} groups",
                    c.name,
                    c.groups
                );
                let size = output(window(network.padding, x.size, c.kernel, c.stride), x.size)?;
                Shape { size, channels: c.outputs, stride: padded(c.outputs) }
            }
            (Op::Add(_), Some(x)) => {
                ensure!(from(1) == Some(x), "expected a sum of two shapes that are one, found {x:?} and {:?}", from(1));
                for &j in &node.inputs {
                    let open = !matches!(&network.nodes[j].op, Op::Conv(c) if c.activation.bounds() != Identity::OPEN);
                    ensure!(open, "expected a sum of convolutions without activation, found one with");
                }
                x
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

/// Scales of one and shifts of zero, for as many channels as any node has.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Identity {
    /// The bounds of no activation.
    pub(super) const OPEN: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

    pub(super) fn new(shapes: &[Shape]) -> Self {
        let width = shapes.iter().map(|s| s.stride).max().unwrap_or(0);
        Self { scale: vec![1.0; width], shift: vec![0.0; width] }
    }

    pub(super) fn affine(&self, width: usize, bounds: (f32, f32)) -> Affine<'_> {
        Affine { scale: &self.scale[..width], shift: &self.shift[..width], bounds }
    }
}
