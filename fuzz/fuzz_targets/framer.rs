//! Any bytes in any pieces: the framer gives them all out again, the same way each time.
#![no_main]

use auditship::framing::lines;

#[path = "../checks/framer.rs"]
mod framer;

libfuzzer_sys::fuzz_target!(|input: (u16, Vec<u8>, &[u8])| {
    let (line_max, cuts, bytes) = input;
    framer::check(usize::from(line_max).max(1), bytes, &cuts);
});
