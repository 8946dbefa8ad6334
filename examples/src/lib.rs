//! What the examples share, and the long part of one of them.

pub mod demonstration;
mod host;
