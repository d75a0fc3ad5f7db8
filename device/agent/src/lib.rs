//! The device daemon: slots, store, display and link server.

pub mod config;
pub mod selftest;
pub mod supervisor;
#[cfg(test)]
mod tiny;
