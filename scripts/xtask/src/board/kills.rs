//! Power cuts in the middle of flashes: what runs afterwards, and whether the board takes the next flash.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_deploy::{DeployError, FlashProgress};
use graft_link::Random;
use serde::Serialize;

use super::CONFIRM_AFTER;
use super::bench::Bench;
use super::disk::Lost;
use super::models::{Flashed, Graft, Model, Models};

/// Every cut, in order.
#[derive(Debug, Serialize)]
pub(super) struct Matrix {
    pub(super) seed: u64,
    pub(super) cuts: usize,
    pub(super) old: usize,
    pub(super) new: usize,
    /// Boards that ran neither the old model nor the new one, or gave other answers than it.
    pub(super) wrong: usize,
    /// Boards that did not come back, or ran nothing.
    pub(super) dead: usize,
    /// Boards that came back and did not take the next flash.
    pub(super) stuck: usize,
    pub(super) rows: Vec<Row>,
}

/// One cut.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    from: &'static str,
    to: &'static str,
    /// Where the flash was.
    at: Reached,
    /// What the disk lost.
    disk: Lost,
    pub(super) came_back: CameBack,
    /// What was wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// From switching the board on to its first answer.
    boot_seconds: f64,
    /// The next flash, of the same model.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CameBack {
    Old,
    New,
    Wrong,
    Dead,
    /// With the old model or the new one, but it does not take a flash.
    Stuck,
}

#[derive(Debug, Serialize)]
struct Next {
    seconds: f64,
    /// Of the chunks of the model.
    chunks_sent: usize,
    chunks_total: usize,
}

/// How far a flash had come.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
enum Reached {
    /// The board had been asked what it lacks.
    Begun,
    Sending {
        share: f64,
    },
    /// All was sent, and the board was at work.
    Device {
        doing: String,
        seconds: f64,
    },
    /// The host was told of success.
    Done,
}

/// When the plug is pulled.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// At this share of the bytes, and a moment later.
    Sending(f64, Duration),
    /// So long after the last byte.
    Device(Duration),
}

/// What is on the bench, and what it is flashed with.
pub(super) struct Setting<'a> {
    pub(super) bench: &'a mut Bench,
    pub(super) graft: &'a Graft,
    pub(super) models: &'a Models,
    /// A whole flash of each model.
    pub(super) clean: [&'a Flashed; 3],
}

impl Matrix {
    /// Cuts the power of a board `cuts` times that is on and runs the last of the models.
    pub(super) fn of(setting: &mut Setting<'_>, cuts: usize, seed: u64, mut tell: impl FnMut(&Row)) -> Result<Self> {
        let models = setting.models;
        let mut random = Random::new(seed, 0);
        let mut running = models.all.len() - 1;
        let mut rows = Vec::new();
        for _ in 0..cuts {
            setting.bench.goes_on()?;
            let next = (running + 1) % models.all.len();
            let (old, new) = (&models.all[running], &models.all[next]);
            let cut = Cut::choose(&mut random, setting.clean[next]);
            let (at, disk) = interrupted(setting.bench, new, cut, &mut random)?;
            let row = setting.recovered([old, new], at, disk)?;
            tell(&row);
            let is_bad = !matches!(row.came_back, CameBack::Old | CameBack::New);
            rows.push(row);
            // What such a board does next tells nothing.
            if is_bad {
                break;
            }
            running = next;
        }
        let count = |kind| rows.iter().filter(|row| row.came_back == kind).count();
        let [old, new, wrong, dead, stuck] =
            [CameBack::Old, CameBack::New, CameBack::Wrong, CameBack::Dead, CameBack::Stuck].map(count);
        Ok(Self { seed, cuts: rows.len(), old, new, wrong, dead, stuck, rows })
    }
}

impl Setting<'_> {
    /// Switches the board on again, looks at what it runs, and flashes it.
    fn recovered(&mut self, [old, new]: [&Model; 2], at: Reached, disk: Lost) -> Result<Row> {
        let mut row = Row {
            from: old.name,
            to: new.name,
            at,
            disk,
            came_back: CameBack::Dead,
            trouble: None,
            boot_seconds: 0.0,
            next: None,
        };
        let outcome = self.judge([old, new], &mut row);
        // A board that is not waited for any more is no dead one.
        self.bench.goes_on()?;
        row.trouble = outcome.err().map(|e| format!("{e:#}"));
        Ok(row)
    }

    /// Fills in what became of a board; its error says what is wrong with it.
    fn judge(&mut self, [old, new]: [&Model; 2], row: &mut Row) -> Result<()> {
        row.boot_seconds = self.bench.switch_on()?;
        let running = self.bench.running()?;
        row.came_back = CameBack::Wrong;
        let is = |model: &Model| model.bundle.head().digest().0 == running.bundle_digest;
        let (found, came_back) = match [is(old), is(new)] {
            [true, _] => (old, CameBack::Old),
            [_, true] => (new, CameBack::New),
            _ => bail!("expected {} or {} to run, found {}", old.name, new.name, running.bundle_name),
        };
        ensure!(
            row.at != Reached::Done || came_back == CameBack::New,
            "expected {} to run, of whose success the host was told, found {}",
            new.name,
            old.name
        );
        self.bench.check(self.models, found, CONFIRM_AFTER)?;
        row.came_back = CameBack::Stuck;
        let flashed = self.bench.flash(self.graft, new)?;
        self.bench.check(self.models, new, CONFIRM_AFTER)?;
        let Flashed { seconds, chunks_sent, chunks_total, .. } = flashed;
        row.next = Some(Next { seconds, chunks_sent, chunks_total });
        row.came_back = came_back;
        Ok(())
    }
}

