//! Writes ONNX from zoo data and weights; quantization arithmetic; QDQ graphs.
