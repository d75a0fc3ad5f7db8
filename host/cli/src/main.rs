//! The command-line tool graft.
fn main() {}
