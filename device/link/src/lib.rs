//! The link protocol: frames, messages and state machines that do no I/O of their own.

pub mod channel;
pub mod frame;
pub mod messages;
