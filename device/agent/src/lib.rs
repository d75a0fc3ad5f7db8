//! The device daemon: slots, pictures and their answers, store, display and link server. Links no candle, no training code.

pub mod agent;
pub mod board;
pub mod canvas;
pub mod clock;
pub mod command;
pub mod config;
pub mod disk;
pub mod display;
pub mod feed;
pub mod guard;
pub mod health;
pub mod installer;
#[cfg(feature = "map")]
mod map;
pub mod measuring;
pub mod panel;
pub mod pictures;
pub mod ports;
pub mod screen;
pub mod selftest;
pub mod slots;
pub mod status;
pub mod store;
pub mod supervisor;
#[cfg(test)]
mod tiny;
pub mod torture;
pub mod turns;
pub mod vote;
