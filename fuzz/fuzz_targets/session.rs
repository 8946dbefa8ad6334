#![no_main]

#[path = "../bodies/input.rs"]
mod input;
#[path = "../bodies/session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| session::body(data));
