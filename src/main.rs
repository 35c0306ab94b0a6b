//! The `turncast` binary: hands the command line to [`turncast::cli`] and exits with its code.

fn main() -> std::process::ExitCode {
    turncast::cli::main()
}
