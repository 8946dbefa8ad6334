#![no_main]

#[path = "../bodies/daemon.rs"]
mod daemon;

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::body(data));
