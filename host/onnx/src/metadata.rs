//! Adds to an ONNX file whose bytes are not to change otherwise.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::{Tensor, Value};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, StringStringEntryProto, TypeProto, ValueInfoProto};

use crate::OnnxError;

/// Returns an ONNX file with an entry more in its metadata, behind the bytes as they are: a device that has them needs the
/// entry alone. Of two entries of one key the later one counts.
///
/// # Source
///
/// Protocol Buffers encoding, *Last One Wins*: messages that follow one another are one, of which repeated fields are joined.
pub fn with_entry(onnx: &[u8], key: &str, value: &str) -> Vec<u8> {
    let entry = StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    let more = ModelProto { metadata_props: vec![entry], ..Default::default() };
    [onnx, &more.encode_to_vec()].concat()
}

/// Returns an ONNX file with an output more, of floats, behind the bytes as they are, as [`with_entry`].
pub fn with_output(onnx: &[u8], name: &str) -> Vec<u8> {
    let kind = Tensor { elem_type: DataType::Float as i32, shape: None };
    let kind = TypeProto { value: Some(Value::TensorType(kind)), ..Default::default() };
    let output = ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..Default::default() };
    let graph = GraphProto { output: vec![output], ..Default::default() };
    [onnx, &ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec()].concat()
}

/// Returns the name of what the last layer reads: the features. None where what makes the output is no linear layer.
///
/// # Errors
///
/// If the bytes are no ONNX file.
pub fn features_of(onnx: &[u8], output: &str) -> Result<Option<String>, OnnxError> {
    let model = ModelProto::decode(onnx).map_err(|e| OnnxError::Decode(e.to_string()))?;
    let nodes = model.graph.map_or(vec![], |g| g.node);
    let maker = |name: &str| -> Option<&NodeProto> { nodes.iter().rev().find(|n| n.output.iter().any(|o| o == name)) };
    let mut at = maker(output);
    // A bias or a rounding may come behind the product.
    for _ in 0..MOST_BEHIND {
        match at.map(|n| (n, n.op_type.as_str())) {
            Some((node, "Gemm" | "MatMul")) => return Ok(node.input.first().cloned()),
            Some((node, "Add" | "DequantizeLinear" | "QuantizeLinear")) => {
                at = node.input.first().and_then(|name| maker(name));
            }
            _ => break,
        }
    }
    Ok(None)
}

/// Nodes behind the product of the last layer.
const MOST_BEHIND: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_behind_the_bytes_as_they_are() {
        let entry = |key: &str| StringStringEntryProto { key: key.into(), value: "1".into() };
        let model = ModelProto { ir_version: 8, metadata_props: vec![entry("a")], ..Default::default() };
        let bytes = model.encode_to_vec();
        let more = with_entry(&bytes, "b", "1");
        assert!(more.starts_with(&bytes));
        let expected = ModelProto { metadata_props: vec![entry("a"), entry("b")], ..model };
        assert_eq!(ModelProto::decode(&more[..]).unwrap(), expected);
    }

    #[test]
    fn features_are_what_the_last_layer_reads_and_may_be_an_output() {
        let node = |op: &str, input: &str, output: &str| NodeProto {
            op_type: op.into(),
            input: vec![input.into(), "w".into()],
            output: vec![output.into()],
            ..Default::default()
        };
        let output = ValueInfoProto { name: "logits".into(), ..Default::default() };
        let model = |node: Vec<NodeProto>| {
            let graph = GraphProto { node, output: vec![output.clone()], name: "g".into(), ..Default::default() };
            ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() }.encode_to_vec()
        };
        let plain = model(vec![node("Flatten", "pool", "flat"), node("Gemm", "flat", "logits")]);
        let biased = vec![node("MatMul", "flat", "product"), node("Add", "product", "logits"), node("Relu", "a", "b")];
        let found = |bytes: &[u8]| features_of(bytes, "logits").unwrap();
        assert_eq!([found(&plain), found(&model(biased))], [Some("flat".to_owned()), Some("flat".to_owned())]);
        assert_eq!(found(&model(vec![node("Relu", "flat", "logits")])), None);
        assert_eq!(found(&model(vec![node("Add", "logits", "logits")])), None, "no way round in circles");
        assert!(features_of(b"no model", "logits").is_err());
        let more = with_output(&plain, "flat");
        assert!(more.starts_with(&plain));
        let graph = ModelProto::decode(&more[..]).unwrap().graph.unwrap();
        let names: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        assert_eq!((names, graph.node.len(), graph.name.as_str()), (vec!["logits", "flat"], 2, "g"));
    }
}
