//! Kernels of training.

mod adamw;
mod dense;

pub use adamw::{Step, adamw};
pub use dense::{Backward, Dense};
