//! The CNI plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferrovia::podnet::cni::main()
}
