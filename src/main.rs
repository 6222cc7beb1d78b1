//! The program's contents page; each subcommand has its file in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ferrovia::cli::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
