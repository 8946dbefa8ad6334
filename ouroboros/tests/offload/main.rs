//! Cutting and joining packets, held against a simple implementation of the
//! checksums and headers (`packets`).

mod coalesce;
mod packets;
mod segment;
mod single;
