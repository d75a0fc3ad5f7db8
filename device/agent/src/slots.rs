//! Two slots for bundles, of which one runs, and a factory slot that nothing overwrites.
//!
//! A transfer fills the slot that does not run, and nothing that goes wrong touches the other. The state file is the only
//! truth about what runs; every transition replaces it whole. At a start that cannot write, what is decided holds in memory,
//! so that a disk that can only be read does not stop the device. Knows bundles, not models. States and guarantees:
//! `docs/formats/slots.md`.

use std::fmt;
use std::io;

use graft_bundle::{BundleError, Digest, Head, Manifest};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, FileSystem};

mod state;
mod transfer;

pub use state::{EVENTS, Event, Installed};
use state::{Found, State};
pub use transfer::Assembled;
use transfer::Transfer;

/// A place for a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
    /// What the device was delivered with; runs when neither of the others may.
    Factory,
}

impl Slot {
    /// The two that take bundles.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    fn folder(self) -> &'static str {
        match self {
            Self::A => "slots/a",
            Self::B => "slots/b",
            Self::Factory => "slots/factory",
        }
    }

    /// Returns where the slot's model may be kept as kernels run it. It may go at any time.
    pub fn packed(self) -> &'static str {
        match self {
            Self::A => "slots/a/packed",
            Self::B => "slots/b/packed",
            // Beside its folder, in which nothing is written.
            Self::Factory => "slots/factory.packed",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::Factory => "factory",
        })
    }
}

/// What a slot's bundle has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Whole; its self-test has not been run.
    Staged,
    /// Its self-test has passed and it runs, until it is confirmed or has used up its starts.
    Trial {
        /// Starts that are still allowed.
        boots_left: u32,
        /// Pictures classified so far.
        #[serde(default)]
        good: u32,
    },
    /// Good until it fails a self-test.
    Committed,
    /// Not to be run again while anything else may.
    Failed {
        /// Why.
        reason: String,
        /// Whether it ever passed its self-test: such a one runs again rather than nothing.
        #[serde(default)]
        ran: bool,
    },
}

/// When a bundle on trial becomes permanent by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// After so many pictures.
    After(u32),
    /// Never; a host commits it.
    ByHand,
}

/// The time in milliseconds since 1970, as far as the device knows.
pub type Clock = fn() -> u64;

/// Why slots could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The disk failed.
    #[error("cannot {doing} on the device's disk; make room or replace the disk, then flash again")]
    Disk {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A later version wrote the state.
    #[error("expected format {expected} in {path}, found format {found}; use the version of graftd that wrote it")]
    Format {
        /// The file.
        path: &'static str,
        /// What this version writes.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// The bundle is larger than this device takes, or than the room there is.
    #[error(
        "expected a bundle of at most {limit} bytes on disk, found {found}; raise max_bundle_mb, make room or pack a smaller model"
    )]
    Space {
        /// The limit.
        limit: u64,
        /// What the bundle needs.
        found: u64,
    },
    /// The bundle asks for more room to be left.
    #[error(
        "expected {expected} bytes to be left on the device's disk beside the bundle, as it asks, found {found}; make room"
    )]
    Left {
        /// As the bundle asks.
        expected: u64,
        /// What there would be.
        found: u64,
    },
    /// A trial is going on: the other slot is the way back.
    #[error("slot {0} is on trial and the other one is the way back; commit or roll back first")]
    OnTrial(Slot),
    /// No transfer has begun.
    #[error("expected a transfer to have begun, found none; flash again")]
    NotBegun,
    /// There is no such chunk.
    #[error("expected a chunk below {count}, found {found}")]
    NoChunk {
        /// Chunks in the manifest.
        count: usize,
        /// The number given.
        found: usize,
    },
    /// Chunks are missing.
    #[error("expected all chunks, found {0} missing; flash again to send them")]
    Incomplete(usize),
    /// Nothing is there to commit or to go back from.
    #[error("expected a slot on trial, found none")]
    NoTrial,
    /// There is no bundle to go back to.
    #[error("expected a bundle in another slot to go back to, found none that may run")]
    NoWayBack,
    /// The factory slot is filled.
    #[error("expected an empty factory slot, found {0}; remove the folder slots/factory to fill it anew")]
    FactoryFilled(String),
    /// The bundle is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// The slots on a disk.
#[derive(Debug)]
pub struct Slots<F> {
    disk: Disk<F>,
    state: State,
    /// Of the newest state written, or tried to.
    number: u64,
    limit: u64,
    clock: Clock,
    /// The factory slot's bundle, if there is one.
    factory: Option<Head>,
    transfer: Option<Transfer>,
    /// What was found wrong and mended at the opening.
    damage: Option<String>,
}

/// Starts that a trial gets before the device goes back by itself.
pub const TRIAL_BOOTS: u32 = 2;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 200;

