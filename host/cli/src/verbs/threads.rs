//! `--threads` of the verbs that share their work among all cores.

use std::num::NonZeroUsize;

use anyhow::{Context, Result};

/// How many threads compute.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Threads {
    /// Threads to compute with, instead of one for each core; a fit that goes on with --resume needs as many as before, to end
    /// in the very same weights
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Threads {
    /// Has all that follows in this process compute so.
    pub(crate) fn start(self) -> Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global().context("starting threads")
    }
}
