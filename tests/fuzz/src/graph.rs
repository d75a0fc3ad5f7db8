//! Changes to ONNX files that leave them protocol buffers: nearly every change of a byte does not.

use graft_link::Random;
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

/// Returns a changed file, or none where the bytes are no model with nodes.
pub fn changed(onnx: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut model = ModelProto::decode(onnx).ok()?;
    let mut chance = Chance(Random::new(seed.into(), 0));
    let graph = model.graph.as_mut().filter(|graph| !graph.node.is_empty())?;
    for _ in 0..=chance.below(4) {
        change(graph, &mut chance);
    }
    Some(model.encode_to_vec())
}

struct Chance(Random);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0.below(most as u64) as usize
    }

    fn number(&mut self) -> i64 {
        match self.below(4) {
            0 => NUMBERS[self.below(NUMBERS.len())],
            1 => self.0.number() as i64 >> self.below(64),
            _ => self.below(9) as i64,
        }
    }

    fn one<'a, T>(&mut self, of: &'a mut [T]) -> Option<&'a mut T> {
        let at = self.below(of.len());
        of.get_mut(at)
    }
}

fn change(graph: &mut GraphProto, chance: &mut Chance) {
    match chance.below(16) {
        0..6 => node(graph, chance),
        6..9 => {
            if let Some(tensor) = chance.one(&mut graph.initializer) {
                change_tensor(tensor, chance);
            }
        }
        9 => {
            let copy = chance.one(&mut graph.node).cloned();
            let at = chance.below(graph.node.len() + 1);
            graph.node.splice(at..at, copy);
        }
        10 if graph.node.len() > 1 => {
            let at = chance.below(graph.node.len());
            graph.node.remove(at);
        }
        11 if graph.node.len() > 1 => {
            let (a, b) = (chance.below(graph.node.len()), chance.below(graph.node.len()));
            graph.node.swap(a, b);
        }
        12 => {
            if let Some(input) = chance.one(&mut graph.input) {
                change_value(input, chance);
            }
        }
        13 => {
            let name = chance.one(&mut graph.node).and_then(|n| n.output.first().cloned());
            if let (Some(name), Some(output)) = (name, chance.one(&mut graph.output)) {
                output.name = name;
            }
        }
        14 => insert(graph, chance),
        _ => {
            let copy = chance.one(&mut graph.initializer).cloned();
            let name = chance.one(&mut graph.node).and_then(|n| n.input.last().cloned());
            if let (Some(tensor), Some(name)) = (copy, name) {
                graph.initializer.push(TensorProto { name, ..tensor });
            }
        }
    }
}

/// Puts an operator between a value and those who read it.
fn insert(graph: &mut GraphProto, chance: &mut Chance) {
    let at = chance.below(graph.node.len());
    let Some(read) = graph.node[at].input.first().cloned() else { return };
    let name = format!("{read}+{}", chance.below(1000));
    let op_type = OPERATORS[chance.below(OPERATORS.len())].to_owned();
    let inputs = (0..chance.below(2)).filter_map(|_| Some(chance.one(&mut graph.initializer)?.name.clone()));
    let input = std::iter::once(read).chain(inputs.collect::<Vec<_>>()).collect();
    graph.node[at].input[0] = name.clone();
    let made = NodeProto { name: name.clone(), op_type, input, output: vec![name], ..NodeProto::default() };
    graph.node.insert(at, made);
}

fn node(graph: &mut GraphProto, chance: &mut Chance) {
    let at = chance.below(graph.node.len());
    let names: Vec<String> = {
        let values = graph.node.iter().flat_map(|n| n.output.iter().chain(&n.input));
        values.chain(graph.initializer.iter().map(|t| &t.name)).cloned().collect()
    };
    let other = chance.one(&mut graph.node).map(|n| n.op_type.clone()).unwrap_or_default();
    let node = &mut graph.node[at];
    match chance.below(10) {
        0..4 => {
            if let Some(attribute) = chance.one(&mut node.attribute) {
                change_attribute(attribute, chance);
            }
        }
        4 => {
            let at = chance.below(node.attribute.len().max(1));
            (at < node.attribute.len()).then(|| node.attribute.remove(at));
        }
        5 => node.op_type = other,
        6 => node.op_type = OPERATORS[chance.below(OPERATORS.len())].to_owned(),
        7 => drop(node.input.pop()),
        8 => node.input.reverse(),
        _ => {
            let name = names.get(chance.below(names.len())).cloned().unwrap_or_default();
            match chance.one(&mut node.input) {
                Some(input) if chance.below(3) > 0 => *input = name,
                _ => node.input.push(name),
            }
        }
    }
}

fn change_attribute(attribute: &mut AttributeProto, chance: &mut Chance) {
    match chance.below(6) {
        0 => attribute.i = chance.number(),
        1 => attribute.f = f32::from_bits(chance.number() as u32),
        2 => attribute.ints.truncate(chance.below(4)),
        3 => attribute.ints.push(chance.number()),
        4 => {
            if let Some(tensor) = &mut attribute.t {
                change_tensor(tensor, chance);
            }
        }
        _ => {
            let number = chance.number();
            match chance.one(&mut attribute.ints) {
                Some(value) => *value = number,
                None => attribute.i = number,
            }
        }
    }
}

fn change_tensor(tensor: &mut TensorProto, chance: &mut Chance) {
    match chance.below(7) {
        0 => tensor.data_type = chance.below(20) as i32,
        1 => tensor.dims.push(1),
        2 => drop(tensor.dims.pop()),
        3 if tensor.dims.len() > 1 => tensor.dims.rotate_right(1),
        4 => {
            let number = chance.number();
            if let Some(value) = chance.one(&mut tensor.dims) {
                *value = number;
            }
        }
        5 => tensor.raw_data.truncate(chance.below(tensor.raw_data.len() + 1)),
        _ => {
            let number = chance.number();
            if let Some(byte) = chance.one(&mut tensor.raw_data) {
                *byte = number as u8;
            } else if let Some(value) = chance.one(&mut tensor.int64_data) {
                *value = number;
            } else if let Some(value) = chance.one(&mut tensor.float_data) {
                *value = f32::from_bits(number as u32);
            }
        }
    }
}

fn change_value(value: &mut ValueInfoProto, chance: &mut Chance) {
    let tensor = value.r#type.as_mut().and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = tensor else { return };
    let Some(shape) = tensor.shape.as_mut() else { return };
    let number = chance.number();
    match chance.below(5) {
        0 => tensor.elem_type = chance.below(12) as i32,
        1 => shape.dim.push(Dimension { value: Some(dimension::Value::DimValue(number)), ..Dimension::default() }),
        2 => drop(shape.dim.pop()),
        _ => {
            if let Some(dim) = chance.one(&mut shape.dim) {
                dim.value = Some(dimension::Value::DimValue(number));
            }
        }
    }
}

/// Where arithmetic goes wrong.
const NUMBERS: &[i64] = &[-1, 0, 1, 2, 3, 7, 16, 17, 255, 4095, 4096, 1 << 16, 1 << 31, 1 << 40, i64::MAX, i64::MIN];

/// What the compiler of the runtime knows, and some that it leaves to tract.
const OPERATORS: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "QuantizeLinear",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];
