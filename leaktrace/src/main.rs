//! The `leaktrace` executable.

fn main() {}
