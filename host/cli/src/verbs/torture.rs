//! `graft torture`: the update, put through every failure that can be simulated.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use graft_agent::torture::{Plan, Slip, Tally, Trouble, torture};
use serde::Serialize;

use crate::ui::{Ui, moves};

/// Try to kill a board by flashing it
///
/// Runs the code of the device on a simulated disk and line: cuts the power at every write, sync, rename and removal, and
/// loses, keeps or tears what was not synced; cuts the line at every frame; fills the disk, makes it read-only, has it fail;
/// flips bits in files and frames. After each the board must start with the old model or the new one, whole, and take the
/// same flash. Touches no real device. Exit code 1 if a board was lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft torture
  graft torture --quick
  graft torture --seed 7 --json > matrix.json
  graft torture --without folder-sync     # leaves out a sync, to see that it is noticed")]
pub(crate) struct Args {
    /// What is chosen at random follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Try only some of the places
    #[arg(long)]
    quick: bool,
    /// Leave something out on purpose: boards are lost then
    #[arg(long, value_name = "WHAT")]
    without: Option<Without>,
    /// Print JSON, with a row for each story
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Without {
    /// Files are not synced before they get their name
    FileSync,
    /// Folders are not synced after a name in them changed
    FolderSync,
    /// The state is written before the slot is in its place
    Order,
}

impl From<Without> for Slip {
    fn from(without: Without) -> Self {
        match without {
            Without::FileSync => Self::FileSync,
            Without::FolderSync => Self::FolderSync,
            Without::Order => Self::StateFirst,
        }
    }
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let plan = if args.quick { Plan::quick(args.seed) } else { Plan::full(args.seed) };
    let plan = Plan { slip: args.without.map(Slip::from), ..plan };
    let bar = ui.bar("torture");
    let progress = moves(&bar);
    let start = Instant::now();
    let matrix = torture(&plan, &Arc::clone(&ui.stop), &|done, of| progress(done, of))?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let (points, total) = matrix.sum(|_| true);
    if args.json {
        #[derive(Serialize)]
        struct Report<'a> {
            #[serde(flatten)]
            matrix: &'a graft_agent::torture::Matrix,
            points: u64,
            #[serde(flatten)]
            total: Tally,
            seconds: f64,
        }
        ui.json(&Report { matrix: &matrix, points, total, seconds })?;
    } else {
        ui.line(&format!("{:36}{HEADINGS}", "trouble"))?;
        for trouble in Trouble::ALL {
            let (points, tally) = matrix.sum(|row| row.trouble == trouble);
            if points > 0 {
                ui.line(&format!("{:36}{}", trouble.title(), figures(points, &tally)))?;
            }
        }
        ui.line(&format!("{:36}{}", "all", figures(points, &total)))?;
        ui.line(&format!("seed {}, {seconds:.1} s", args.seed))?;
    }
    for row in &matrix.rows {
        if let Some(lost) = &row.first_lost {
            ui.note(&format!("lost: {}, {}: {lost}", row.story, row.trouble.title()));
        }
    }
    ensure!(!matrix.is_stopped, "stopped before the end; the figures are of what was tried until then");
    let lost = total.dead + total.wrong + total.half_activated + total.stuck;
    ensure!(total.is_clean(), "expected every board to come back and to take the flash, found {lost} that did not");
    Ok(())
}

const HEADINGS: &str = "  places   boards      old      new  dead wrong  half stuck";

fn figures(points: u64, t: &Tally) -> String {
    format!(
        "{points:8} {:8} {:8} {:8} {:5} {:5} {:5} {:5}",
        t.tried, t.old, t.new, t.dead, t.wrong, t.half_activated, t.stuck
    )
}
