#![no_main]

#[path = "../bodies/frct.rs"]
mod frct;

libfuzzer_sys::fuzz_target!(|data: &[u8]| frct::body(data));
