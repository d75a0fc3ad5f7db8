//! Procedural pictures of healthy and diseased leaves, for the demo and for tests.
#![allow(dead_code)]

mod camera;
mod classes;
mod clutter;
mod disease;
mod exact;
mod ground;
mod leaf;
mod marks;
mod noise;
mod picture;
mod rng;

pub use classes::{LeafClass, leaf_picture};