impl Cut {
    /// Half of the cuts while bytes travel, half while the board is at work with them: there a short while has most of what the
    /// disk is asked to do.
    fn choose(random: &mut Random, clean: &Flashed) -> Self {
        let share = random.below(1000) as f64 / 1000.0;
        if random.below(2) == 0 {
            Self::Sending(share, Duration::from_millis(random.below(100)))
        } else {
            let device = (clean.seconds - clean.transfer_seconds).max(0.0);
            Self::Device(Duration::from_secs_f64(share * device))
        }
    }
}

/// What the host knows of a flash while it goes on.
struct Seen {
    reached: Reached,
    /// When the share that is waited for, or the last byte, had been sent.
    passed: Option<Instant>,
}

/// Flashes a model and pulls the plug in between.
fn interrupted(bench: &mut Bench, model: &Model, cut: Cut, random: &mut Random) -> Result<(Reached, Lost)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut session = bench.session(&stop)?;
    let seen = Mutex::new(Seen { reached: Reached::Begun, passed: None });
    let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (waited_for, delay) = match cut {
        Cut::Sending(share, delay) => (share, delay),
        Cut::Device(delay) => (1.0, delay),
    };
    let note = |progress: FlashProgress| {
        let mut seen = lock();
        let share = match &progress {
            FlashProgress::Sending { done, total } => *done as f64 / (*total).max(1) as f64,
            FlashProgress::Device { .. } => 1.0,
        };
        if share >= waited_for {
            seen.passed.get_or_insert_with(Instant::now);
        }
        seen.reached = match progress {
            FlashProgress::Sending { .. } => Reached::Sending { share },
            FlashProgress::Device { text, .. } => Reached::Device { doing: text, seconds: 0.0 },
        };
    };
    thread::scope(|scope| {
        let flash = scope.spawn(|| session.flash(&model.bundle, note));
        let is_due = || lock().passed.is_some_and(|passed| passed.elapsed() >= delay);
        while !flash.is_finished() && !is_due() && bench.goes_on().is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        let mut reached = lock().reached.clone();
        let lost = bench.cut(random);
        stop.store(true, Ordering::Relaxed);
        let outcome = flash.join().map_err(|_| anyhow::anyhow!("expected a flash to end, found a panic"))?;
        let lost = lost?;
        match (outcome, &mut reached) {
            (Ok(_), _) => reached = Reached::Done,
            (Err(DeployError::Link { .. } | DeployError::StoppedAtTest), Reached::Device { seconds, .. }) => {
                *seconds = lock().passed.map_or(0.0, |passed| passed.elapsed().as_secs_f64());
            }
            (Err(DeployError::Link { .. } | DeployError::StoppedAtTest), _) => {}
            (Err(other), _) => return Err(other).context("flashing until the power is cut"),
        }
        bench.goes_on()?;
        Ok((reached, lost))
    })
}

impl Row {
    /// The row of a table.
    pub(super) fn line(&self) -> String {
        let at = match &self.at {
            Reached::Begun => "begun".to_owned(),
            Reached::Sending { share } => format!("{:.0} % sent", 100.0 * share),
            Reached::Device { doing, seconds } => format!("{doing}, {seconds:.2} s"),
            Reached::Done => "done".to_owned(),
        };
        let Lost { kept, lost, torn } = self.disk;
        let next = self.next.as_ref().map_or_else(String::new, |n| {
            format!("{} of {} chunks, {:.1} s", n.chunks_sent, n.chunks_total, n.seconds)
        });
        let came = match self.came_back {
            CameBack::Old => "old",
            CameBack::New => "new",
            CameBack::Wrong => "WRONG",
            CameBack::Dead => "DEAD",
            CameBack::Stuck => "STUCK",
        };
        let (from, to, boot) = (self.from, self.to, self.boot_seconds);
        let line = format!("| {from} → {to} | {at} | {kept}/{lost}/{torn} | {came} | {boot:.1} | {next} |");
        self.trouble.as_ref().map_or(line.clone(), |trouble| format!("{line}\n  {trouble}"))
    }
}

/// The head of the table of [`Row::line`].
pub(super) const HEAD: &str = "| flash | power cut at | writes kept/lost/torn | came back | boot, s | next flash |
|---|---|---|---|---|---|";