impl<F: FileSystem> Slots<F> {
    /// Opens the slots; a transfer that was cut off is taken up again. `limit` bounds a bundle's bytes on disk.
    ///
    /// A state of which no copy is whole is made anew from the slots whose bundles are.
    ///
    /// # Errors
    ///
    /// [`SlotError::Format`].
    pub fn open(files: F, limit: u64, clock: Clock) -> Result<Self, SlotError> {
        let disk = Disk::new(files);
        let found = State::read(&disk)?;
        // Twice: a disk that stumbles once must not cost the last bundle there is.
        let read = || disk.read(&head_path(Slot::Factory));
        let factory = read().or_else(|_| read()).ok().and_then(|bytes| Head::parse(&bytes).ok());
        let mut slots =
            Self { disk, state: State::default(), number: 0, limit, clock, factory, transfer: None, damage: None };
        match found {
            Found::Whole(number, state) => (slots.number, slots.state) = (number, state),
            Found::Nothing => {}
            Found::Damaged(reason) => slots.salvage(reason),
        }
        slots.transfer = slots.interrupted();
        Ok(slots)
    }

    /// Makes a state of what is there.
    fn salvage(&mut self, reason: String) {
        for slot in Slot::ALL {
            let Ok(head) = self.read_head(slot) else { continue };
            if self.check_files(slot, head.manifest()).is_err() {
                continue;
            }
            let (name, digest) = (head.manifest().name.clone(), head.digest());
            // Its self-test is run before it runs, as at any start.
            self.state.put(slot, Some(Installed { name, digest, status: Status::Committed }));
            self.state.current.get_or_insert(slot);
            self.note(slot, &format!("found whole after the state was lost: {reason}"));
        }
        self.damage = Some(reason);
    }

    /// Returns why the state had to be made anew, if it had to.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Returns the slot that runs.
    pub fn current(&self) -> Option<Slot> {
        self.state.current
    }

    /// Returns what is in a slot. The factory's bundle counts as committed.
    pub fn installed(&self, slot: Slot) -> Option<Installed> {
        match (slot, &self.factory) {
            (Slot::Factory, Some(head)) => {
                let (name, digest) = (head.manifest().name.clone(), head.digest());
                Some(Installed { name, digest, status: Status::Committed })
            }
            _ => self.state.installed(slot).cloned(),
        }
    }

    /// Returns the slots that there are: the two that take bundles, and the factory's where it is filled.
    pub fn all(&self) -> impl Iterator<Item = Slot> + use<F> {
        Slot::ALL.into_iter().chain(self.factory.as_ref().map(|_| Slot::Factory))
    }

    /// Returns what happened to slots, the newest last.
    pub fn log(&self) -> &[Event] {
        &self.state.log
    }

    /// Returns the bytes left on the disk, where the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    /// Returns the head of the bundle in a slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] or [`SlotError::Bundle`], the latter also if it is not the one that was installed.
    pub fn head(&self, slot: Slot) -> Result<Head, SlotError> {
        let head = self.read_head(slot)?;
        match self.installed(slot) {
            Some(installed) => same(&head_path(slot), installed.digest, head.digest())?,
            None => return Err(BundleError::NoFile(head_path(slot)).into()),
        }
        Ok(head)
    }

    fn read_head(&self, slot: Slot) -> Result<Head, SlotError> {
        let bytes = self.disk.read(&head_path(slot)).map_err(failed("read the head of a bundle"))?;
        Ok(Head::parse(&bytes)?)
    }

    /// Returns a file of the bundle in a slot, its digest checked.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] or [`SlotError::Bundle`].
    pub fn file(&self, slot: Slot, path: &str) -> Result<Vec<u8>, SlotError> {
        self.read_file(slot, self.head(slot)?.manifest(), path)
    }

