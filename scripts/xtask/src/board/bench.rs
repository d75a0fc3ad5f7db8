//! A board on the bench: switched on and off, asked over its line, and checked against the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_deploy::{Address, Session};
use graft_link::Random;
use graft_link::messages::{SlotInfo, SlotState};

use super::disk::{Disk, Lost, Served};
use super::emulator::Emulator;
use super::image::Image;
use super::models::{Flashed, Graft, Model, Models};
use crate::cross::answer;

pub(super) struct Bench {
    image: Image,
    folder: PathBuf,
    /// In one of the two at any time, unless something failed between.
    off: Option<Disk>,
    on: Option<(Emulator, Served)>,
    /// Raised by Ctrl-C.
    pub(super) stop: Arc<AtomicBool>,
}

/// Bytes of the board's disk.
const DISK: u64 = 64 << 20;
/// From switching a board on to its first answer, however busy this machine is.
const BOOT: Duration = Duration::from_secs(120);
/// For a board that is on.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest difference of a probability between board and host.
pub(super) const TOLERANCE: f32 = 1e-3;

impl Bench {
    /// Puts a board with an empty disk on the bench.
    pub(super) fn new(image: Image, folder: &Path, stop: Arc<AtomicBool>) -> Result<Self> {
        let file = folder.join("disk");
        let doing = || format!("making a disk at {}", file.display());
        fs::File::create(&file).and_then(|f| f.set_len(DISK)).with_context(doing)?;
        let paths = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("mke2fs");
        // It is for root, by its place, but not by what it does.
        command.env("PATH", format!("{paths}:/usr/sbin:/sbin")).args(["-q", "-F", "-t", "ext4"]).arg(&file);
        answer(&mut command).with_context(doing)?;
        let disk = Disk::of(fs::read(&file).with_context(doing)?);
        let bench = Self { image, folder: folder.to_owned(), off: Some(disk), on: None, stop };
        let _ = fs::remove_file(bench.journal());
        Ok(bench)
    }

    /// Returns the file of what the board says of itself.
    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join("journal.txt")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("disk.socket")
    }

    /// Switches the board on and waits until it answers; returns the seconds that took.
    pub(super) fn switch_on(&mut self) -> Result<f64> {
        let start = Instant::now();
        let disk = self.off.take().context("expected a board that is off")?;
        let served = disk.serve(&self.socket())?;
        self.on = Some((Emulator::start(&self.image, &self.socket(), &self.journal())?, served));
        self.connect(BOOT, &self.stop)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Pulls the board's plug, and has its disk lose what it had not been told to keep.
    pub(super) fn cut(&mut self, random: &mut Random) -> Result<Lost> {
        let (mut emulator, served) = self.on.take().context("expected a board that is on")?;
        emulator.kill()?;
        let mut disk = served.taken_back(&self.socket())?;
        let lost = disk.cut(random);
        self.off = Some(disk);
        Ok(lost)
    }

    /// Returns the port of a board that is on.
    pub(super) fn port(&self) -> Result<&str> {
        Ok(self.on.as_ref().context("expected a board that is on")?.0.port())
    }

    /// Begins a session, which a raised `stop` ends.
    pub(super) fn session(&self, stop: &Arc<AtomicBool>) -> Result<Session> {
        self.connect(PATIENCE, stop)
    }

    fn connect(&self, patience: Duration, stop: &Arc<AtomicBool>) -> Result<Session> {
        let address: Address = self.port()?.parse()?;
        let session = Session::connect(&address, patience, Some(Arc::clone(stop)));
        session
            .with_context(|| format!("waiting for the emulated board, whose journal is {}", self.journal().display()))
    }

    /// Flashes a model to the end with the host's program.
    pub(super) fn flash(&self, graft: &Graft, model: &Model) -> Result<Flashed> {
        self.goes_on()?;
        graft.flash(model, self.port()?)
    }

    /// Has the board classify `count` pictures, and checks its answers against the host's; returns the largest difference of a
    /// probability.
    pub(super) fn check(&self, models: &Models, model: &Model, count: usize) -> Result<f32> {
        let mut session = self.session(&self.stop)?;
        let mut most = 0.0_f32;
        for (path, expected) in models.pictures.iter().zip(&model.answers).take(count) {
            let picture = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            let found = session.classify(&path.display().to_string(), &picture)?;
            let off = (found.probability - expected.probability).abs();
            ensure!(
                found.label == expected.label && off <= TOLERANCE,
                "expected {expected:?} of {} by {}, as the host tells, found {} {}",
                path.display(),
                model.name,
                found.label,
                found.probability
            );
            most = most.max(off);
        }
        Ok(most)
    }

    /// Returns what runs on the board.
    pub(super) fn running(&self) -> Result<SlotInfo> {
        let slots = self.session(&self.stop)?.slots()?;
        let running = slots.into_iter().find(|slot| slot.current);
        running
            .filter(|s| matches!(s.state, SlotState::Trial | SlotState::Committed))
            .context("expected a model to run")
    }

    /// # Errors
    ///
    /// Once Ctrl-C was pressed.
    pub(super) fn goes_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { bail!("stopped") } else { Ok(()) }
    }
}
