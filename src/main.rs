//! The `tenantry` binary: see `tenantry --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenantry::cli::main()
}
