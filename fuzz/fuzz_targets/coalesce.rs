#![no_main]

#[path = "../bodies/coalesce.rs"]
mod coalesce;

libfuzzer_sys::fuzz_target!(|data: &[u8]| coalesce::body(data));
