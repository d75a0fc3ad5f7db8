//! Harness, end-to-end stories, boundary tests.
