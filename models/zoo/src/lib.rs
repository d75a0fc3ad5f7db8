//! Architectures as data, the catalogue of pretrained weights, the preprocessing definition.
//!
//! One description of a network drives both the training forward pass and the ONNX writer, so the two cannot
//! drift. Knows nothing of candle, tract or files other than safetensors bytes.

pub mod architecture;
pub mod catalogue;
mod efficientnet;
mod inverted_residual;
mod mobilenet_v2;
mod mobilenet_v3;
pub mod names;
pub mod network;
pub mod preprocessing;
mod resnet;
pub mod weights;

pub use architecture::{Architecture, Size};
pub use catalogue::{Catalogue, Entry};
pub use names::Names;
pub use network::{Activation, Conv, Network, Node, Op, Padding};
pub use preprocessing::Preprocessing;
pub use weights::{Tensor, Weights, WeightsError};

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");
