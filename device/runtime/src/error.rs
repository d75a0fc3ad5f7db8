//! Why a model cannot be loaded or run.

use std::path::PathBuf;

use crate::graph::MAX_MODEL_LEN;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The file cannot be read.
    #[error("cannot read {}; check that it is there and may be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bundle is not one.
    #[error(transparent)]
    Bundle(#[from] graft_bundle::BundleError),
    /// The model is longer than [`MAX_MODEL_LEN`].
    #[error("expected a model of at most {MAX_MODEL_LEN} bytes, found {found}; use a smaller network")]
    TooLong {
        /// Length in bytes.
        found: u64,
    },
    /// The bytes are not an ONNX file.
    #[error("expected an ONNX file, found bytes that do not decode as one ({reason}); export the model again")]
    NotOnnx {
        /// What the decoder said.
        reason: String,
    },
    /// The graph contradicts itself.
    #[error("expected {expected}, found {found}; export the model again")]
    Graph {
        /// What a sound graph has.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A tensor's data is in another file, and the model is not in a file itself, or the tensor no weight of its graph.
    #[error("expected every tensor inside the model, found {tensor} in an external file; export the model as one file")]
    ExternalData {
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor's data is said to be where it is not, or where nothing is read from.
    #[error(
        "expected {expected} for the external data of {tensor}, found {found}; export the model again, or as one file"
    )]
    ExternalPlace {
        /// Name of the tensor.
        tensor: String,
        /// What external data has to have.
        expected: String,
        /// What this tensor's has.
        found: String,
    },
    /// The metadata lacks an entry.
    #[error("expected {key} in the model's metadata, found {found}; export the model with `graft export`")]
    MissingMetadata {
        /// The key.
        key: &'static str,
        /// The keys that are there.
        found: String,
    },
    /// An entry of the metadata cannot be used.
    #[error("expected {expected} as {key} in the model's metadata, found {found}; export the model again")]
    BadMetadata {
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds, or what is wrong with it.
        found: String,
    },
    /// The preprocessing is not the one the model was exported with.
    #[error(
        "expected preprocessing with digest {expected}, found digest {found}; the file was altered, export the model again"
    )]
    PreprocessingDigest {
        /// The digest in the metadata.
        expected: String,
        /// The digest of the definition in the metadata.
        found: String,
    },
    /// The graph's input is not a picture as the preprocessing makes it.
    #[error("expected one input, {expected}, found {found}; export the model with `graft export`")]
    Input {
        /// Type and shape that the preprocessing makes.
        expected: String,
        /// Type and shape of the graph's inputs.
        found: String,
    },
    /// The number of labels is not the number of logits.
    #[error("expected a logit for each of {labels} labels, found {logits} logits; export the model again")]
    Labels {
        /// Number of labels.
        labels: usize,
        /// Number of logits.
        logits: usize,
    },
    /// Operators that the engine does not know.
    #[error("expected operators that tract runs, found {}; export with other operators", names.join(", "))]
    UnsupportedOperators {
        /// The operators' names.
        names: Vec<String>,
    },
    /// The engine refused or failed.
    #[error("cannot {doing}; `graft verify` tells whether the file is whole, else export the model again")]
    Engine {
        /// What was being done.
        doing: &'static str,
        /// What the engine said.
        source: anyhow::Error,
    },
    /// A picture of the wrong size was passed.
    #[error("expected a picture of {expected} bytes, found {found}; preprocess it with the model's own definition")]
    Pixels {
        /// `crop * crop * 3`.
        expected: usize,
        /// Length of what was passed.
        found: usize,
    },
    /// A benchmark was asked for that makes no sense.
    #[error("expected {expected}, found {found}")]
    Settings {
        /// What can be measured.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// The model has no classifier.
    #[error("expected an output named logits, found {}; use a model with a head", outputs.join(", "))]
    NoLogits {
        /// Names of the outputs.
        outputs: Vec<String>,
    },
    /// The network's answer is not a number.
    #[error("expected finite logits, found {found} for class {class}; train or quantize the model again")]
    NotFinite {
        /// Index of the class.
        class: usize,
        /// Its logit.
        found: f32,
    },
}
