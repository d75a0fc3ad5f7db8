//! The smallest model for tests: its logits are the mean colour of the picture.
//!
//! Written as protobuf by hand, because nothing but `graft-runtime` may know tract's types. Field numbers are those
//! of `onnx.proto3`.

use graft_zoo::Preprocessing;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Returns an ONNX file whose logits are mean red, green and blue of the picture.
pub(crate) fn mean_colour(labels: [&str; 3]) -> Vec<u8> {
    let float = 1;
    let perm = [text(1, "perm"), packed(8, &[0, 3, 1, 2]), int(20, 7)].concat();
    let to = [text(1, "to"), int(3, float), int(20, 2)].concat();
    let axis = [text(1, "axis"), int(3, 1), int(20, 2)].concat();
    let graph = [
        node("Transpose", "image", "nchw", &perm),
        node("Cast", "nchw", "floats", &to),
        node("GlobalAveragePool", "floats", "pooled", &[]),
        node("Flatten", "pooled", "logits", &axis),
        text(2, "mean_colour"),
        value(11, "image", 2, &[None, Some(8), Some(8), Some(3)]),
        value(12, "logits", float, &[None, Some(3)]),
    ];
    let p = Preprocessing { resize_shorter: 8, crop: 8, mean: [0.0; 3], std: [1.0; 3] };
    let metadata = [
        ("graft.labels", serde_json::to_string(&labels).unwrap()),
        ("graft.preprocessing", p.to_json()),
        ("graft.preprocessing_digest", p.digest()),
    ];
    let mut model = [int(1, 8), block(8, &int(2, 17)), block(7, &graph.concat())].concat();
    for (key, value) in metadata {
        model.extend(block(14, &[text(1, key), text(2, &value)].concat()));
    }
    model
}

/// Returns a PNG file of one colour.
pub(crate) fn png(rgb: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(16, 16, Rgb(rgb));
    DynamicImage::from(picture).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn node(op: &str, input: &str, output: &str, attribute: &[u8]) -> Vec<u8> {
    let mut node = [text(1, input), text(2, output), text(3, output), text(4, op)].concat();
    if !attribute.is_empty() {
        node.extend(block(5, attribute));
    }
    block(1, &node)
}

fn value(field: u8, name: &str, kind: u64, dims: &[Option<u64>]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|d| block(1, &d.map_or_else(|| text(2, "n"), |d| int(1, d)))).collect();
    let tensor = [int(1, kind), block(2, &dims)].concat();
    block(field, &[text(1, name), block(2, &block(1, &tensor))].concat())
}

fn int(field: u8, value: u64) -> Vec<u8> {
    [varint(u64::from(field) << 3), varint(value)].concat()
}

fn packed(field: u8, values: &[u64]) -> Vec<u8> {
    block(field, &values.iter().flat_map(|&v| varint(v)).collect::<Vec<u8>>())
}

fn text(field: u8, text: &str) -> Vec<u8> {
    block(field, text.as_bytes())
}

fn block(field: u8, bytes: &[u8]) -> Vec<u8> {
    [varint(u64::from(field) << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(value.to_le_bytes()[0] | 128);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}
