//! The engines, how each is asked for a timing, and what it answers.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::machine::Watch;
use super::setup::Bench;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    Graft,
    /// The library that graft falls back to, alone
    Tract,
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// ONNX Runtime without Python
    #[value(name = "onnxruntime-c")]
    #[serde(rename = "onnxruntime-c")]
    OnnxRuntimeC,
    #[value(name = "openvino")]
    OpenVino,
    Ncnn,
    #[value(name = "litert")]
    LiteRt,
}

impl Engine {
    /// Whether graft is measured against it.
    pub(super) fn is_peer(self) -> bool {
        !matches!(self, Self::Graft | Self::Tract)
    }

    pub(super) fn is_in_graft(self) -> bool {
        !self.is_peer()
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Graft => "graft",
            Self::Tract => "tract",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::OnnxRuntimeC => "ONNX Runtime, C",
            Self::OpenVino => "OpenVINO",
            Self::Ncnn => "ncnn",
            Self::LiteRt => "LiteRT",
        }
    }
}

impl std::fmt::Display for Engine {
    /// The name on the command line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

/// What an engine tells of one turn; only the fastest run is sure to be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measurement {
    pub(super) min_ms: f64,
    pub(super) median_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) first_ms: Option<f64>,
    pub(super) load_ms: Option<f64>,
    pub(super) rss_before_load_mb: Option<f64>,
    pub(super) peak_rss_mb: Option<f64>,
    pub(super) runs: Option<u64>,
    pub(super) version: Option<String>,
    /// graft's word on what it is and which kernels it chose.
    pub(super) engine: Option<String>,
    /// The operator because of which graft left the network to tract.
    pub(super) unrecognised: Option<serde_json::Value>,
    /// Cores that other programs kept busy meanwhile.
    pub(super) others_cores: Option<f64>,
}

impl Bench {
    /// Runs one engine once, alone in its process, for `seconds`.
    ///
    /// Its answer, if it gives one, is then in [`Bench::answer`].
    pub(super) fn time(&self, engine: Engine, model: &Path, threads: u16, seconds: f64) -> Result<Measurement> {
        let watch = Watch::start();
        let answer = self.answer(engine);
        // Nobody may take the answer of another network for this one's.
        if answer.exists() {
            std::fs::remove_file(&answer).with_context(|| format!("removing {}", answer.display()))?;
        }
        let numbers = [threads.to_string(), seconds.to_string()];
        let mut measurement = match engine {
            Engine::Graft | Engine::Tract => self.time_graft(engine, model, &numbers, &answer)?,
            Engine::OnnxRuntimeC => {
                let (program, library) = self.ort.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
                let mut command = Command::new(program);
                command.arg(library).arg(model).args(&numbers).arg(self.picture()).arg(&answer);
                ask(&mut command)?
            }
            Engine::OnnxRuntime | Engine::OpenVino | Engine::Ncnn | Engine::LiteRt => {
                let mut command = Command::new(&self.python);
                command.arg(&self.peer_script).arg(engine.to_string()).arg(model).args(&numbers);
                ask(command.arg("--input").arg(self.picture()).arg("--output").arg(&answer))?
            }
        };
        measurement.others_cores = watch.others();
        Ok(measurement)
    }

    fn time_graft(&self, engine: Engine, model: &Path, numbers: &[String; 2], answer: &Path) -> Result<Measurement> {
        let graft = self.graft.as_ref().context("expected the program graft, found none; give --graft")?;
        let bench = |more: &[OsString]| {
            let mut command = Command::new(graft);
            command.arg("bench").arg(model).args(["--threads", &numbers[0], "--seconds", &numbers[1], "--json"]);
            if engine == Engine::Tract {
                command.args(["--engine", "tract"]);
            }
            ask(command.args(more))
        };
        let exchange = ["--input".into(), self.picture().into(), "--output".into(), answer.into()];
        // A graft that cannot exchange pictures and answers is timed all the same.
        bench(&exchange).or_else(|error| if error.is::<UsageError>() { bench(&[]) } else { Err(error) })
    }
}

/// The program refused its command line.
#[derive(Debug)]
struct UsageError(String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

pub(super) fn ask(command: &mut Command) -> Result<Measurement> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("starting {}", program.display()))?;
    let said = || telling_line(&String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {}
        Some(2) => return Err(UsageError(said()).into()),
        _ => bail!("{} ({})", said(), output.status),
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Reads an engine's answer: its whole output, or the last line of it if libraries have talked before.
fn parse(text: &str) -> Result<Measurement> {
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let measurement: Measurement = serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(last))
        .with_context(|| format!("expected one JSON object with at least min_ms, found {:?}", shortened(last)))?;
    let min_ms = measurement.min_ms;
    ensure!(min_ms.is_finite() && min_ms > 0.0, "expected a positive min_ms, found {min_ms}");
    Ok(measurement)
}

/// Returns what tells most of a program's complaint: its error with its cause, or its last line.
fn telling_line(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut complaint = lines().skip_while(|line| !line.starts_with("error"));
    let Some(error) = complaint.next() else { return shortened(lines().next_back().unwrap_or("it said nothing")) };
    let causes = complaint.take_while(|line| line.starts_with("because"));
    shortened(&std::iter::once(error).chain(causes).collect::<Vec<_>>().join(" "))
}

fn shortened(line: &str) -> String {
    const MOST_CHARACTERS: usize = 300;
    let mut text: String = line.chars().take(MOST_CHARACTERS).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_needs_only_the_fastest_run() {
        let measurement = parse(r#"{"min_ms": 1.5, "something": "new"}"#).unwrap();
        assert_eq!((measurement.min_ms, measurement.median_ms, measurement.runs), (1.5, None, None));
    }

    #[test]
    fn parse_takes_an_object_over_several_lines_and_a_last_line_after_chatter() {
        let whole = parse("{\n  \"min_ms\": 2,\n  \"peak_rss_mb\": null,\n  \"runs\": 7\n}\n").unwrap();
        assert_eq!((whole.min_ms, whole.runs), (2.0, Some(7)));
        let last = parse("INFO: Created a delegate.\n{\"min_ms\": 3.25, \"load_ms\": 10}\n\n").unwrap();
        assert_eq!((last.min_ms, last.load_ms), (3.25, Some(10.0)));
    }

    #[test]
    fn parse_refuses_what_is_no_timing() {
        for text in ["", "none", "{}", "[1]", r#"{"min_ms": "1"}"#, r#"{"min_ms": 0}"#, r#"{"min_ms": -1}"#] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(format!("{:#}", parse("oops").unwrap_err()).contains("found \"oops\""));
    }

    #[test]
    fn telling_line_has_the_error_and_its_cause_but_not_the_hint() {
        let cases = [
            ("warning: w\nerror: cannot open a\n  hint: do b\n", "error: cannot open a"),
            ("error: cannot open a\n  because of b\n  hint: c\n", "error: cannot open a because of b"),
            ("Traceback\n  File\nValueError: bad\n\n", "ValueError: bad"),
            ("", "it said nothing"),
        ];
        for (stderr, expected) in cases {
            assert_eq!(telling_line(stderr), expected);
        }
    }

    #[test]
    fn shortened_keeps_whole_characters() {
        let text = shortened(&"ä".repeat(400));
        assert_eq!(text.chars().count(), 301);
        assert_eq!(shortened("short"), "short");
    }
}
