//! Arithmetic on the measurements, and the tables that tell of them.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::engine::{Engine, Measurement};
use super::machine::Machine;
use super::{Cell, Outcome, Precision};

/// All that was measured; what peers.json holds.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) turns: u16,
    pub(super) seconds: f64,
    pub(super) cells: Vec<Cell>,
}

/// One engine's turns in a few numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    /// The fastest run of all turns.
    min_ms: f64,
    /// The median of the turns' medians.
    median_ms: Option<f64>,
    /// How far the slowest turn's fastest run is above the fastest turn's, as a share.
    spread: f64,
}

impl Summary {
    fn of(turns: &[Measurement]) -> Option<Self> {
        let (min_ms, slowest) = range(turns.iter().map(|turn| turn.min_ms))?;
        let mut medians: Vec<f64> = turns.iter().filter_map(|turn| turn.median_ms).collect();
        medians.sort_by(f64::total_cmp);
        Some(Self { min_ms, median_ms: medians.get(medians.len() / 2).copied(), spread: slowest / min_ms - 1.0 })
    }
}

/// graft's time divided by that of the fastest peer of the same turn, over all turns: the least and the most.
fn ratios(engines: &[Outcome]) -> Option<(f64, f64)> {
    let graft = engines.iter().find(|outcome| outcome.engine == Engine::Graft)?;
    let best_peer = |turn: usize| {
        let peers = engines.iter().filter(|outcome| outcome.engine.is_peer());
        range(peers.filter_map(|peer| peer.turns.get(turn)).map(|turn| turn.min_ms)).map(|(least, _)| least)
    };
    range(graft.turns.iter().enumerate().filter_map(|(turn, ours)| Some(ours.min_ms / best_peer(turn)?)))
}

fn best_peer(engines: &[Outcome]) -> Option<(Engine, f64)> {
    let peers = engines.iter().filter(|outcome| outcome.engine.is_peer());
    peers.filter_map(|peer| Some((peer.engine, Summary::of(&peer.turns)?.min_ms))).min_by(|a, b| a.1.total_cmp(&b.1))
}

pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (least, most) = range.unwrap_or((value, value));
        Some((value.min(least), value.max(most)))
    })
}

/// Returns the report: machine, times, memory, answers, what was left out.
pub(super) fn markdown(results: &Results) -> String {
    let mut kinds: Vec<(Precision, u16)> = results.cells.iter().map(|cell| (cell.precision, cell.threads)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let cells_of = |kind: (Precision, u16)| -> Vec<&Cell> {
        results.cells.iter().filter(|cell| (cell.precision, cell.threads) == kind).collect()
    };
    let mut text = introduction(results);
    for &kind in &kinds {
        let cells = cells_of(kind);
        let plural = if kind.1 == 1 { "" } else { "s" };
        let mut rows = rows(&format!("{}, {} thread{plural}", kind.0, kind.1), &cells, time_of);
        rows[0].push("graft / fastest peer".into());
        for (row, cell) in rows[1..].iter_mut().zip(&cells) {
            row.push(verdict(cell));
        }
        text += &table(&rows);
    }
    // Memory, loading and answers hardly depend on the threads: the first kind of each precision will do.
    kinds.dedup_by_key(|kind| kind.0);
    for kind in kinds {
        text += &table(&rows(&format!("{}, load ms / peak MB (before the load)", kind.0), &cells_of(kind), memory_of));
        text += &table(&rows(&format!("{}, answer against ONNX Runtime's", kind.0), &cells_of(kind), difference_of));
    }
    text + &remarks(results)
}

fn introduction(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} cores, {} ({}). One picture of 224x224 at a time; fastest run of {} x {} s in ms (median; how far \
         the turns' fastest runs lie apart). Engines take turns, each alone in its process; the last column is graft's time \
         divided by the fastest peer's of the same turn, least to most.",
        machine.cpu,
        machine.cores,
        machine.architecture,
        machine.features.join(", "),
        results.turns,
        results.seconds,
    );
    let outcomes = || results.cells.iter().flat_map(|cell| &cell.engines);
    let others = outcomes().flat_map(|outcome| &outcome.turns).filter_map(|turn| turn.others_cores);
    if let Some((least, most)) = range(others) {
        _ = write!(text, " Other programs kept {least:.1} to {most:.1} cores busy meanwhile.");
    }
    let mut versions: Vec<String> = Vec::new();
    for outcome in outcomes() {
        let version = outcome.turns.iter().find_map(|turn| turn.version.as_ref());
        if let Some(version) = version.map(|version| format!("{} {version}", outcome.engine.title()))
            && !versions.contains(&version)
        {
            versions.push(version);
        }
    }
    if !versions.is_empty() {
        _ = write!(text, " {}.", versions.join(", "));
    }
    text.push('\n');
    text
}

