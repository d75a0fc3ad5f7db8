//! The bundle: one signed file that carries a model to a device.
//!
//! A manifest names content-addressed chunks, so that a device which has most of them needs only the rest; golden
//! samples let it check on its own hardware what it got. Knows nothing of ML and does no network I/O. Bytes from
//! outside are checked against the limits of [`limits`] before anything is allocated. Spec: `docs/formats/bundle.md`.

mod bundle;
mod digest;
mod error;
mod head;
mod key;
pub mod limits;
mod manifest;
mod needs;
pub mod proof;
mod whole;
mod writer;

pub use bundle::{Bundle, decode_chunk};
pub use digest::Digest;
pub use error::BundleError;
pub use head::{Head, Trust, TrustPolicy, Unsigned};
pub use key::{KeyError, PublicKey, SecretKey};
pub use manifest::{ChunkEntry, FileEntry, Golden, Manifest};
pub use needs::{Needs, Offer, Unmet};
pub use whole::write_whole;
pub use writer::{BundleWriter, Summary};

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

/// Name of the model's file in every bundle.
pub const MODEL_FILE: &str = "model.onnx";
