#![no_main]

#[path = "../bodies/client.rs"]
mod client;
#[path = "../bodies/input.rs"]
mod input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| client::body(data));
