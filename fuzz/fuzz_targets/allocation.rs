#![no_main]

#[path = "../bodies/allocation.rs"]
mod allocation;

libfuzzer_sys::fuzz_target!(|data: &[u8]| allocation::body(data));
