//! Procedural pictures of healthy and diseased leaves, for the demo and for tests.
#![allow(dead_code)]

mod camera;
mod exact;
mod ground;
mod noise;
mod picture;
mod rng;
