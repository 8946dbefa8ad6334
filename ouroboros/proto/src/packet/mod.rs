//! The ground floor: batches of frames in one buffer each, and what is read
//! from an IP header wherever a packet passes. Values and bytes; not here: any
//! protocol of ours.

mod batch;
mod checksum;
mod ip;

pub use batch::{ReceiveBatch, SendBatch, Stray};
pub use checksum::{Sum, replace, replace_at};
pub use ip::{Ecn, Version};
