#![no_main]

#[path = "../bodies/grammar.rs"]
mod grammar;

libfuzzer_sys::fuzz_target!(|data: &[u8]| grammar::body(data));
