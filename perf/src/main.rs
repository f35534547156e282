//! The program: command line in, exit code out. Status 0: there is a result; 1: there is none;
//! 2: bad arguments; 3: `--strict` and the result has faults.

use std::io::Write;
use std::process::ExitCode;

use corelane_bench::{execute, parse};

fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Prints to stdout what was asked for (help, version) and ends with status 0 then.
        Err(error) => error.exit(),
    };
    match execute(&cli) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            writeln!(std::io::stderr().lock(), "corelane-bench: {error}").ok();
            ExitCode::FAILURE
        }
    }
}
