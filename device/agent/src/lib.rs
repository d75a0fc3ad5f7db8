//! The device daemon: slots, store, display and link server. Links no candle, no training code.

pub mod agent;
pub mod canvas;
pub mod command;
pub mod config;
pub mod disk;
pub mod display;
pub mod ports;
pub mod screen;
pub mod selftest;
pub mod slots;
pub mod store;
pub mod supervisor;
#[cfg(test)]
mod tiny;
