//! The device daemon: slots, store, display and link server.

pub mod config;
pub mod disk;
pub mod selftest;
pub mod slots;
pub mod store;
pub mod supervisor;
#[cfg(test)]
mod tiny;