/// Returns a head and a row for each cell, with a column for each engine that has anything to show.
fn rows(title: &str, cells: &[&Cell], show: fn(&Outcome) -> Option<String>) -> Vec<Vec<String>> {
    let mut engines: Vec<Engine> = Vec::new();
    for outcome in cells.iter().flat_map(|cell| &cell.engines) {
        if show(outcome).is_some() && !engines.contains(&outcome.engine) {
            engines.push(outcome.engine);
        }
    }
    let head = std::iter::once(title).chain(engines.iter().map(|engine| engine.title())).map(str::to_owned).collect();
    let row = |cell: &&Cell| {
        let shown = engines.iter().map(|engine| {
            let outcome = cell.engines.iter().find(|outcome| outcome.engine == *engine);
            outcome.and_then(show).unwrap_or_else(|| "–".into())
        });
        std::iter::once(cell.model.clone()).chain(shown).collect()
    };
    std::iter::once(head).chain(cells.iter().map(row)).collect()
}

pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    if columns < 2 {
        return String::new();
    }
    let mut text = String::from("\n");
    for (number, row) in rows.iter().enumerate() {
        _ = writeln!(text, "| {} |", row.join(" | "));
        if number == 0 {
            _ = writeln!(text, "|{}", "---|".repeat(columns));
        }
    }
    text
}

fn time_of(outcome: &Outcome) -> Option<String> {
    let summary = Summary::of(&outcome.turns)?;
    let median = summary.median_ms.map_or("–".into(), significant);
    Some(format!("{} ({median}; {:.0} %)", significant(summary.min_ms), summary.spread * 100.0))
}

fn verdict(cell: &Cell) -> String {
    let Some((peer, ms)) = best_peer(&cell.engines) else { return "–".into() };
    match ratios(&cell.engines) {
        Some((least, most)) => format!("{least:.2} to {most:.2} ({})", peer.title()),
        None => format!("– ({}: {})", peer.title(), significant(ms)),
    }
}

fn memory_of(outcome: &Outcome) -> Option<String> {
    let (load_ms, _) = range(outcome.turns.iter().filter_map(|turn| turn.load_ms))?;
    let (_, peak) = range(outcome.turns.iter().filter_map(|turn| turn.peak_rss_mb))?;
    let before = range(outcome.turns.iter().filter_map(|turn| turn.rss_before_load_mb));
    let before = before.map_or(String::new(), |(least, _)| format!(" ({least:.0})"));
    Some(format!("{load_ms:.0} / {peak:.0}{before}"))
}

fn difference_of(outcome: &Outcome) -> Option<String> {
    let difference = outcome.difference?;
    Some(format!("{:.1e}, r {:.5}", difference.largest, difference.correlation))
}

