//! What is read from an ONNX file before the engine sees it.
//!
//! tract indexes by names it has not looked up and reads any external file it is told of; a graph is therefore
//! checked here first, so that a damaged one is refused with its reason and not with a panic.

use std::collections::{BTreeMap, BTreeSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

use crate::RuntimeError;
use crate::external::is_external;
use crate::outline::{Outline, Source};

/// Longest model that is read, in bytes.
pub const MAX_MODEL_LEN: u64 = 512 << 20;

/// Reads an ONNX file's outline and checks that its names hang together and its data is inside, or beside the file.
pub(crate) fn read(source: &mut Source<'_>) -> Result<Outline, RuntimeError> {
    let mut outline = source.outline()?;
    source.find_external(&mut outline)?;
    check_tensors(&outline.graph)?;
    check_names(&outline.graph)?;
    check_attributes(&outline.graph)?;
    Ok(outline)
}

/// Returns the metadata of a model.
pub(crate) fn metadata(model: &ModelProto) -> BTreeMap<String, String> {
    model.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect()
}

/// Returns the inputs that are not initializers.
pub(crate) fn inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let initial: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(|i| !initial.contains(i.name.as_str())).collect()
}

/// Calls `each` with every node, those of nested graphs included.
pub(crate) fn walk<'a>(graph: &'a GraphProto, each: &mut dyn FnMut(&'a NodeProto)) {
    // As deep as the decoder let it be nested, which is a hundred at most.
    for node in &graph.node {
        each(node);
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|inner| walk(inner, each));
        }
    }
}

/// Checks that no tensor within a node is in another file.
fn check_tensors(graph: &GraphProto) -> Result<(), RuntimeError> {
    let mut outside = None;
    let mut check = |tensor: &TensorProto| {
        if is_external(tensor) {
            outside = Some(tensor.name.clone());
        }
    };
    walk(graph, &mut |node| {
        for attribute in &node.attribute {
            attribute.t.iter().chain(&attribute.tensors).for_each(&mut check);
            let inner = attribute.g.iter().chain(&attribute.graphs);
            inner.flat_map(|g| &g.initializer).for_each(&mut check);
        }
    });
    match outside {
        Some(tensor) => Err(RuntimeError::ExternalData { tensor }),
        None => Ok(()),
    }
}

/// Checks that every name is given once, and before it is used.
fn check_names(graph: &GraphProto) -> Result<(), RuntimeError> {
    let mut known: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    // An input may repeat an initializer's name: that is its default.
    known.extend(graph.input.iter().map(|i| i.name.as_str()));
    for node in &graph.node {
        for input in node.input.iter().filter(|n| !n.is_empty()) {
            if !known.contains(input.as_str()) {
                let expected = format!("a value named {input} before {} reads it", label(node));
                return Err(mismatch(&expected, "none"));
            }
        }
        for output in node.output.iter().filter(|n| !n.is_empty()) {
            if !known.insert(output) {
                let expected = format!("one value named {output}");
                return Err(mismatch(&expected, &format!("a second one made by {}", label(node))));
            }
        }
    }
    if graph.output.is_empty() {
        return Err(mismatch("an output of the graph", "none"));
    }
    match graph.output.iter().find(|o| !known.contains(o.name.as_str())) {
        Some(output) => Err(mismatch(&format!("a value named {} as the graph's output", output.name), "none")),
        None => Ok(()),
    }
}

/// Checks the attributes that the engine takes on trust.
///
/// tract 0.23.9 does not end on a `perm` that is no permutation, and sizes buffers by whatever a window says.
fn check_attributes(graph: &GraphProto) -> Result<(), RuntimeError> {
    let mut wrong = None;
    walk(graph, &mut |node| {
        for attribute in &node.attribute {
            let values = &attribute.ints;
            let expected = match attribute.name.as_str() {
                "perm" => {
                    let mut sorted = values.clone();
                    sorted.sort_unstable();
                    let permutes = sorted.iter().zip(0..).all(|(&found, wanted)| found == wanted);
                    (!permutes).then_some("every axis once")
                }
                "kernel_shape" | "strides" | "dilations" => {
                    let sound = values.iter().all(|v| (1..=MAX_WINDOW).contains(v));
                    (!sound).then_some("values of 1 to 4096")
                }
                "pads" => {
                    let sound = values.iter().all(|v| (0..=MAX_WINDOW).contains(v));
                    (!sound).then_some("values of 0 to 4096")
                }
                _ => None,
            };
            if let Some(expected) = expected {
                let expected = format!("{expected} in {} of {}", attribute.name, label(node));
                wrong.get_or_insert_with(|| mismatch(&expected, &format!("{values:?}")));
            }
        }
    });
    wrong.map_or(Ok(()), Err)
}

fn label(node: &NodeProto) -> String {
    format!("{} ({})", node.name, node.op_type)
}

pub(crate) fn tensor_type(info: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    Some(tensor)
}

/// Returns an input as text, such as `image f32 [n, 3, 224, 224]`.
pub(crate) fn describe(info: &ValueInfoProto) -> String {
    let Some(tensor) = tensor_type(info) else {
        return format!("{} of no tensor type", info.name);
    };
    let kind = DataType::try_from(tensor.elem_type)
        .map_or_else(|_| tensor.elem_type.to_string(), |t| t.as_str_name().to_lowercase());
    let dims: Vec<String> = tensor
        .shape
        .iter()
        .flat_map(|s| &s.dim)
        .map(|d| match &d.value {
            Some(dimension::Value::DimValue(v)) => v.to_string(),
            Some(dimension::Value::DimParam(n)) => n.clone(),
            None => "?".to_owned(),
        })
        .collect();
    format!("{} {kind} [{}]", info.name, dims.join(", "))
}

pub(crate) fn mismatch(expected: &str, found: &str) -> RuntimeError {
    RuntimeError::Graph { expected: expected.to_owned(), found: found.to_owned() }
}

/// Largest window, stride or border of a convolution or pooling, in pixels.
const MAX_WINDOW: i64 = 4096;
