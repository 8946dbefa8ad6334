//! The only `unsafe`: sockets, ioctls and batched system calls. Safe functions
//! outward; the transports and `tun` drive it.
