//! Any bytes: the scanner accepts what serde_json accepts, and finds the same members.
#![no_main]

use auditship::event::fields;

#[path = "../checks/scanner.rs"]
mod scanner;

libfuzzer_sys::fuzz_target!(|line: &[u8]| scanner::check(line));
