//! A board on the bench: switched on and off, asked over its line, and checked against the host.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_deploy::{Address, DeployError, Session};
use graft_link::Random;
use graft_link::messages::{SlotInfo, SlotState};

use super::disk::{Disk, Lost, Served, Watch};
use super::emulator::Emulator;
use super::image::Image;
use super::models::{Flashed, Graft, Model, Models, Unreachable};
use crate::cross::answer;

pub(super) struct Bench {
    image: Image,
    folder: PathBuf,
    /// In one of the two at any time, unless something failed between.
    off: Option<Disk>,
    on: Option<(Emulator, Served)>,
    /// Raised by Ctrl-C.
    pub(super) stop: Arc<AtomicBool>,
    silences: Cell<u32>,
}

/// Bytes of the board's disk.
const DISK: u64 = 64 << 20;
/// From switching a board on to its first answer, however busy this machine is.
const BOOT: Duration = Duration::from_secs(120);
/// For a board that is on.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a silent board is asked.
const TRIES: u32 = 3;
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
        let bench = Self { image, folder: folder.to_owned(), off: Some(disk), on: None, stop, silences: Cell::new(0) };
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

    /// Returns what is known of the disk of a board that is on.
    pub(super) fn watch(&self) -> Result<Watch> {
        Ok(self.on.as_ref().context("expected a board that is on")?.1.watch.clone())
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
        let mut flashed = self.answered(|| graft.flash(model, self.port()?))?;
        let end = Instant::now();
        let at_work = Duration::from_secs_f64((flashed.seconds - flashed.transfer_seconds).max(0.0));
        flashed.changes = self.watch()?.between(end.checked_sub(at_work).unwrap_or(end), end);
        Ok(flashed)
    }

    /// Asks a board that is on; again where it is silent, which one emulated on a busy machine may be for longer than a host
    /// waits. How often that was goes into the report.
    pub(super) fn answered<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 1..TRIES {
            self.goes_on()?;
            match ask() {
                Err(e) if is_silence(&e) => self.silences.set(self.silences.get() + 1),
                outcome => return outcome,
            }
        }
        ask()
    }

    /// Returns how often the board was silent since this was last asked.
    pub(super) fn silences(&self) -> u32 {
        self.silences.take()
    }

    /// Has the board classify `count` pictures, and checks its answers against the host's; returns the largest difference of a
    /// probability.
    pub(super) fn check(&self, models: &Models, model: &Model, count: usize) -> Result<f32> {
        self.answered(|| self.check_once(models, model, count))
    }

    fn check_once(&self, models: &Models, model: &Model, count: usize) -> Result<f32> {
        let mut session = self.session(&self.stop)?;
        let mut most = 0.0_f32;
        for ((name, picture), expected) in models.read(count)?.iter().zip(&model.answers) {
            let found = session.classify(name, picture)?;
            let off = (found.probability - expected.probability).abs();
            ensure!(
                found.label == expected.label && off <= TOLERANCE,
                "expected {expected:?} of {name} by {}, as the host tells, found {} {}",
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
        let slots = self.answered(|| Ok(self.session(&self.stop)?.slots()?))?;
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

/// Whether a board did not answer, as a host sees it.
pub(super) fn is_silence(error: &anyhow::Error) -> bool {
    error.is::<Unreachable>() || error.downcast_ref().is_some_and(DeployError::is_unreachable)
}
