//! Torture: the update that ships, on a disk and a line that fail at every point, and what becomes of the board.
//!
//! For each story (a full flash, a delta flash, a rollback …) every moment at which the power, the line or the disk can
//! fail is tried. After each the board is started: a model that was put on it must run, whole, and the same flash must
//! succeed. What is found is the same for the same seed. States and guarantees: `docs/formats/slots.md`.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use graft_bundle::Digest;
use graft_link::messages::RefusalCode;
use serde::Serialize;

use crate::slots::{Clock, Confirm, Slot, Slots, Status};

mod bench;
mod line;
mod simulated;

use bench::{Bundles, CONFIRM_AFTER, Device, STORIES, Scene, Step, Story, Which, flash, step};
pub use graft_link::Random;
use line::{Frame, LineFault};
pub use simulated::{Fault, Moment, Simulated, Slip};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What is chosen at random follows from it.
    pub seed: u64,
    /// Chunks of a backbone.
    pub chunks: usize,
    /// Ways in which a power cut may lose what was not synced, tried at each moment; equal ones count once.
    pub ways: u64,
    /// Further power cuts after each, each while the device recovers from the one before.
    pub depth: u32,
    /// Of the moments, frames and calls, each so many-th is tried.
    pub stride: usize,
    /// Files with a flipped bit in each story.
    pub flips: u64,
    /// What is left out on purpose.
    pub slip: Option<Slip>,
}

impl Plan {
    /// Everything.
    pub fn full(seed: u64) -> Self {
        Self { seed, chunks: 24, ways: 16, depth: 2, stride: 1, flips: 200, slip: None }
    }

    /// What takes a moment.
    pub fn quick(seed: u64) -> Self {
        Self { ways: 6, depth: 1, stride: 7, flips: 20, ..Self::full(seed) }
    }
}

/// What is done to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The power is cut at every write, sync, rename and removal.
    PowerCut,
    /// The same with a clock that stands in 1970, after one that did not.
    Clock1970,
    /// From each changing call on the disk is full.
    DiskFull,
    /// From each changing call on the disk can only be read.
    DiskReadOnly,
    /// Each call fails once.
    DiskError,
    /// A bit is flipped in a stored file.
    BitRot,
    /// The line is cut at every frame.
    LineCut,
    /// The power is cut at every frame.
    PowerCutAtFrame,
    /// Each frame is lost.
    FrameLost,
    /// A bit is flipped in each frame.
    FrameFlipped,
    /// Each frame comes twice.
    FrameRepeated,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::PowerCut,
        Self::Clock1970,
        Self::DiskFull,
        Self::DiskReadOnly,
        Self::DiskError,
        Self::BitRot,
        Self::LineCut,
        Self::PowerCutAtFrame,
        Self::FrameLost,
        Self::FrameFlipped,
        Self::FrameRepeated,
    ];

    /// Returns what a person reads.
    pub fn title(self) -> &'static str {
        match self {
            Self::PowerCut => "power cut at every disk operation",
            Self::Clock1970 => "the same, clock in 1970",
            Self::DiskFull => "disk full at every operation",
            Self::DiskReadOnly => "disk read-only at every operation",
            Self::DiskError => "one failing disk operation",
            Self::BitRot => "flipped bit in a stored file",
            Self::LineCut => "line cut at every frame",
            Self::PowerCutAtFrame => "power cut at every frame",
            Self::FrameLost => "frame lost",
            Self::FrameFlipped => "flipped bit in a frame",
            Self::FrameRepeated => "frame repeated",
        }
    }
}

/// How boards came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Boards that were put in trouble and started afterwards.
    pub tried: u64,
    /// They run what they ran before; an empty one is still empty.
    pub old: u64,
    /// They run what they were to run, or an earlier good bundle.
    pub new: u64,
    /// Nothing runs although something could.
    pub dead: u64,
    /// What runs was never to run.
    pub wrong: u64,
    /// The state names a bundle that is not whole.
    pub half_activated: u64,
    /// The same flash afterwards does not succeed.
    pub stuck: u64,
}

impl Tally {
    /// Whether no board was lost.
    pub fn is_clean(&self) -> bool {
        self.dead + self.wrong + self.half_activated + self.stuck == 0
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.tried += other.tried;
        self.old += other.old;
        self.new += other.new;
        self.dead += other.dead;
        self.wrong += other.wrong;
        self.half_activated += other.half_activated;
        self.stuck += other.stuck;
    }
}

/// What one trouble did in one story.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The trouble.
    pub trouble: Trouble,
    /// The story.
    pub story: &'static str,
    /// Moments, calls, frames or files at which it came.
    pub points: u64,
    /// What became of the boards.
    #[serde(flatten)]
    pub tally: Tally,
    /// The first lost board, in words.
    pub first_lost: Option<String>,
}

