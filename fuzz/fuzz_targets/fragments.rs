#![no_main]

#[path = "../bodies/fragments.rs"]
mod fragments;
#[allow(dead_code, reason = "each takes of it what it needs")]
#[path = "../bodies/input.rs"]
mod input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fragments::body(data));
