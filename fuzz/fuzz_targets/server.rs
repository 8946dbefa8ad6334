#![no_main]

#[allow(dead_code, reason = "each takes of it what it needs")]
#[path = "../bodies/input.rs"]
mod input;
#[path = "../bodies/server.rs"]
mod server;

libfuzzer_sys::fuzz_target!(|data: &[u8]| server::body(data));
