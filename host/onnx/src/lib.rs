//! Writes ONNX from zoo data and weights; quantization arithmetic; QDQ graphs.
//!
//! Knows nothing of candle and runs no graph: of tract it uses the protobuf types alone.

mod borders;
pub mod export;
mod factors;
mod graph;
pub mod layers;
mod metadata;
pub mod quantize;
mod values;

pub use borders::tensor_borders;
pub use export::{Export, Format, Head, Metadata, OPSET, Outputs};
pub use factors::Factors;
pub use layers::{Layer, Layers};
pub use metadata::{features_of, with_entry, with_output};
pub use quantize::{Activations, Affine, Integers, Observer, QuantError, Quantization};
pub use values::{Value, values};

/// The name of the last layer, which tells classes.
pub const HEAD: &str = "head";

/// Why a graph could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The weights lack a tensor of the network.
    #[error("expected tensor {0} among the weights, found none; load the weights with `Weights::from_tensors`")]
    MissingTensor(String),
    /// The layers are another network's.
    #[error("expected layer {0}, found none; take the layers with `Layers::fold` of this very network")]
    MissingLayer(String),
    /// The head does not fit the backbone or the labels.
    #[error("expected a head of [{classes}, {features}], found {found:?}")]
    Head {
        /// Number of labels.
        classes: usize,
        /// Length of the backbone's feature vector.
        features: usize,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// The calibration lacks an activation.
    #[error("expected a calibrated range for activation {0}, found none; calibrate on this very network")]
    NotCalibrated(String),
    /// Quantization arithmetic.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// Bytes that are not an ONNX file.
    #[error("expected an ONNX file, found bytes that do not decode as one ({0})")]
    Decode(String),
}
