//! The Ouroboros daemon and tools, as thin consumers of the `ouroboros` library.
