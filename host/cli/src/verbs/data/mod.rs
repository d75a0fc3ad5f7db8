//! `graft data`: looks at a data set before training on it.

use anyhow::Result;

use crate::ui::Ui;

mod check;
mod preview;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Check(check::Args),
    Preview(preview::Args),
}

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    match command {
        Command::Check(args) => check::run(args, ui),
        Command::Preview(args) => preview::run(args, ui),
    }
}
