//! Loads a model with tract, preprocesses, runs and postprocesses.

pub mod picture;
