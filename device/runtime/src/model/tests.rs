//! Tests of loading and running.
