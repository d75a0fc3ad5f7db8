//! A local page on which pictures get their labels, by several people at once.
//!
//! Lists a folder's pictures, keeps every click in a log, hands different pictures to different people, and writes
//! the manifest that `graft train` reads. Knows nothing of networks: what a model thinks of the pictures, and which
//! are alike, comes from the caller as [`Hints`], and so does what decodes a picture.

use std::path::PathBuf;

mod desk;
mod error;
mod field;
mod folder;
mod guard;
mod hints;
mod manifest;
mod pages;
mod show;
mod standing;
mod store;

pub use desk::{Card, Click, Desk, Done, Neighbour, Overview};
pub use error::LabelError;
pub use field::Seen;
pub use folder::{Folder, PassedOver, Picture};
pub use hints::{Answer, Hints, gains};
pub use pages::Server;
pub use show::Decode;
pub use standing::{Standing, Verdict, Vote};

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

/// What a device said of its pictures, beside them: `docs/formats/field.md`.
pub const FIELD: &str = "field.csv";
/// The log of clicks.
pub const LOG: &str = "labels.sqlite";
/// The manifest that `graft train` reads.
pub const MANIFEST: &str = "labels.csv";

/// Returns the manifest's path in a folder of pictures.
pub fn manifest_of(folder: &std::path::Path) -> PathBuf {
    folder.join(MANIFEST)
}
