//! The activations of a network: which there are, who reads them, and which scale together.

use graft_zoo::network::Op;
use graft_zoo::{Activation, Network};

use crate::HEAD;

/// An activation, which quantization gives a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its name in the graph.
    pub name: String,
    /// Its channels.
    pub channels: usize,
    /// What closes it.
    pub activation: Activation,
    /// The activations of which it is the sum, the maxima, the means or a multiple: it scales as they do.
    pub of: Vec<String>,
    /// The layers that read it, by the names of what they make.
    pub layers: Vec<String>,
    /// The activations that are computed from it without weights.
    pub makes: Vec<String>,
}

/// The name of the picture after its normalisation.
pub(crate) const NORMALISED: &str = "normalised";

/// Returns the activations of a network in the order of the graph, as a head reads the last.
pub fn values(network: &Network) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for (index, node) in network.nodes.iter().enumerate() {
        let name = name_of(network, index);
        let inputs: Vec<String> = node.inputs.iter().map(|&j| name_of(network, j)).collect();
        let channels = |of: &str| values.iter().find(|v| v.name == of).map_or(3, |v| v.channels);
        let before = inputs.first().map_or(3, |i| channels(i));
        match &node.op {
            Op::Input => add(&mut values, &name, 3, Activation::None, Source::Picture),
            Op::Conv(c) => add(&mut values, &name, c.outputs, c.activation, Source::Layer(&inputs[0])),
            Op::Linear(l) => add(&mut values, &name, l.outputs, l.activation, Source::Layer(&inputs[0])),
            Op::Add(activation) => add(&mut values, &name, before, *activation, Source::Values(&inputs, &[])),
            Op::MaxPool | Op::GlobalAveragePool => {
                add(&mut values, &name, before, Activation::None, Source::Values(&inputs, &[]));
            }
            Op::SqueezeExcite(s) => {
                let [means, reduced, factors] = within(&name);
                add(&mut values, &means, s.channels, Activation::None, Source::Values(&inputs, &[]));
                add(&mut values, &reduced, s.squeezed, s.activation, Source::Layer(&means));
                add(&mut values, &factors, s.channels, s.gate, Source::Layer(&reduced));
                add(&mut values, &name, before, Activation::None, Source::Values(&inputs, &[factors]));
            }
        }
    }
    if let Some(last) = values.last_mut() {
        last.layers.push(HEAD.into());
    }
    values
}

/// What an activation is computed from.
enum Source<'a> {
    Picture,
    /// Through weights.
    Layer(&'a str),
    /// Of the first it is a multiple, the others are factors.
    Values(&'a [String], &'a [String]),
}

fn add(values: &mut Vec<Value>, name: &str, channels: usize, activation: Activation, source: Source<'_>) {
    let mut of = vec![];
    match source {
        Source::Picture => {}
        Source::Layer(input) => {
            if let Some(v) = values.iter_mut().find(|v| v.name == input) {
                v.layers.push(name.to_owned());
            }
        }
        Source::Values(inputs, factors) => {
            of = inputs.to_vec();
            for v in values.iter_mut().filter(|v| inputs.contains(&v.name) || factors.contains(&v.name)) {
                v.makes.push(name.to_owned());
            }
        }
    }
    values.push(Value { name: name.to_owned(), channels, activation, of, layers: vec![], makes: vec![] });
}

/// Returns the name of what a node makes.
pub(crate) fn name_of(network: &Network, node: usize) -> String {
    match network.nodes[node].op {
        Op::Input => NORMALISED.to_owned(),
        _ => format!("node{node}"),
    }
}

/// Returns the names of the activations within a squeeze-and-excitation: means, what they are reduced to, factors.
pub(crate) fn within(node: &str) -> [String; 3] {
    ["means", "reduced", "factors"].map(|part| format!("{node}/{part}"))
}
