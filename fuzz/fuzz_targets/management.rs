#![no_main]

#[path = "../bodies/management.rs"]
mod management;

libfuzzer_sys::fuzz_target!(|data: &[u8]| management::body(data));
