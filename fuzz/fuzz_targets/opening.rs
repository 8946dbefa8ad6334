#![no_main]

#[allow(dead_code, reason = "each takes of it what it needs")]
#[path = "../bodies/input.rs"]
mod input;
#[path = "../bodies/opening.rs"]
mod opening;

libfuzzer_sys::fuzz_target!(|data: &[u8]| opening::body(data));
