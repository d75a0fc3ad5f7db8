//! Builds a program with cargo and asks it where it is.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a command of cargo's that builds one program, with `rest` as its last arguments, and returns the program's path.
pub(crate) fn build(command: Command, rest: &[&str]) -> Result<PathBuf> {
    built(command, rest, None)
}

/// Runs a command of cargo's that builds several programs, and returns the path of the one with a name.
pub(crate) fn named(command: Command, name: &str) -> Result<PathBuf> {
    built(command, &[], Some(name))
}

fn built(mut command: Command, rest: &[&str], name: Option<&str>) -> Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics").args(rest);
    command.current_dir(crate::root()).stderr(Stdio::inherit());
    eprintln!("+ {command:?}");
    let output = command.output().context("starting cargo")?;
    ensure!(output.status.success(), "expected {command:?} to succeed, found {}", output.status);
    let found = executable(&String::from_utf8_lossy(&output.stdout), name);
    found.with_context(|| {
        format!("expected cargo to name a program{}, found none", name.map_or(String::new(), |n| format!(" {n}")))
    })
}

/// Returns the last program, of a name if one is given, that cargo's messages tell of.
fn executable(messages: &str, name: Option<&str>) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_it = |message: &serde_json::Value| name.is_none_or(|name| message["target"]["name"] == name);
    messages.filter(is_it).filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from)).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_the_last_that_cargo_names() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/graft\",\"target\":{\"name\":\"graft\"}}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/graftd\",\"target\":{\"name\":\"graftd\"}}\n\
                        {\"reason\":\"build-finished\"}";
        assert_eq!(executable(messages, None), Some("/t/graftd".into()));
        assert_eq!(executable(messages, Some("graft")), Some("/t/graft".into()));
        assert_eq!(executable(messages, Some("xtask")), None);
        assert_eq!(executable("{\"reason\":\"build-finished\"}", None), None);
    }
}
