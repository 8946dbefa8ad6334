#![no_main]

#[allow(dead_code, reason = "each takes of it what it needs")]
#[path = "../bodies/input.rs"]
mod input;
#[path = "../bodies/reliable.rs"]
mod reliable;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reliable::body(data));
