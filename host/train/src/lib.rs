//! Transfer learning: data sets, features of a frozen backbone, heads, calibration, evaluation.
//!
//! The only crate with candle. Pictures are decoded and models are run by `graft-runtime`, so that what is trained on
//! and what is reported come from the engine that ships.

pub mod audit;
pub mod augment;
pub mod dataset;
pub mod decide;
pub mod evaluate;
pub mod features;
pub mod fit;
pub mod head;
pub mod metrics;
pub mod net;
pub mod objective;
pub mod optimiser;
pub mod photos;
pub mod pictures;
pub mod pretrained;
mod probe;
pub mod qat;
pub mod quantize;
pub mod rate;
pub mod recipe;
pub mod retrain;
pub mod review;
pub mod rng;
pub mod run;
pub mod transfer;
pub mod views;

pub use graft_gpu as gpu;
