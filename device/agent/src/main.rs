//! `graftd`: the device's daemon. All of it is in the library, so that `graft demo` can start the very same.

fn main() -> std::process::ExitCode {
    graft_agent::command::main(std::env::args_os())
}
