//! The program: command line in, exit code out. Status 0: there is a result; 1: there is none;
//! 2: bad arguments; 3: `--strict` and the result has faults.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use corelane_bench::{Cli, execute};

fn main() -> ExitCode {
    match execute(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            writeln!(std::io::stderr().lock(), "corelane-bench: {error}").ok();
            ExitCode::FAILURE
        }
    }
}
