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
        Command::List { at, json } => (at, *json),
        Command::Commit { at } | Command::Rollback { at } => (at, false),
    };
    let mut session = at.connect(ui)?;
    match command {
        Command::List { .. } => {}
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
