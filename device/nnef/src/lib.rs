//! Names of the crate tract-nnef, in its place: what tract's ONNX crates need to compile, and nothing that works.
//!
//! Those crates tell how their operators are written in NNEF, a format that graft neither reads nor writes. The crate of that
//! name keeps its reader in every program, with all operators that it can make, as it offers a transformation of networks to
//! whoever knows its name: a sixteenth of `graftd`. Here what is read is refused and what is written is lost.
//! `[patch.crates-io]` in the workspace's `Cargo.toml` puts it in place.

pub use tract_core;
pub use tract_core::prelude::{tract_ndarray, tract_num_traits};

pub mod framework;
pub mod ser;

/// What operators are written in terms of.
pub mod internal {
    pub use tract_core::internal::*;

    pub use crate::framework::{
        Identifier, ModelBuilder, Nnef, Parameter, Registry, ResolvedInvocation, TypeName, Value,
    };
    pub use crate::ser::{IntoAst, RValue, invocation, logical, numeric, string};
}
