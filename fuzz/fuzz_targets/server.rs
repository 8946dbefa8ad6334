#![no_main]

#[path = "../bodies/input.rs"]
mod input;
#[path = "../bodies/server.rs"]
mod server;

libfuzzer_sys::fuzz_target!(|data: &[u8]| server::body(data));