    fn read_file(&self, slot: Slot, manifest: &Manifest, path: &str) -> Result<Vec<u8>, SlotError> {
        let entry = manifest.file(path)?;
        let name = file_path(slot, path);
        let bytes = self.disk.read(&name).map_err(failed(&format!("read {name}")))?;
        same(path, entry.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// Checks every byte of the bundle in a slot.
    ///
    /// # Errors
    ///
    /// As [`Slots::file`].
    pub fn verify(&self, slot: Slot) -> Result<(), SlotError> {
        self.check_files(slot, self.head(slot)?.manifest())
    }

    fn check_files(&self, slot: Slot, manifest: &Manifest) -> Result<(), SlotError> {
        manifest.files.iter().try_for_each(|file| self.read_file(slot, manifest, &file.path).map(drop))
    }

    /// Writes a state; what is in memory changes only if that went well.
    fn save(&mut self, state: State) -> Result<(), SlotError> {
        // Never the number of a state that may have been written although that seemed to fail.
        self.number += 1;
        state.write(self.number, &mut self.disk)?;
        self.state = state;
        Ok(())
    }

    /// Writes a state that holds in memory even if that fails.
    fn insist(&mut self, state: State) -> Result<(), SlotError> {
        self.state = state.clone();
        self.save(state)
    }

    /// Adds to the log, to be written with the next state.
    fn note(&mut self, slot: Slot, what: &str) {
        let mut state = std::mem::take(&mut self.state);
        self.note_in(&mut state, slot, what);
        self.state = state;
    }

    fn note_in(&self, state: &mut State, slot: Slot, what: &str) {
        let name = match slot {
            Slot::Factory => self.factory.as_ref().map(|h| h.manifest().name.clone()),
            _ => state.installed(slot).map(|i| i.name.clone()),
        };
        let number = self.number.max(state.log.last().map_or(0, |e| e.number)) + 1;
        let (unix_ms, name) = ((self.clock)(), name.unwrap_or_default());
        state.log.push(Event { number, unix_ms, slot, name, what: what.chars().take(MAX_REASON).collect() });
        let surplus = state.log.len().saturating_sub(EVENTS);
        state.log.drain(..surplus);
    }

    /// Returns the slot to go back to from another one.
    fn way_back(&self, from: Slot) -> Option<Slot> {
        let committed = |&slot: &Slot| matches!(self.state.status(slot), Some(Status::Committed));
        let factory = self.factory.as_ref().map(|_| Slot::Factory);
        Slot::ALL.into_iter().filter(committed).chain(factory).find(|&slot| slot != from)
    }

    /// Counts a start: a trial that has used up its starts is left, or, where nothing else may run, gets new ones.
    ///
    /// Returns why, if the device has gone back. A trial whose starts cannot be counted is left too: it might never end.
    pub fn boot(&mut self) -> Option<String> {
        let slot = self.state.current?;
        let Some(Status::Trial { boots_left, good }) = self.state.status(slot).cloned() else { return None };
        let way_back = self.way_back(slot);
        let mut state = self.state.clone();
        let counted = |boots_left| Status::Trial { boots_left, good };
        let reason = match (boots_left, way_back) {
            (0, Some(_)) => format!("slot {slot} was not confirmed within {TRIAL_BOOTS} starts"),
            (0, None) => {
                state.set_status(slot, counted(TRIAL_BOOTS.saturating_sub(1)));
                self.note_in(&mut state, slot, "its starts were used up and nothing else may run: it gets new ones");
                // It runs whether that could be written or not.
                let _ = self.insist(state);
                return None;
            }
            (left, _) => {
                state.set_status(slot, counted(left - 1));
                match (self.insist(state), way_back) {
                    (Err(e), Some(_)) => format!("the starts of slot {slot} cannot be counted: {}", describe(&e)),
                    _ => return None,
                }
            }
        };
        // In memory at least: the next start comes to the same.
        let _ = self.leave(slot, &reason);
        Some(reason)
    }

    /// Condemns the running slot and goes back.
    fn leave(&mut self, slot: Slot, reason: &str) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        state.current = self.way_back(slot);
        self.fail_in(&mut state, slot, reason, true);
        self.insist(state)
    }

    fn fail_in(&self, state: &mut State, slot: Slot, reason: &str, ran: bool) {
        let reason: String = reason.chars().take(MAX_REASON).collect();
        self.note_in(state, slot, &format!("failed: {reason}"));
        state.set_status(slot, Status::Failed { reason, ran });
    }

    /// Returns the slots to try at a start, in this order: the current one, another good one, the factory's, and, rather than
    /// nothing, those that ran once.
    pub fn candidates(&self) -> Vec<Slot> {
        let is = |slot: &Slot, wanted: fn(&Status) -> bool| self.state.status(*slot).is_some_and(wanted);
        let all = || Slot::ALL.into_iter();
        let current = self.state.current;
        let mut found: Vec<Slot> = current.into_iter().filter(|&s| self.installed(s).is_some()).collect();
        found.extend(all().filter(|s| is(s, |status| matches!(status, Status::Committed | Status::Trial { .. }))));
        found.extend(self.factory.as_ref().map(|_| Slot::Factory));
        found.extend(all().filter(|s| is(s, |status| matches!(status, Status::Failed { ran: true, .. }))));
        let mut seen = Vec::new();
        found.retain(|slot| {
            !seen.contains(slot) && {
                seen.push(*slot);
                true
            }
        });
        found
    }

    /// Notes what a start came to: the slot that runs, if one does, and why others do not.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`]; it holds in memory nevertheless.
    pub fn settle(&mut self, runs: Option<Slot>, failures: &[(Slot, String)]) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        for (slot, reason) in failures {
            if !matches!(state.status(*slot), Some(Status::Failed { .. })) {
                self.fail_in(&mut state, *slot, reason, true);
            }
        }
        if let Some(slot) = runs {
            if matches!(state.status(slot), Some(Status::Failed { .. })) {
                self.note_in(&mut state, slot, "runs again, as nothing else does");
                state.set_status(slot, Status::Committed);
            } else if state.current != runs {
                self.note_in(&mut state, slot, "runs now");
            }
        }
        state.current = runs;
        if state == self.state && self.damage.is_none() {
            return Ok(());
        }
        self.insist(state)?;
        self.damage = None;
        Ok(())
    }

