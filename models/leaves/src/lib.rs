//! Procedural pictures of healthy and diseased leaves, for the demo and for tests.
