//! The TUN device and its segmentation offloads.
