//! `graft slot`: what is in a device's slots.

use anyhow::Result;
use graft_link::messages::SlotState;
use serde_json::json;

use super::flash::At;
use crate::ui::Ui;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the slots
    #[command(after_help = "Example:\n  graft slot list --device /dev/ttyUSB0")]
    List {
        #[command(flatten)]
        at: At,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell what happened to the slots, newest first
    #[command(after_help = "Example:\n  graft slot log --device /dev/ttyUSB0 --count 5")]
    Log {
        #[command(flatten)]
        at: At,
        /// At most so many entries
        #[arg(long, default_value_t = 20)]
        count: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the bundle on trial permanent
    #[command(after_help = "Example:\n  graft slot commit --device /dev/ttyUSB0")]
    Commit {
        #[command(flatten)]
        at: At,
    },
    /// Go back to the other slot
    #[command(after_help = "Example:\n  graft slot rollback --device /dev/ttyUSB0")]
    Rollback {
        #[command(flatten)]
        at: At,
    },
}

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    let (at, as_json) = match command {
        Command::Log { at, count, json } => return log(at, *count, *json, ui),
        Command::List { at, json } => (at, *json),
        Command::Commit { at } | Command::Rollback { at } => (at, false),
    };
    let mut session = at.connect(ui)?;
    match command {
        Command::List { .. } | Command::Log { .. } => {}
        Command::Commit { .. } => session.commit()?,
        Command::Rollback { .. } => session.rollback()?,
    }
    let slots = session.slots()?;
    if as_json {
        let rows: Vec<_> = slots
            .iter()
            .map(|s| {
                let digest: String = s.bundle_digest.iter().map(|b| format!("{b:02x}")).collect();
                json!({ "slot": s.name, "state": state(s.state), "bundle": s.bundle_name, "digest": digest, "current": s.current })
            })
            .collect();
        return ui.json(&rows);
    }
    for s in slots {
        let mark = if s.current { "*" } else { " " };
        ui.line(&format!("{mark} {}  {:10} {}", s.name, state(s.state), s.bundle_name))?;
    }
    Ok(())
}

fn log(at: &At, count: u32, as_json: bool, ui: &mut Ui) -> Result<()> {
    let entries = at.connect(ui)?.log(count)?;
    if as_json {
        let rows: Vec<_> = entries.iter().map(|e| json!({ "unix_ms": e.unix_ms, "text": e.text })).collect();
        return ui.json(&rows);
    }
    entries.iter().try_for_each(|e| ui.line(&format!("{}  {}", utc(e.unix_ms), e.text)))
}

/// Returns a time as `2026-11-27 02:06:20`, in UTC.
pub(crate) fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in cycles of 400 years: Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * in_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let date = in_year - (153 * shifted + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn state(state: SlotState) -> &'static str {
    match state {
        SlotState::Empty => "empty",
        SlotState::Partial => "receiving",
        SlotState::Ready => "staged",
        SlotState::Trial => "trial",
        SlotState::Committed => "committed",
        SlotState::Failed => "failed",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    /// As `date -u -d @SECONDS` of coreutils 9.1 gives them.
    #[test]
    fn times_are_as_date_gives_them() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_795_745_180, "2026-11-27 02:06:20"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(super::utc(seconds * 1000), text);
        }
    }
}
