//! Placeholder until the library can carry it.
fn main() {}
