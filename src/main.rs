//! `auditship`: parse, run, exit code; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    auditship::allocator::bound_arenas();
    auditship::cli::main()
}
