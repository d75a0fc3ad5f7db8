//! `graft model`: the catalogue of pretrained weights.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use graft_zoo::catalogue::Source;
use graft_zoo::{Catalogue, Entry};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

use crate::ui::Ui;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the known weights
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show where weights come from, their licence and their preprocessing
    #[command(after_help = "Example:\n  graft model show mobilenet_v2")]
    Show {
        /// An id from `graft model list`
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download weights from the Hugging Face hub into its cache, and check their digest
    ///
    /// HF_HOME moves the cache; with HF_HUB_OFFLINE=1 nothing is downloaded.
    #[command(after_help = "Example:\n  graft model fetch mobilenet_v2")]
    Fetch {
        /// An id from `graft model list`
        id: String,
    },
}

pub(crate) fn run(command: &Command, ui: &mut Ui) -> Result<()> {
    match command {
        Command::List { json: true } => ui.json(&Catalogue::entries()),
        Command::List { json: false } => {
            for e in Catalogue::entries() {
                ui.line(&format!("{:24} {:22} {:14} {}", e.id, e.architecture.to_string(), e.licence, e.about))?;
            }
            Ok(())
        }
        Command::Show { id, json } => show(find(id)?, *json, ui),
        Command::Fetch { id } => {
            let path = fetch(find(id)?)?;
            ui.line(&path.display().to_string())
        }
    }
}

fn show(e: &Entry, json: bool, ui: &Ui) -> Result<()> {
    if json {
        return ui.json(e);
    }
    let source = match &e.source {
        Source::Embedded => "inside graft".to_owned(),
        Source::Hub { repo, file, revision } => format!("https://huggingface.co/{repo}, {file} at {revision}"),
        Source::File { name } => format!("your own copy of {name}, given with --weights"),
    };
    ui.line(&format!("{}: {}", e.id, e.about))?;
    let stages = e.architecture.backbone(e.padding, e.bn_eps).stages;
    ui.line(&format!("architecture  {}, {stages} stages to fine-tune", e.architecture))?;
    ui.line(&format!("licence       {}", e.licence))?;
    ui.line(&format!("origin        {}", e.origin))?;
    ui.line(&format!("source        {source}"))?;
    ui.line(&format!("sha256        {}", e.sha256.unwrap_or("not published")))?;
    ui.line(&format!("input         {0}x{0}, padding {1:?}, batch norm eps {2}", e.input, e.padding, e.bn_eps))
}

fn find(id: &str) -> Result<&'static Entry> {
    let ids = || Catalogue::entries().iter().map(|e| e.id).collect::<Vec<_>>().join(", ");
    Catalogue::find(id).with_context(|| format!("expected one of {}, found {id:?}", ids()))
}

/// Returns the cached file of an entry, if it is there.
pub(crate) fn cached(entry: &Entry) -> Option<PathBuf> {
    let Source::Hub { repo, file, revision } = &entry.source else { return None };
    Cache::from_env().repo(Repo::with_revision((*repo).into(), RepoType::Model, (*revision).into())).get(file)
}

fn fetch(entry: &Entry) -> Result<PathBuf> {
    let Source::Hub { repo, file, revision } = &entry.source else {
        bail!(
            "expected weights that are on the hub, found {}, which `graft model show {}` tells about",
            entry.id,
            entry.id
        );
    };
    let path = match cached(entry) {
        Some(path) => path,
        None => {
            let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false"));
            let remedy = || {
                format!(
                    "downloading {file} of {repo}; without a network, copy https://huggingface.co/{repo}/resolve/{revision}/{file} \
                     here by other means and give it with `graft train --weights {file}`"
                )
            };
            if offline {
                return Err(anyhow::anyhow!("HF_HUB_OFFLINE is set and the file is not in the cache"))
                    .with_context(remedy);
            }
            let api = ApiBuilder::from_env().with_progress(true).build().context("opening the hub's cache")?;
            let repo = Repo::with_revision((*repo).into(), RepoType::Model, (*revision).into());
            api.repo(repo).get(file).with_context(remedy)?
        }
    };
    verify(entry, &path)?;
    Ok(path)
}

/// Compares the digest with the catalogue's or, where it has none, with the one by which the hub names large files.
fn verify(entry: &Entry, path: &PathBuf) -> Result<()> {
    let doing = || format!("checking {}", path.display());
    let target = std::fs::canonicalize(path).with_context(doing)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_digest = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let Some(expected) = entry.sha256.map(str::to_owned).or(is_digest.then_some(name)) else { return Ok(()) };
    let mut file = std::fs::File::open(&target).with_context(doing)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut HashWriter(&mut hasher)).with_context(doing)?;
    let found: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    ensure!(
        found == expected,
        "expected SHA-256 {expected}, found {found}; delete {} and fetch again",
        target.display()
    );
    Ok(())
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
