//! Kernels of training: batch normalisation, gradients, steps of an optimiser.
//!
//! A result is the same, to the bit, for any number of threads; between two instruction sets it differs by rounding.
//! `rows` are the pixels of all pictures of a batch one after the other, each of `width` numbers, a multiple of
//! [`BLOCK`](crate::BLOCK). Knows nothing of networks or the order of layers.

mod adamw;
mod dense;
pub mod depthwise;
pub mod norm;
pub mod pool;
mod sums;

pub use adamw::{Step, adamw};
pub use dense::{Backward, Dense};

#[cfg(test)]
mod tests;
