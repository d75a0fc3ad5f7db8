//! Power cuts in the middle of flashes: what runs afterwards, and whether the board takes the next flash.
//!
//! A moment of the clock seldom has anything to lose: most of the time the disk rests. So moments are counted by what the board
//! does with its disk, and the power goes at a write or at a flush.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_deploy::{DeployError, FlashProgress};
use graft_link::Random;
use serde::Serialize;

use super::CONFIRM_AFTER;
use super::bench::{Bench, is_silence};
use super::disk::{Change, Lost};
use super::models::{Flashed, Graft, Model, Models};

/// Every cut, in order.
#[derive(Debug, Serialize)]
pub(super) struct Matrix {
    pub(super) seed: u64,
    pub(super) cuts: usize,
    /// At which the disk had writes to lose.
    pub(super) unflushed: usize,
    pub(super) old: usize,
    pub(super) new: usize,
    /// Boards that ran neither the old model nor the new one, or gave other answers than it.
    pub(super) wrong: usize,
    /// Boards that did not come back, or ran nothing.
    pub(super) dead: usize,
    /// Boards that came back and did not take the next flash.
    pub(super) stuck: usize,
    /// How often a board was silent and asked again.
    pub(super) silences: u32,
    pub(super) rows: Vec<Row>,
}

/// One cut.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    from: &'static str,
    to: &'static str,
    #[serde(flatten)]
    broken: Broken,
    pub(super) came_back: CameBack,
    /// What was wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// From switching the board on to its first answer.
    boot_seconds: f64,
    /// How often the board was silent since, and was asked again.
    silences: u32,
    /// The next flash, of the same model.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
}

/// A flash during which the power went.
#[derive(Debug, Serialize)]
struct Broken {
    /// Where the flash was.
    at: Reached,
    /// What the disk was asked for then; nothing, where it rested.
    change: Option<Change>,
    /// What the disk lost.
    disk: Lost,
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
    /// The host was told of success, and of the classes of so many pictures.
    Done {
        pictures: usize,
    },
}

/// When the power goes: at so many changes of the disk, counted from a moment of the flash.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// From when this share of the bytes was sent.
    Sending(f64, u64),
    /// From the last byte.
    Device(u64),
    /// From when the host was told of success and has pictures classified, which is what makes a trial end; where there is no
    /// change any more, so long after.
    Told(u64, Duration),
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
        for number in 0..cuts {
            setting.bench.goes_on()?;
            let next = (running + 1) % models.all.len();
            let (old, new) = (&models.all[running], &models.all[next]);
            let cut = Cut::choose(number, &mut random, setting.clean[next]);
            let broken = setting.interrupted(new, cut, &mut random)?;
            let row = setting.recovered([old, new], broken)?;
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
        let unflushed = rows.iter().filter(|row| row.broken.disk != Lost::default()).count();
        let silences = rows.iter().map(|row| row.silences).sum();
        Ok(Self { seed, cuts: rows.len(), unflushed, old, new, wrong, dead, stuck, silences, rows })
    }
}

impl Setting<'_> {
    /// Switches the board on again, looks at what it runs, and flashes it.
    fn recovered(&mut self, [old, new]: [&Model; 2], broken: Broken) -> Result<Row> {
        let mut row = Row {
            from: old.name,
            to: new.name,
            broken,
            came_back: CameBack::Dead,
            trouble: None,
            boot_seconds: 0.0,
            silences: 0,
            next: None,
        };
        let outcome = self.judge([old, new], &mut row);
        // A board that is not waited for any more is no dead one.
        self.bench.goes_on()?;
        row.silences = self.bench.silences();
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
            !matches!(row.broken.at, Reached::Done { .. }) || came_back == CameBack::New,
            "expected {} to run, of whose success the host was told, found {}",
            new.name,
            old.name
        );
        if let Err(e) = self.bench.check(self.models, found, CONFIRM_AFTER) {
            // That tells nothing of what it would answer.
            row.came_back = if is_silence(&e) { CameBack::Dead } else { CameBack::Wrong };
            return Err(e);
        }
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
    /// A quarter of the cuts while bytes travel, a quarter while the board is at work with them, a quarter about the end of
    /// that, where the new model takes the place of the old one, and a quarter after the host was told of success.
    fn choose(number: usize, random: &mut Random, clean: &Flashed) -> Self {
        let mut one_of = |count: u64| random.below(count) + 1;
        match number % 4 {
            0 => Self::Sending(one_of(1000) as f64 / 1000.0, one_of(8)),
            1 => Self::Device(one_of(clean.changes)),
            2 => Self::Device(clean.changes.saturating_sub(LAST) + one_of(LAST)),
            _ => Self::Told(one_of(CONFIRMING), Duration::from_millis(one_of(2000))),
        }
    }
}

/// Changes of the disk at the end of the board's work, of which the choice of a model is.
const LAST: u64 = 12;
/// Changes that the first pictures of a model have the disk make.
const CONFIRMING: u64 = 24;

/// What the host knows of a flash while it goes on.
struct Seen {
    reached: Reached,
    /// When the last byte had been sent.
    sent: Option<Instant>,
}