    /// Makes a slot the one that runs: on trial, or for good where nothing is to be waited for or gone back to.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoTrial`] if there is no bundle in it that may run, [`SlotError::Disk`].
    pub fn activate(&mut self, slot: Slot, confirm: Confirm) -> Result<(), SlotError> {
        if self.state.status(slot) != Some(&Status::Staged) {
            return Err(SlotError::NoTrial);
        }
        let mut state = self.state.clone();
        let at_once = match confirm {
            Confirm::After(pictures) => pictures == 0 || self.way_back(slot).is_none(),
            Confirm::ByHand => false,
        };
        let (status, what) = if at_once {
            (Status::Committed, "passed its self-test and is committed")
        } else {
            (Status::Trial { boots_left: TRIAL_BOOTS, good: 0 }, "passed its self-test and is on trial")
        };
        state.set_status(slot, status);
        state.current = Some(slot);
        self.note_in(&mut state, slot, what);
        self.save(state)
    }

    /// Condemns a slot that does not run and never did.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn condemn(&mut self, slot: Slot, reason: &str) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        self.fail_in(&mut state, slot, reason, false);
        self.save(state)
    }

    /// Counts a picture that the running bundle classified; returns whether that has ended its trial.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn classified(&mut self, confirm: Confirm) -> Result<bool, SlotError> {
        let Some(slot) = self.state.current else { return Ok(false) };
        let (Some(&Status::Trial { good, .. }), Confirm::After(wanted)) = (self.state.status(slot), confirm) else {
            return Ok(false);
        };
        let mut state = self.state.clone();
        let good = good.saturating_add(1);
        let ends = good >= wanted;
        if ends {
            state.set_status(slot, Status::Committed);
            self.note_in(&mut state, slot, &format!("is committed after {good} pictures"));
        } else {
            // A start that classified a picture was no bad one.
            state.set_status(slot, Status::Trial { boots_left: TRIAL_BOOTS, good });
        }
        self.save(state)?;
        Ok(ends)
    }

    /// Makes the bundle on trial permanent.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoTrial`] or [`SlotError::Disk`].
    pub fn commit(&mut self) -> Result<Slot, SlotError> {
        let slot = self.state.current.ok_or(SlotError::NoTrial)?;
        match self.state.status(slot) {
            Some(Status::Trial { .. }) => {
                let mut state = self.state.clone();
                state.set_status(slot, Status::Committed);
                self.note_in(&mut state, slot, "is committed by a host");
                self.save(state)?;
            }
            Some(Status::Committed) => {}
            _ => return Err(SlotError::NoTrial),
        }
        Ok(slot)
    }

    /// Returns the slot that [`Slots::rollback`] goes to.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoWayBack`].
    pub fn back(&self) -> Result<Slot, SlotError> {
        let slot = self.state.current.ok_or(SlotError::NoWayBack)?;
        if slot == Slot::Factory { Err(SlotError::NoWayBack) } else { self.way_back(slot).ok_or(SlotError::NoWayBack) }
    }

    /// Goes back to another slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoWayBack`] or [`SlotError::Disk`]; then all is as it was.
    pub fn rollback(&mut self, reason: &str) -> Result<Slot, SlotError> {
        let to = self.back()?;
        let mut state = self.state.clone();
        if let Some(from) = state.current.replace(to) {
            self.fail_in(&mut state, from, reason, true);
        }
        self.save(state)?;
        Ok(to)
    }
}

fn head_path(slot: Slot) -> String {
    format!("{}/head", slot.folder())
}

fn file_path(slot: Slot, path: &str) -> String {
    format!("{}/files/{path}", slot.folder())
}

fn same(what: &str, expected: Digest, found: Digest) -> Result<(), BundleError> {
    if found == expected { Ok(()) } else { Err(BundleError::Digest { what: what.into(), expected, found }) }
}

fn failed(doing: &str) -> impl Fn(io::Error) -> SlotError {
    let doing = doing.to_owned();
    move |source| SlotError::Disk { doing: doing.clone(), source }
}

/// Returns an error with its cause, in a line.
fn describe(error: &SlotError) -> String {
    match error {
        SlotError::Disk { doing, source } => format!("cannot {doing}: {source}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
