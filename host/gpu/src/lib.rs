//! Kernels of training for NVIDIA GPUs, and products of matrices by cuBLAS.
//!
//! Nothing of CUDA is needed to build this: the driver, cuBLAS and NVRTC are loaded where they are when a GPU is asked for, and
//! the kernels (`kernels/*.cu`) are compiled for it then. Everything is queued in one stream; what is queued sees what was
//! queued before. Maps are channels last, `[pictures, h, w, channels]` with channels in eights, in the numbers of the
//! [`Precision`]; whatever else there is, is f32.

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

mod device;
mod maps;
mod norm;
mod product;
mod steps;
mod windows;

pub use device::{Gpu, Memory, Part, Precision, Staging};
pub use maps::{Closing, Source, Spread};
pub use norm::{Normalisation, Statistics, Sums};
pub use product::{Matrix, Order};
pub use steps::{Parameters, Rate, Rule, Step};
pub use windows::Window;

/// Channels of maps come in multiples of this.
pub const CHANNELS: usize = 8;
