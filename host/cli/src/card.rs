//! A device that is switched off: its folder on a mounted card, served in this process by the device's own code.
//!
//! The bundle is put into the slot and tested here as `graftd` would; the board tests it again when it starts.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use graft_agent::agent::{Agent, Start};
use graft_agent::config::Config;
use graft_agent::ports::attend;
use graft_deploy::Session;
use graft_link::transport::pair;

/// The service of a device's folder. Dropping it, after its session, waits for the end of the service and leaves the files
/// to their owner.
pub(crate) struct Card {
    service: Option<JoinHandle<()>>,
    root: PathBuf,
    /// Whose the files are, where that is not this user.
    owner: Option<(u32, u32)>,
}

impl Card {
    /// Opens the folder of a device: one with a `graftd.toml`, or the root of a board's file system.
    pub(crate) fn open(folder: &Path, patience: Duration) -> Result<(Session, Self)> {
        let mut config = config_of(folder)?;
        config.listen.clear();
        config.display = "none".into();
        let root = config.root.clone();
        fs::create_dir_all(&root).with_context(|| format!("making {}; use sudo", root.display()))?;
        let meta = fs::metadata(&root).with_context(|| format!("looking at the device's folder {}", root.display()))?;
        let me = tempfile::tempfile_in(&root).and_then(|f| f.metadata()).map(|m| m.uid());
        let me = me.with_context(|| format!("writing to {}; use sudo, or mount it writable", root.display()))?;
        ensure!(
            me == meta.uid() || me == 0,
            "expected the owner of {} (user {}) or root, found user {me}; use sudo, or the board could not read its files",
            root.display(),
            meta.uid()
        );
        let agent = Agent::open(config, Start::Looks)?;
        let (host, device) = pair();
        let service = thread::spawn(move || {
            // The host's end going away is the end.
            let _ = attend(device, &Mutex::new(agent), &AtomicBool::new(false));
        });
        let owner = (me != meta.uid()).then(|| (meta.uid(), meta.gid()));
        let card = Self { service: Some(service), root, owner };
        let session = Session::over(Box::new(host), format!("file:{}", folder.display()), patience, None)?;
        Ok((session, card))
    }
}

/// Returns the configuration of a device whose files lie in `folder`.
fn config_of(folder: &Path) -> Result<Config> {
    let here = folder.join("graftd.toml");
    if here.is_file() {
        return Ok(Config::open(&here)?);
    }
    let there = folder.join("etc/graft/graftd.toml");
    if there.is_file() {
        let mut config = Config::open(&there)?;
        // Its paths are those of the board.
        if let Ok(inside) = config.root.clone().strip_prefix("/") {
            config.root = folder.join(inside);
        }
        return Ok(config);
    }
    bail!(
        "expected graftd.toml or etc/graft/graftd.toml in {}, found neither; name the root of the board's file system, or \
         put a copy of the board's graftd.toml there, since it says whose bundles the board takes",
        folder.display()
    )
}

impl Drop for Card {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            let _ = service.join();
        }
        if let Some((user, group)) = self.owner
            && let Err(e) = give(&self.root, (user, group))
        {
            eprintln!("note: {e:#}; run: sudo chown -R {user}:{group} {}", self.root.display());
        }
    }
}

/// Gives all below a folder to its owner, for files made by root could not be read by the board's daemon.
fn give(at: &Path, owner: (u32, u32)) -> Result<()> {
    lchown(at, Some(owner.0), Some(owner.1)).with_context(|| format!("giving {} to its owner", at.display()))?;
    if at.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(at)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
