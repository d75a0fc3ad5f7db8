//! `graft key`: the keys that sign bundles.

use std::path::PathBuf;

use anyhow::Result;
use graft_bundle::SecretKey;

use crate::ui::Ui;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a new key
    ///
    /// Writes the secret key to KEYFILE, readable by its owner alone, and the public key to KEYFILE.pub: that text goes
    /// into `trusted_keys` of every device. An existing file is never overwritten.
    #[command(after_help = "Example:\n  graft key new --out field.key")]
    New {
        /// The file to write
        #[arg(long, value_name = "KEYFILE")]
        out: PathBuf,
    },
    /// Print the public key of a secret one
    #[command(after_help = "Example:\n  graft key show field.key")]
    Show {
        /// A file made by `graft key new`
        key: PathBuf,
    },
}

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    match command {
        Command::New { out } => {
            let key = SecretKey::generate()?;
            let public = key.save(out)?;
            ui.line(&format!("{}\n{} (fingerprint {})", key.public(), public.display(), key.public().fingerprint()))
        }
        Command::Show { key } => ui.line(&SecretKey::load(key)?.public().to_string()),
    }
}
