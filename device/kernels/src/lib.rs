//! Kernels for convolutional networks: channels last, packed weights, closing operations fused in.
//!
//! The one crate with `unsafe`. Every kernel is written once over the vector type of `simd.rs` and compiled for each
//! instruction set that [`Isa`] names; the scalar one is the twin that the others are tested against. Knows nothing
//! of ONNX, files or models.
//!
//! An activation is `[h, w, padded(c)]`, row-major: the channels of a pixel are padded to a multiple of [`BLOCK`], so
//! that no kernel has a tail of channels. What stands in the padding is finite and never reaches a real channel.

pub mod activation;
pub mod buffer;
pub mod conv;
pub mod depthwise;
mod exchange;
pub mod int8;
pub mod isa;
pub mod pointwise;
pub mod pool;
mod simd;
pub mod store;
mod taps;
pub mod threads;
mod tiles;
pub mod train;
pub mod window;

pub use activation::Activation;
pub use buffer::Buffer;
pub use isa::Isa;
pub use threads::Threads;
pub use window::Window;

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

/// Channels that are computed together; every activation's channels are padded to a multiple of it.
pub const BLOCK: usize = 16;

/// Returns the number of channels stored for `channels`.
pub const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}