/// Says what the tables do not show: engines left out, and networks that graft handed to tract.
fn remarks(results: &Results) -> String {
    let mut remarks: Vec<String> = Vec::new();
    for cell in &results.cells {
        for outcome in &cell.engines {
            let what = format!("{} {}, {}", cell.model, cell.precision, outcome.engine.title());
            if let Some(reason) = &outcome.left_out {
                remarks.push(format!("{what}: left out: {reason}"));
            }
            let handed =
                outcome.turns.iter().find_map(|turn| turn.unrecognised.as_ref().filter(|name| !name.is_null()));
            if let (Engine::Graft, Some(name)) = (outcome.engine, handed) {
                remarks.push(format!("{what}: tract ran it, because of {name}"));
            }
        }
    }
    // The same for every number of threads, as a rule.
    remarks.sort();
    remarks.dedup();
    let lines: Vec<String> = remarks.iter().map(|remark| format!("- {}\n", remark.replace(['|', '<'], " "))).collect();
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

/// Writes a time with three digits, as noise leaves no more.
fn significant(ms: f64) -> String {
    let digits = if ms >= 100.0 {
        0
    } else if ms >= 10.0 {
        1
    } else {
        2
    };
    format!("{ms:.digits$}")
}

/// Returns `text` with `body` in place of what is between its two markers.
///
/// # Errors
///
/// Unless each marker is there once, the opening one first.
pub(super) fn replace_between_markers(text: &str, body: &str) -> Result<String> {
    let (open, close) = ("<!-- peers -->", "<!-- /peers -->");
    let found = (text.matches(open).count(), text.matches(close).count());
    ensure!(found == (1, 1), "expected one {open} and one {close}, found {} and {}", found.0, found.1);
    let (before, rest) = text.split_once(open).context("splitting at a marker")?;
    let (_, after) =
        rest.split_once(close).with_context(|| format!("expected {close} after {open}, found it before"))?;
    Ok(format!("{before}{open}\n{}\n{close}{after}", body.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::answers::Difference;

    fn turn(min_ms: f64, median_ms: f64) -> Measurement {
        Measurement {
            min_ms,
            median_ms: Some(median_ms),
            p95_ms: None,
            first_ms: None,
            load_ms: Some(20.0),
            rss_before_load_mb: Some(40.0),
            peak_rss_mb: Some(95.4),
            runs: None,
            version: Some("1.2".into()),
            engine: None,
            unrecognised: None,
            others_cores: Some(0.5),
        }
    }

    fn outcome(engine: Engine, turns: &[(f64, f64)]) -> Outcome {
        let turns = turns.iter().map(|&(min, median)| turn(min, median)).collect();
        Outcome { engine, turns, left_out: None, difference: None }
    }

    #[test]
    fn a_summary_has_the_fastest_run_the_middle_median_and_the_spread() {
        let turns = outcome(Engine::Ncnn, &[(4.0, 5.0), (5.0, 9.0), (4.4, 6.0)]).turns;
        let summary = Summary::of(&turns).unwrap();
        assert_eq!((summary.min_ms, summary.median_ms, summary.spread), (4.0, Some(6.0), 0.25));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_ratio_divides_by_the_fastest_peer_of_the_same_turn() {
        let engines = [
            outcome(Engine::Graft, &[(2.0, 2.0), (3.0, 3.0)]),
            outcome(Engine::Tract, &[(0.1, 0.1), (0.1, 0.1)]),
            outcome(Engine::OnnxRuntime, &[(4.0, 4.0), (6.0, 6.0)]),
            outcome(Engine::Ncnn, &[(5.0, 5.0), (4.0, 4.0)]),
        ];
        assert_eq!(ratios(&engines), Some((0.5, 0.75)));
        assert_eq!(best_peer(&engines), Some((Engine::OnnxRuntime, 4.0)));
    }

    #[test]
    fn there_is_no_ratio_without_graft_or_without_a_peer_in_its_turn() {
        assert_eq!(ratios(&[outcome(Engine::Ncnn, &[(1.0, 1.0)])]), None);
        assert_eq!(ratios(&[outcome(Engine::Graft, &[(1.0, 1.0)]), outcome(Engine::Ncnn, &[])]), None);
        let late = [outcome(Engine::Graft, &[(1.0, 1.0), (1.0, 1.0)]), outcome(Engine::Ncnn, &[(2.0, 2.0)])];
        assert_eq!(ratios(&late), Some((0.5, 0.5)));
    }

    #[test]
    fn replacing_leaves_the_rest_of_the_file() {
        let text = "a\n<!-- peers -->\nold\n<!-- /peers -->\nb\n";
        let replaced = replace_between_markers(text, "new\n").unwrap();
        assert_eq!(replaced, "a\n<!-- peers -->\nnew\n<!-- /peers -->\nb\n");
        assert_eq!(replace_between_markers(&replaced, "new\n").unwrap(), replaced);
    }

    #[test]
    fn replacing_refuses_markers_that_are_missing_doubled_or_swapped() {
        for text in [
            "",
            "<!-- peers -->",
            "<!-- /peers -->",
            "<!-- /peers --><!-- peers -->",
            "<!-- peers --><!-- peers --><!-- /peers -->",
        ] {
            assert!(replace_between_markers(text, "new").is_err(), "{text}");
        }
    }

    #[test]
    fn the_report_shows_times_ratio_memory_answers_and_what_was_left_out() {
        let mut peer = outcome(Engine::OpenVino, &[(4.0, 4.5), (4.2, 4.5)]);
        peer.difference = Some(Difference { largest: 2e-6, correlation: 1.0 });
        let mut graft = outcome(Engine::Graft, &[(2.0, 2.5), (2.1, 2.5)]);
        graft.turns[0].unrecognised = Some("Einsum".into());
        let mut lost = outcome(Engine::LiteRt, &[]);
        lost.left_out = Some("expected a | b".into());
        let cell =
            Cell { model: "net".into(), precision: Precision::F32, threads: 1, engines: vec![graft, peer, lost] };
        let machine = Machine {
            cpu: "A Chip".into(),
            features: vec!["avx2"],
            cores: 2,
            os: "linux",
            architecture: "x86_64",
            memory_mb: None,
        };
        let text = markdown(&Results { machine, turns: 2, seconds: 1.0, cells: vec![cell] });
        for line in [
            "| f32, 1 thread | graft | OpenVINO | graft / fastest peer |",
            "| net | 2.00 (2.50; 5 %) | 4.00 (4.50; 5 %) | 0.50 to 0.50 (OpenVINO) |",
            "| net | 20 / 95 (40) | 20 / 95 (40) |",
            "| net | 2.0e-6, r 1.00000 |",
            "- net f32, LiteRT: left out: expected a   b",
            "- net f32, graft: tract ran it, because of \"Einsum\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n---\n{text}");
        }
        assert!(text.starts_with("A Chip, 2 cores, x86_64 (avx2)."), "{text}");
    }

    #[test]
    fn times_have_three_digits() {
        for (ms, expected) in [(0.5678, "0.57"), (3.456, "3.46"), (34.56, "34.6"), (345.6, "346")] {
            assert_eq!(significant(ms), expected);
        }
    }
}
