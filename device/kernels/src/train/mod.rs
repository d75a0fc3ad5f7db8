//! Kernels of training: batch normalisation, the gradients of pools and of depthwise convolutions.
//!
//! A result is the same, to the bit, for any number of threads; between two instruction sets it differs by rounding.
//! `rows` are the pixels of all pictures of a batch one after the other, each of `width` numbers, a multiple of
//! [`BLOCK`](crate::BLOCK). Knows nothing of networks, optimisers or the order of layers.

pub mod depthwise;
pub mod norm;
pub mod pool;
mod sums;

#[cfg(test)]
mod tests;
