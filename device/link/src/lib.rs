//! The link protocol: frames, a reliable channel, messages, conversations. Spec: `docs/formats/link.md`.
//!
//! Frames, channel and messages do no I/O; [`connection`] drives them over a [`transport`]. Knows nothing of bundles
//! and models: what it carries are bytes.

pub mod channel;
pub mod connection;
pub mod frame;
pub mod messages;
mod random;
pub mod simulated;
pub mod transport;

pub use connection::{Client, Greeting, Host, LinkError, Service, serve};
pub use random::Random;
pub use transport::Transport;

/// Built anew for each checkout: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");