/// All that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Matrix {
    /// Of the plan.
    pub seed: u64,
    /// Whether it was stopped before its end.
    pub is_stopped: bool,
    /// By trouble and story.
    pub rows: Vec<Row>,
}

impl Matrix {
    /// Returns the sum of the rows that `wanted` lets through, and their points.
    pub fn sum(&self, wanted: impl Fn(&Row) -> bool) -> (u64, Tally) {
        let mut sum = (0, Tally::default());
        for row in self.rows.iter().filter(|row| wanted(row)) {
            sum.0 += row.points;
            sum.1 += row.tally;
        }
        sum
    }
}

/// Why torture cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("the story {story:?} does not go well even without trouble: {reason}")]
pub struct TortureError {
    story: &'static str,
    reason: String,
}

/// Tries everything. `progress` is told of parts done and of how many there are; a raised `stop` ends it early.
///
/// # Errors
///
/// [`TortureError`].
pub fn torture(
    plan: &Plan,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Matrix, TortureError> {
    let bundles = Bundles::new(plan.seed, plan.chunks)
        .map_err(|e| TortureError { story: "packing the bundles", reason: e.to_string() })?;
    let jobs: Vec<(Trouble, &Story)> =
        Trouble::ALL.into_iter().flat_map(|trouble| STORIES.iter().map(move |story| (trouble, story))).collect();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Vec<(usize, Result<Row, TortureError>)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((index, &(trouble, story))) = take(&jobs, &next) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let row = Ordeal::new(plan, &bundles, trouble, story, stop).run();
                    let row = row.map_err(|reason| TortureError { story: story.name, reason });
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((index, row));
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(index, _)| *index);
    let rows = found.into_iter().map(|(_, row)| row).collect::<Result<Vec<Row>, _>>()?;
    let is_stopped = stop.load(Ordering::Relaxed);
    Ok(Matrix { seed: plan.seed, is_stopped, rows: rows.into_iter().filter(|row| row.points > 0).collect() })
}

fn take<'a, T>(jobs: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    jobs.get(index).map(|job| (index, job))
}

/// One trouble in one story.
struct Ordeal<'a> {
    plan: &'a Plan,
    bundles: &'a Bundles,
    trouble: Trouble,
    story: &'a Story,
    stop: &'a AtomicBool,
    random: Random,
    row: Row,
    /// What ran before, and what may run afterwards besides.
    old: Option<Digest>,
    allowed: Vec<Digest>,
}

fn clock_2026() -> u64 {
    1_790_000_000_000
}

fn clock_1970() -> u64 {
    0
}

impl<'a> Ordeal<'a> {
    fn new(plan: &'a Plan, bundles: &'a Bundles, trouble: Trouble, story: &'a Story, stop: &'a AtomicBool) -> Self {
        let place = STORIES.iter().position(|s| s.name == story.name).unwrap_or(0) as u64;
        let random = Random::new(plan.seed, 1000 * (trouble as u64 + 1) + place);
        let row = Row { trouble, story: story.name, points: 0, tally: Tally::default(), first_lost: None };
        Self { plan, bundles, trouble, story, stop, random, row, old: None, allowed: vec![] }
    }

    fn run(mut self) -> Result<Row, String> {
        self.rehearse()?;
        match self.trouble {
            Trouble::PowerCut | Trouble::Clock1970 => self.power_cuts()?,
            Trouble::DiskFull => self.failing_calls(Fault::Full)?,
            Trouble::DiskReadOnly => self.failing_calls(Fault::ReadOnly)?,
            Trouble::DiskError => self.failing_calls(Fault::Error)?,
            Trouble::BitRot => self.bit_rot()?,
            _ => self.frames()?,
        }
        Ok(self.row)
    }

