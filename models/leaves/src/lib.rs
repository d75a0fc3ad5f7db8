//! Procedural pictures of healthy and diseased leaves, for the demo and for tests.

mod camera;
mod classes;
mod clutter;
mod disease;
mod exact;
mod ground;
mod leaf;
mod marks;
mod noise;
mod picture;
mod pretrain;
mod rng;
mod set;

pub use classes::{LeafClass, leaf_picture};
pub use pretrain::{PRETRAIN_CLASSES, pretrain_picture};
pub use set::write_leaf_set;

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");
