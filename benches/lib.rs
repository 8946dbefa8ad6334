//! Criterion benchmarks of the `ouroboros` library: see the `[[bench]]` targets.