    fn scene(&self, disk: Simulated) -> Scene<'a> {
        let clock: Clock = if self.trouble == Trouble::Clock1970 { clock_1970 } else { clock_2026 };
        Scene { disk, bundles: self.bundles, clock, confirm: Confirm::After(CONFIRM_AFTER) }
    }

    /// Returns the device as the story finds it.
    fn set(&self) -> Result<(Scene<'a>, Device), String> {
        let scene = Scene { clock: clock_2026, ..self.scene(Simulated::careless(self.plan.slip)) };
        let mut device = scene.start().map_err(|e| e.to_string())?;
        for &next in self.story.before {
            step(&mut device, next, &scene).map_err(|(_, reason)| format!("{next:?}: {reason}"))?;
        }
        let scene = self.scene(scene.disk);
        Ok((scene, device))
    }

    /// Goes through the story without trouble, to learn what may run.
    fn rehearse(&mut self) -> Result<(), String> {
        let (scene, mut device) = self.set()?;
        self.old = model(&device);
        self.allowed.extend(self.old);
        for &next in self.story.during {
            match step(&mut device, next, &scene) {
                Err((RefusalCode::Gate, _)) if next == Step::Flash(Which::Bad) => {}
                Err((_, reason)) => return Err(format!("{next:?}: {reason}")),
                Ok(()) => {}
            }
            self.allowed.extend(model(&device));
        }
        // What was committed earlier may always be gone back to.
        let is_good = |slot: &Slot| matches!(device.slots().installed(*slot), Some(i) if i.status == Status::Committed);
        self.allowed
            .extend(device.slots().all().filter(is_good).filter_map(|s| Some(device.slots().installed(s)?.digest)));
        Ok(())
    }

    /// Does what the story tells, as far as the trouble lets it.
    fn play(&self, device: &mut Device, scene: &Scene<'_>) {
        for &next in self.story.during {
            let _ = step(device, next, scene);
        }
    }

    fn power_cuts(&mut self) -> Result<(), String> {
        let (scene, mut device) = self.set()?;
        scene.disk.film();
        self.play(&mut device, &scene);
        for (index, moment) in scene.disk.moments().into_iter().enumerate().step_by(self.plan.stride) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.row.points += 1;
            for disk in moment.cuts(self.plan.ways, self.plan.slip, &mut self.random) {
                self.judge(disk, self.plan.depth, &format!("power cut after operation {index}"));
            }
        }
        Ok(())
    }

    fn failing_calls(&mut self, fault: fn(u64) -> Fault) -> Result<(), String> {
        let (scene, mut device) = self.set()?;
        scene.disk.fail(Fault::None);
        self.play(&mut device, &scene);
        let (changes, calls) = scene.disk.calls();
        let count = if matches!(fault(0), Fault::Error(_)) { calls } else { changes };
        for at in (0..count).step_by(self.plan.stride) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (scene, mut device) = self.set()?;
            self.row.points += 1;
            scene.disk.fail(fault(at));
            self.play(&mut device, &scene);
            let what = format!("{:?}", fault(at));
            // The board goes on without a start, is started with the disk as it is, and once more when that is mended.
            self.look(&device, &format!("{what}, going on"));
            if !matches!(fault(0), Fault::Error(_)) {
                scene.disk.fail(fault(0));
                match scene.start() {
                    Ok(device) => self.look(&device, &format!("{what}, started so")),
                    Err(e) => self.lose(|t| &mut t.dead, &format!("{what}: {e}")),
                }
            }
            scene.disk.fail(Fault::None);
            self.flash_again(&mut device, &format!("{what}, mended"));
            let disk = scene.disk.moment().cuts(2, self.plan.slip, &mut self.random).pop();
            self.judge(disk.unwrap_or_default(), 0, &what);
        }
        Ok(())
    }

    fn bit_rot(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.flips {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let (scene, mut device) = self.set()?;
            self.play(&mut device, &scene);
            // Of one bundle alone there is no other copy to run from.
            let may_run = |slot: &Slot| match device.slots().installed(*slot).map(|i| i.status) {
                None | Some(Status::Staged | Status::Failed { ran: false, .. }) => false,
                Some(Status::Trial { .. } | Status::Committed | Status::Failed { ran: true, .. }) => true,
            };
            let below = if device.slots().all().filter(may_run).count() < 2 { "state" } else { "" };
            if let Some(path) = scene.disk.flip(below, &mut self.random) {
                self.row.points += 1;
                self.judge_damaged(scene.disk, &format!("flipped bit in {path}"));
            }
        }
        Ok(())
    }

    fn frames(&mut self) -> Result<(), String> {
        let [Step::Flash(which), ..] = self.story.during else { return Ok(()) };
        let bundle = self.bundles.of(*which);
        let (_, mut device) = self.set()?;
        let clean = line::flash(&mut device, bundle, 1, None);
        let is_refused = |flashed: &line::Flashed| flashed.outcome.is_err();
        let expected = is_refused(&clean);
        self.allowed.extend(model(&device));
        for (from, count) in [line::Writer::Host, line::Writer::Device].into_iter().zip(clean.frames) {
            for number in (0..count).step_by(self.plan.stride) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let fault = match self.trouble {
                    Trouble::FrameLost => LineFault::Drop,
                    Trouble::FrameFlipped => LineFault::Flip(self.random.number()),
                    Trouble::FrameRepeated => LineFault::Repeat,
                    _ => LineFault::Cut,
                };
                let (scene, mut device) = self.set()?;
                self.row.points += 1;
                let what = format!("{fault:?} at frame {number} of the {from:?}");
                let flashed = line::flash(&mut device, bundle, 2, Some((Frame { from, number }, fault)));
                let moment = scene.disk.moment();
                if self.trouble != Trouble::PowerCutAtFrame {
                    self.look(&device, &what);
                    // A host that lost its line comes again; any other trouble is the channel's affair.
                    let again = match fault {
                        LineFault::Cut => line::flash(&mut device, bundle, 3, None),
                        _ => flashed,
                    };
                    if is_refused(&again) != expected {
                        self.lose(|t| &mut t.stuck, &format!("{what}: {:?}", again.outcome));
                    }
                }
                for disk in moment.cuts(self.plan.ways.min(4), self.plan.slip, &mut self.random) {
                    self.judge(disk, 0, &what);
                }
            }
        }
        Ok(())
    }

    /// Starts a board as the trouble left it, looks at it and flashes it again; cuts its power meanwhile `depth` times.
    fn judge(&mut self, disk: Simulated, depth: u32, what: &str) {
        self.check_claims(&disk, what);
        if depth > 0 {
            disk.film();
        }
        self.judge_damaged(disk.clone(), what);
        let moments = disk.moments();
        let choice = self.random.below(moments.len() as u64) as usize;
        if depth > 0
            && let Some(moment) = moments.get(choice)
            && let Some(disk) = moment.cuts(8, self.plan.slip, &mut self.random).pop()
        {
            self.judge(disk, depth - 1, &format!("{what}, then after operation {choice}"));
        }
    }

    fn judge_damaged(&mut self, disk: Simulated, what: &str) {
        let scene = self.scene(disk);
        match scene.start() {
            Ok(mut device) => {
                self.look(&device, what);
                self.flash_again(&mut device, what);
            }
            Err(e) => {
                self.row.tally.tried += 1;
                self.lose(|t| &mut t.dead, &format!("{what}: {e}"));
            }
        }
    }

    /// Checks that every bundle of which the state says that it may run is there, to the last byte.
    fn check_claims(&mut self, disk: &Simulated, what: &str) {
        let Ok(slots) = Slots::open(disk.clone(), u64::MAX, clock_1970) else { return };
        for slot in slots.all() {
            let claims = match slots.installed(slot).map(|i| i.status) {
                None | Some(Status::Failed { .. }) => slots.current() == Some(slot),
                Some(Status::Staged | Status::Trial { .. } | Status::Committed) => true,
            };
            if claims && let Err(e) = slots.verify(slot) {
                return self.lose(|t| &mut t.half_activated, &format!("{what}: slot {slot}: {e}"));
            }
        }
    }

    /// Counts what a board runs.
    fn look(&mut self, device: &Device, what: &str) {
        self.row.tally.tried += 1;
        let found = model(device);
        let runs_current = device.running().map(|r| r.slot) == device.slots().current();
        match found {
            Some(_) if !runs_current => self.lose(|t| &mut t.half_activated, &format!("{what}: another slot runs")),
            _ if found == self.old => self.row.tally.old += 1,
            None if self.old.is_none() => self.row.tally.old += 1,
            None => self.lose(|t| &mut t.dead, &format!("{what}: nothing runs")),
            Some(found) if self.allowed.contains(&found) || found == self.again() => self.row.tally.new += 1,
            Some(found) => self.lose(|t| &mut t.wrong, &format!("{what}: {found} runs")),
        }
    }

    fn again(&self) -> Digest {
        // The bad one never runs.
        let which = if self.story.again == Which::Bad { Which::First } else { self.story.again };
        self.bundles.digest(which)
    }

    /// A host repeats the flash, after committing if the device wants that first.
    fn flash_again(&mut self, device: &mut Device, what: &str) {
        let bundle = self.bundles.of(self.story.again);
        let before = model(device);
        let mut outcome = flash(device, bundle, usize::MAX);
        if matches!(outcome, Err((RefusalCode::State, _))) && device.slots().current().is_some() {
            let scene = self.scene(Simulated::default());
            outcome = step(device, Step::Commit, &scene).and_then(|()| flash(device, bundle, usize::MAX));
        }
        let runs = model(device);
        let (is_right, reason) = match outcome {
            Ok(()) => {
                (self.story.again != Which::Bad && runs == Some(bundle.head().digest()), "another model runs".into())
            }
            Err((RefusalCode::Gate, _)) if self.story.again == Which::Bad => {
                (runs == before, "the old one stopped".into())
            }
            Err((_, reason)) => (false, reason),
        };
        if !is_right {
            self.lose(|t| &mut t.stuck, &format!("{what}, flashed again: {reason}"));
        }
    }

    fn lose(&mut self, how: impl Fn(&mut Tally) -> &mut u64, what: &str) {
        *how(&mut self.row.tally) += 1;
        self.row.first_lost.get_or_insert_with(|| what.to_owned());
    }
}

fn model(device: &Device) -> Option<Digest> {
    device.running().map(|r| r.model)
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
