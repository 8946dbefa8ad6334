//! The Ouroboros daemon and tools, as thin consumers of the `ouroboros`
//! library: arguments, then one call.

pub mod enc_conf;
pub mod grammar;
pub mod irmd;
pub mod table;
