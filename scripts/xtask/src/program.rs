//! Builds a program with cargo and asks it where it is.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a command of cargo's that builds one program, with `rest` as its last arguments, and returns the program's path.
pub(crate) fn build(mut command: Command, rest: &[&str]) -> Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics").args(rest);
    command.current_dir(crate::root()).stderr(Stdio::inherit());
    eprintln!("+ {command:?}");
    let output = command.output().context("starting cargo")?;
    ensure!(output.status.success(), "expected {command:?} to succeed, found {}", output.status);
    executable(&String::from_utf8_lossy(&output.stdout)).context("expected cargo to name a program, found none")
}

/// Returns the program that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from)).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_the_last_that_cargo_names() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/graft\"}\n{\"reason\":\"build-finished\"}";
        assert_eq!(executable(messages), Some("/t/graft".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }
}
