//! A network, or the first nodes of one, with its normalisations folded into its convolutions: no gradient comes here.

use anyhow::{Context, Result};
use graft_kernels::conv::{self, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::pool::{self, Pool};
use graft_kernels::train::norm::{Residual, normalise};
use graft_kernels::{Activation, Buffer, Isa, Threads, Window, padded};
use graft_onnx::Affine;
use graft_zoo::Network;
use graft_zoo::network::{Conv, Op};

use super::quantized::{FACTORS, MEANS, REDUCED, round};
use super::shape::{Identity, Shape, function, window};
use super::weights::Weights;

/// Nodes ready to run, one picture after the other.
#[derive(Debug, Clone)]
pub(super) struct Folded {
    kernels: Vec<Kernel>,
    /// The last node of these that reads each.
    last_use: Vec<usize>,
    identity: Identity,
    /// How the activations of each node are rounded, those within it first; nothing where they are not.
    affines: Vec<Vec<Affine>>,
}

#[derive(Debug, Clone)]
enum Kernel {
    Input,
    Conv(conv::Conv),
    Depthwise(Depthwise),
    Add(Activation),
    MaxPool,
    Mean,
    /// What makes factors of means, in two steps.
    Squeeze(Box<[conv::Conv; 2]>),
}

impl Folded {
    /// Folds the first `nodes` nodes.
    ///
    /// # Errors
    ///
    /// If a tensor is missing.
    pub(super) fn new(network: &Network, shapes: &[Shape], weights: &Weights, nodes: usize) -> Result<Self> {
        let mut last_use = vec![usize::MAX; nodes];
        let mut kernels = Vec::with_capacity(nodes);
        for (i, node) in network.nodes[..nodes].iter().enumerate() {
            node.inputs.iter().for_each(|&j| last_use[j] = i);
            kernels.push(match &node.op {
                Op::Input => Kernel::Input,
                Op::Conv(c) => fold(network, c, shapes[node.inputs[0]].size, weights)?,
                Op::Add(a) => Kernel::Add(function(*a)),
                Op::MaxPool => Kernel::MaxPool,
                Op::GlobalAveragePool => Kernel::Mean,
                Op::SqueezeExcite(s) => Kernel::Squeeze(Box::new([
                    layer(&s.reduce, function(s.activation), weights)?,
                    layer(&s.expand, function(s.gate), weights)?,
                ])),
                Op::Linear(l) => Kernel::Conv(layer(&l.name, function(l.activation), weights)?),
            });
        }
        // What a later node reads stays.
        for node in &network.nodes[nodes..] {
            node.inputs.iter().filter(|&&j| j < nodes).for_each(|&j| last_use[j] = usize::MAX);
        }
        let affines = (0..nodes).map(|i| weights.affines(i)).collect();
        Ok(Self { kernels, last_use, identity: Identity::new(shapes), affines })
    }

    /// Computes every node of one picture, of which `values[0]` is the input; what no later node reads is left empty.
    pub(super) fn run(
        &self,
        network: &Network,
        shapes: &[Shape],
        isa: Isa,
        threads: &mut Threads,
        spare: &mut Vec<Buffer>,
        values: &mut [Buffer],
    ) -> Result<()> {
        for (i, kernel) in self.kernels.iter().enumerate() {
            let affines = &self.affines[i];
            if matches!(kernel, Kernel::Input) {
                if let Some(affine) = affines.last() {
                    round(threads, *affine, &mut values[i]);
                }
                continue;
            }
            let inputs = &network.nodes[i].inputs;
            let mut y = take(spare, shapes[i].numbers());
            let from = inputs.first().map(|&j| (&values[j], &shapes[j])).context("expected a node with inputs")?;
            let (data, shape) = from;
            let source = Source { data, size: shape.size, stride: shape.stride, edges: None };
            let out = &mut y[..shapes[i].numbers()];
            match kernel {
                Kernel::Input => {}
                Kernel::Conv(conv) => conv.run(isa, threads, source, None, out),
                Kernel::Depthwise(conv) => conv.run(isa, threads, source, out),
                Kernel::Add(activation) => {
                    let other = &values[inputs[1]][..shapes[i].numbers()];
                    let affine = self.identity.affine(shapes[i].stride, *activation);
                    normalise(isa, threads, &data[..out.len()], affine, Some(Residual::Plain(other)), out);
                }
                Kernel::MaxPool => {
                    let window = window(network.padding, shape.size, 3, 2);
                    pool::run(isa, threads, Pool::Max, &window, data, shape.size, shape.stride, out);
                }
                Kernel::Mean => self.mean(isa, threads, data, shape, out),
                Kernel::Squeeze(layers) => {
                    let [reduce, expand] = &**layers;
                    let (stride, width) = (shape.stride, padded(reduce.outputs()));
                    let [mut means, mut factors] = [(); 2].map(|()| vec![0.0; stride]);
                    let mut reduced = vec![0.0; width];
                    let close = |threads: &mut Threads, part: usize, values: &mut [f32]| {
                        if let Some(affine) = affines.get(part) {
                            round(threads, *affine, values);
                        }
                    };
                    self.mean(isa, threads, data, shape, &mut means);
                    close(threads, MEANS, &mut means);
                    let row = |data, stride| Source { data, size: [1; 2], stride, edges: None };
                    reduce.run(isa, threads, row(&means, stride), None, &mut reduced);
                    close(threads, REDUCED, &mut reduced);
                    expand.run(isa, threads, row(&reduced, width), None, &mut factors);
                    close(threads, FACTORS, &mut factors);
                    let scale = Pointwise::Scale(&factors);
                    pointwise::run(isa, threads, &data[..out.len()], scale, Activation::NONE, out);
                }
            }
            if let Some(affine) = affines.last() {
                round(threads, *affine, out);
            }
            values[i] = y;
            for &j in inputs {
                if self.last_use[j] == i && j > 0 {
                    spare.push(std::mem::take(&mut values[j]));
                }
            }
        }
        Ok(())
    }

    fn mean(&self, isa: Isa, threads: &mut Threads, data: &[f32], shape: &Shape, out: &mut [f32]) {
        let affine = self.identity.affine(shape.stride, Activation::NONE);
        let data = &data[..shape.numbers()];
        graft_kernels::train::pool::mean(isa, threads, data, affine, shape.pixels(), shape.stride, out);
    }
}

/// Takes the smallest buffer that is large enough.
pub(super) fn take(spare: &mut Vec<Buffer>, len: usize) -> Buffer {
    let fits = spare.iter().enumerate().filter(|(_, b)| b.len() >= len);
    match fits.min_by_key(|(_, b)| b.len()).map(|(i, _)| i) {
        Some(i) => spare.swap_remove(i),
        None => {
            // One that is too small makes room for it.
            if let Some(i) = (0..spare.len()).max_by_key(|&i| spare[i].len()) {
                spare.swap_remove(i);
            }
            Buffer::zeros(len)
        }
    }
}

fn fold(network: &Network, c: &Conv, size: [usize; 2], weights: &Weights) -> Result<Kernel> {
    let part = |name: &str| weights.used(&format!("{}.{name}", c.norm));
    let (gamma, beta, mean, variance) = (part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?);
    let scale: Vec<f32> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + network.bn_eps).sqrt()).collect();
    let bias: Vec<f32> = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    let mut weight = weights.used(&format!("{}.weight", c.name))?;
    let per = weight.len() / c.outputs;
    for (row, s) in weight.chunks_exact_mut(per).zip(&scale) {
        row.iter_mut().for_each(|w| *w *= s);
    }
    let window = window(network.padding, size, c.kernel, c.stride);
    let activation = function(c.activation);
    Ok(if c.groups > 1 {
        Kernel::Depthwise(Depthwise::new(&weight, &bias, window, activation))
    } else {
        Kernel::Conv(conv::Conv::new(&weight, &bias, window, activation).for_input(size))
    })
}

/// Returns a fully connected layer as a convolution of one pixel.
fn layer(name: &str, activation: Activation, weights: &Weights) -> Result<conv::Conv> {
    let [weight, bias] = ["weight", "bias"].map(|part| weights.used(&format!("{name}.{part}")));
    Ok(conv::Conv::new(&weight?, &bias?, Window::POINT, activation).for_input([1; 2]))
}
