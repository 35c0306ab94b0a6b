#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::first_bytes_of_a_connection(input));