impl Setting<'_> {
    /// Flashes a model and cuts the power meanwhile.
    fn interrupted(&mut self, model: &Model, cut: Cut, random: &mut Random) -> Result<Broken> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut session = self.bench.answered(|| self.bench.session(&stop))?;
        let watch = self.bench.watch()?;
        let pictures = self.models.read(CONFIRM_AFTER)?;
        let seen = Mutex::new(Seen { reached: Reached::Begun, sent: None });
        let lock = || seen.lock().unwrap_or_else(PoisonError::into_inner);
        let note = |progress: FlashProgress| {
            let share = match &progress {
                FlashProgress::Sending { done, total } => *done as f64 / (*total).max(1) as f64,
                FlashProgress::Device { .. } => 1.0,
            };
            match cut {
                Cut::Sending(from, change) if share >= from => watch.set(change),
                Cut::Device(change) if share >= 1.0 => watch.set(change),
                _ => {}
            }
            let mut seen = lock();
            if share >= 1.0 {
                seen.sent.get_or_insert_with(Instant::now);
            }
            seen.reached = match progress {
                FlashProgress::Sending { .. } => Reached::Sending { share },
                FlashProgress::Device { text, .. } => Reached::Device { doing: text, seconds: 0.0 },
            };
        };
        let mut flash = || -> Result<(), DeployError> {
            session.flash(&model.bundle, note)?;
            lock().reached = Reached::Done { pictures: 0 };
            let Cut::Told(change, _) = cut else { return Ok(()) };
            watch.set(change);
            for (known, (name, picture)) in (1..).zip(&pictures) {
                session.classify(name, picture)?;
                lock().reached = Reached::Done { pictures: known };
            }
            Ok(())
        };
        let delay = if let Cut::Told(_, delay) = cut { delay } else { Duration::ZERO };
        thread::scope(|scope| {
            let flash = scope.spawn(&mut flash);
            let mut end = None;
            while watch.gone().is_none() && self.bench.goes_on().is_ok() {
                if flash.is_finished() && *end.get_or_insert_with(|| Instant::now() + delay) <= Instant::now() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            let lost = self.bench.cut(random);
            stop.store(true, Ordering::Relaxed);
            let outcome = flash.join().map_err(|_| anyhow::anyhow!("expected a flash to end, found a panic"))?;
            let disk = lost?;
            match outcome {
                Ok(()) | Err(DeployError::Link { .. } | DeployError::StoppedAtTest) => {}
                Err(other) => return Err(other).context("flashing until the power is cut"),
            }
            self.bench.goes_on()?;
            let mut at = lock().reached.clone();
            if let Reached::Device { seconds, .. } = &mut at {
                *seconds = lock().sent.map_or(0.0, |sent| sent.elapsed().as_secs_f64());
            }
            Ok(Broken { at, change: watch.gone(), disk })
        })
    }
}

impl Row {
    /// The row of a table.
    pub(super) fn line(&self) -> String {
        let at = match &self.broken.at {
            Reached::Begun => "begun".to_owned(),
            Reached::Sending { share } => format!("{:.0} % sent", 100.0 * share),
            Reached::Device { doing, seconds } => format!("{doing}, {seconds:.2} s"),
            Reached::Done { pictures: 0 } => "the host was told of success".to_owned(),
            Reached::Done { pictures } => format!("success, {pictures} pictures later"),
        };
        let change = match self.broken.change {
            Some(Change::Write) => "a write",
            Some(Change::Flush) => "a flush",
            None => "rest",
        };
        let Lost { kept, lost, torn } = self.broken.disk;
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
        let line = format!("| {from} → {to} | {at} | {change} | {kept}/{lost}/{torn} | {came} | {boot:.1} | {next} |");
        self.trouble.as_ref().map_or(line.clone(), |trouble| format!("{line}\n  {trouble}"))
    }
}

/// The head of the table of [`Row::line`].
pub(super) const HEAD: &str =
    "| flash | power cut at | the disk at | writes kept/lost/torn | came back | boot, s | next flash |
|---|---|---|---|---|---|---|";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_of_each_kind_in_turn_and_within_what_a_clean_flash_does() {
        let clean = Flashed {
            seconds: 24.0,
            transfer_seconds: 21.0,
            wire_bytes: 1,
            chunks_sent: 1,
            chunks_total: 1,
            self_test_samples: 1,
            self_test_max_abs_diff: 0.0,
            changes: 80,
        };
        let mut random = Random::new(1, 0);
        let (mut first, mut last) = (0, 0);
        for number in 0..4000 {
            let is_right = match (number % 4, Cut::choose(number, &mut random, &clean)) {
                (0, Cut::Sending(share, change)) => share > 0.0 && share <= 1.0 && (1..=8).contains(&change),
                (1, Cut::Device(change)) => {
                    first += usize::from(change == 1);
                    (1..=80).contains(&change)
                }
                (2, Cut::Device(change)) => {
                    last += usize::from(change == 80);
                    (80 - LAST + 1..=80).contains(&change)
                }
                (3, Cut::Told(change, delay)) => (1..=CONFIRMING).contains(&change) && delay <= Duration::from_secs(2),
                _ => false,
            };
            assert!(is_right, "{number}");
        }
        assert!(first > 0 && last > 40, "{first} {last}");
    }
}
