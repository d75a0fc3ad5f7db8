//! Loads a model, preprocesses, runs and postprocesses: the wall around the engine.
//!
//! A graph of which every operator is recognised runs on graft-kernels alone; any other runs in tract.
//!
//! The host measures with this crate and the device runs it, so the numbers in a report are those of the shipped
//! engine. Nothing of tract shows outside. Bytes from outside are refused by typed errors: lengths are bounded
//! before allocation, no file is read but the named one and those beside it with its weights, and a panic of the engine is
//! caught.

mod band;
mod bench;
mod cache;
mod compile;
mod constant;
pub mod decision;
mod error;
mod external;
mod graph;
mod input;
mod lower;
mod model;
mod network;
mod outline;
pub mod picture;
mod plan;
mod program;
mod sound;
mod work;

pub use bench::{Bench, Detail, Raw, Report, Settings, bench, peak_rss_mb};
pub use cache::{Cache, Loaded, Miss};
pub use decision::{DECISION, Decision, Standing};
pub use error::RuntimeError;
pub use graft_kernels::Isa;
pub use graph::MAX_MODEL_LEN;
pub use model::{
    LABELS, LOGITS, MAX_SIDE, Model, PREPROCESSING, PREPROCESSING_DIGEST, Prediction, Said, TASK, unsupported_operators,
};
pub use network::{EngineChoice, Network, Picture, softmax};
pub use program::Explained;

/// Name and version of what runs the models.
pub const ENGINE: &str = concat!("graft-runtime ", env!("CARGO_PKG_VERSION"));
