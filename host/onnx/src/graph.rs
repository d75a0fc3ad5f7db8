//! A small builder over the ONNX protobuf types.

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

/// Collects nodes and initializers in the order they are added.
#[derive(Default)]
pub(crate) struct Graph {
    proto: GraphProto,
}

/// A size of an axis.
pub(crate) enum Dim {
    Named(&'static str),
    Fixed(usize),
}

impl Graph {
    /// Adds a node whose one output and own name are `output`, and returns that name.
    pub(crate) fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> String {
        self.proto.node.push(NodeProto {
            op_type: op.into(),
            name: output.into(),
            input: inputs.iter().map(|s| (*s).to_owned()).collect(),
            output: vec![output.into()],
            attribute,
            ..Default::default()
        });
        output.to_owned()
    }

    pub(crate) fn f32s(&mut self, name: &str, dims: &[usize], data: &[f32]) -> String {
        self.initializer(name, dims, DataType::Float, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub(crate) fn f16s(&mut self, name: &str, dims: &[usize], data: &[f32]) -> String {
        let bytes = data.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        self.initializer(name, dims, DataType::Float16, bytes)
    }

    pub(crate) fn i32s(&mut self, name: &str, dims: &[usize], data: &[i32]) -> String {
        self.initializer(name, dims, DataType::Int32, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub(crate) fn i8s(&mut self, name: &str, dims: &[usize], data: &[i8]) -> String {
        self.initializer(name, dims, DataType::Int8, data.iter().map(|v| v.to_le_bytes()[0]).collect())
    }

    pub(crate) fn u8s(&mut self, name: &str, dims: &[usize], data: &[u8]) -> String {
        self.initializer(name, dims, DataType::Uint8, data.to_vec())
    }

    fn initializer(&mut self, name: &str, dims: &[usize], kind: DataType, raw_data: Vec<u8>) -> String {
        self.proto.initializer.push(TensorProto {
            name: name.into(),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..Default::default()
        });
        name.to_owned()
    }

    pub(crate) fn input(&mut self, name: &str, kind: DataType, dims: &[Dim]) {
        self.proto.input.push(value_info(name, kind, dims));
    }

    pub(crate) fn output(&mut self, name: &str, kind: DataType, dims: &[Dim]) {
        self.proto.output.push(value_info(name, kind, dims));
    }

    pub(crate) fn finish(mut self, name: &str) -> GraphProto {
        self.proto.name = name.into();
        self.proto
    }
}

fn value_info(name: &str, kind: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: Some(match d {
                Dim::Named(n) => dimension::Value::DimParam((*n).to_owned()),
                Dim::Fixed(v) => dimension::Value::DimValue(*v as i64),
            }),
            ..Default::default()
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(TensorShapeProto { dim }) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..Default::default() }
}

pub(crate) fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    let ints = values.into_iter().map(|v| v as i64).collect();
    AttributeProto { name: name.into(), r#type: AttributeType::Ints as i32, ints, ..Default::default() }
}
