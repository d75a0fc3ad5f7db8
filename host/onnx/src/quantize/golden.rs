//! What tests share with the scripts of `host/onnx/golden`: numbers drawn from a name.

#[path = "../../../../models/zoo/golden/draw.rs"]
mod draw;

pub(super) use draw::draw;

/// Nearly normal: as `bell` of `bell.py`.
pub(super) fn bell(name: &str, len: usize) -> Vec<f64> {
    draw(name, 12 * len).chunks(12).map(|c| c.iter().sum::<f64>() - 6.0).collect()
}
