//! A report: what an evaluation found, and the page that shows it.
//!
//! Plain data in, one HTML file out: no network, no script, no file beside it. Labels and names of files are anybody's input, so
//! nothing but constants reaches the page without being escaped (`html.rs`). Knows nothing of models and pictures.

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

mod base64;
mod chart;
mod data;
mod html;
mod page;

pub use data::{
    Bin, Calibration, ClassRow, Classes, Coverage, Estimate, GroupRow, Latency, Layer, Mistake, OnDevice, Picture,
    Point, Quantization, Report, Share, Tag, Told, Value,
};
pub use page::page;
