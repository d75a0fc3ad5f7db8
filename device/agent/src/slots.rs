//! Two slots for bundles, of which one runs: a transfer fills the other, and nothing that goes wrong touches the first.
//!
//! `state.json` is the only truth about what runs; it is replaced whole. A power cut at any moment leaves either the
//! old state or the new one, and what was received stays for the next attempt. Knows bundles, not models. States and
//! guarantees: `docs/formats/slots.md`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;

use graft_bundle::{BundleError, Digest, Head, decode_chunk};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::A => "slots/a",
            Self::B => "slots/b",
        }
    }

    /// Returns where the slot's model may be kept as kernels run it. It goes with the slot, and may go at any time.
    pub fn packed(self) -> String {
        format!("{}/packed", self.folder())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What a slot's bundle has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Whole; its self-test has not been run.
    Staged,
    /// Running, and left at the next start but `boots_left`, unless it is committed.
    Trial {
        /// Starts that are still allowed.
        boots_left: u32,
    },
    /// Good for ever.
    Committed,
    /// Not to be run again.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A bundle in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Digest of its head.
    pub digest: Digest,
    /// What it has come to.
    pub status: Status,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    format: u32,
    current: Option<Slot>,
    a: Option<Installed>,
    b: Option<Installed>,
}

/// Why slots could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The disk failed.
    #[error("cannot {doing} on the device's disk")]
    Disk {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is no state file.
    #[error(
        "expected the state of two slots in state.json, found other text ({0}); remove it to begin with empty slots"
    )]
    State(String),
    /// The bundle is larger than this device takes.
    #[error(
        "expected a bundle of at most {limit} bytes on disk, found {found}; raise max_bundle_mb or pack a smaller model"
    )]
    Space {
        /// The limit.
        limit: u64,
        /// What the bundle needs.
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
    #[error("expected a bundle in the other slot to go back to, found none that may run")]
    NoWayBack,
    /// The bundle is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// The slots on a disk.
#[derive(Debug)]
pub struct Slots<D> {
    disk: D,
    state: State,
    limit: u64,
    transfer: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    head: Head,
    staged: BTreeSet<Digest>,
}

/// Where a chunk's bytes are in an installed bundle.
struct Place {
    path: String,
    from: usize,
    len: usize,
}

const STATE: &str = "state.json";
const FORMAT: u32 = 1;
const STAGING: &str = "staging";
const STAGING_HEAD: &str = "staging/head";
const NEW: &str = "slots/new";
/// Starts that a trial gets before the device goes back by itself.
pub const TRIAL_BOOTS: u32 = 2;

impl<D: Disk> Slots<D> {
    /// Opens the slots; a transfer that was cut off is taken up again. `limit` bounds a bundle's bytes on disk.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] or [`SlotError::State`].
    pub fn open(disk: D, limit: u64) -> Result<Self, SlotError> {
        let state = match disk.read(STATE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => State { format: FORMAT, ..State::default() },
            Err(source) => return Err(failed("read the state")(source)),
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes).map_err(|e| SlotError::State(e.to_string()))?;
                if state.format != FORMAT {
                    return Err(SlotError::State(format!("format {} instead of {FORMAT}", state.format)));
                }
                state
            }
        };
        let mut slots = Self { disk, state, limit, transfer: None };
        slots.transfer = slots.staged_transfer();
        Ok(slots)
    }

    /// Reads back what a cut-off transfer had received. Damage there costs only that it is sent again.
    fn staged_transfer(&self) -> Option<Transfer> {
        let head = Head::parse(&self.disk.read(STAGING_HEAD).ok()?).ok()?;
        let names = self.disk.list("staging/chunks").ok()?;
        Some(Transfer { head, staged: names.iter().filter_map(|n| n.parse().ok()).collect() })
    }

    /// Returns the slot that runs.
    pub fn current(&self) -> Option<Slot> {
        self.state.current
    }

    /// Returns what is in a slot.
    pub fn installed(&self, slot: Slot) -> Option<&Installed> {
        match slot {
            Slot::A => self.state.a.as_ref(),
            Slot::B => self.state.b.as_ref(),
        }
    }

    fn entry(&mut self, slot: Slot) -> &mut Option<Installed> {
        match slot {
            Slot::A => &mut self.state.a,
            Slot::B => &mut self.state.b,
        }
    }

    /// Returns the slot that a transfer is filling, and the bundle's name.
    pub fn receiving(&self) -> Option<(Slot, &str)> {
        self.transfer.as_ref().map(|t| (self.target(), t.head.manifest().name.as_str()))
    }

    /// Returns the bytes left on the disk, where the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes()
    }

    /// Returns the head of the bundle in a slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] or [`SlotError::Bundle`].
    pub fn head(&self, slot: Slot) -> Result<Head, SlotError> {
        let bytes = self.disk.read(&format!("{}/head", slot.folder())).map_err(failed("read the head of a bundle"))?;
        Ok(Head::parse(&bytes)?)
    }

    /// Returns a file of the bundle in a slot, its digest checked.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`] or [`SlotError::Bundle`].
    pub fn file(&self, slot: Slot, path: &str) -> Result<Vec<u8>, SlotError> {
        let head = self.head(slot)?;
        let entry = head.manifest().file(path)?;
        let name = format!("{}/files/{path}", slot.folder());
        let bytes = self.disk.read(&name).map_err(failed(&format!("read {name}")))?;
        let found = Digest::of(&bytes);
        if found != entry.digest {
            return Err(BundleError::Digest { what: path.into(), expected: entry.digest, found }.into());
        }
        Ok(bytes)
    }

    fn target(&self) -> Slot {
        self.state.current.map_or(Slot::A, Slot::other)
    }

    fn save(&mut self, state: State) -> Result<(), SlotError> {
        let json = serde_json::to_vec_pretty(&state).map_err(|e| SlotError::State(e.to_string()))?;
        self.disk.write(STATE, &json).map_err(failed("write the state"))?;
        self.state = state;
        Ok(())
    }

    /// Counts a start: a trial that has used up its starts is left.
    ///
    /// Returns why, if the device has gone back.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn boot(&mut self) -> Result<Option<String>, SlotError> {
        let Some(slot) = self.state.current else { return Ok(None) };
        let Some(Status::Trial { boots_left }) = self.installed(slot).map(|i| i.status.clone()) else {
            return Ok(None);
        };
        if boots_left == 0 {
            let reason = format!("slot {slot} was not committed within {TRIAL_BOOTS} starts");
            self.leave(slot, &reason)?;
            return Ok(Some(reason));
        }
        self.mark(slot, Status::Trial { boots_left: boots_left - 1 })?;
        Ok(None)
    }

    fn mark(&mut self, slot: Slot, status: Status) -> Result<(), SlotError> {
        let before = self.state.clone();
        if let Some(installed) = self.entry(slot) {
            installed.status = status;
        }
        let state = std::mem::replace(&mut self.state, before);
        self.save(state)
    }

    /// Begins a transfer, or goes on with it where it is the same bundle. The caller has decided to trust the head.
    ///
    /// # Errors
    ///
    /// [`SlotError::OnTrial`], [`SlotError::Space`] or [`SlotError::Disk`].
    pub fn begin(&mut self, head: Head) -> Result<Slot, SlotError> {
        if let Some(slot) = self.state.current
            && matches!(self.installed(slot).map(|i| &i.status), Some(Status::Trial { .. }))
        {
            return Err(SlotError::OnTrial(slot));
        }
        let found = head.manifest().payload_len() + head.manifest().stored_len() + head.bytes().len() as u64;
        if found > self.limit {
            return Err(SlotError::Space { limit: self.limit, found });
        }
        if let Some(free) = self.disk.free_bytes().filter(|&free| free < found) {
            return Err(SlotError::Space { limit: free, found });
        }
        if self.transfer.as_ref().is_none_or(|t| t.head.bytes() != head.bytes()) {
            let wanted: BTreeSet<Digest> = head.manifest().chunks.iter().map(|c| c.digest).collect();
            let staged = self.transfer.take().map(|t| t.staged).unwrap_or_default();
            let doing = failed("begin a transfer");
            // Chunks that the new bundle shares with the one given up stay.
            for digest in staged.difference(&wanted) {
                self.disk.remove(&chunk_path(digest)).map_err(&doing)?;
            }
            // The slot that is to be filled needs it no more, and the transfer the space.
            self.disk.remove(&self.target().packed()).map_err(&doing)?;
            self.disk.write(STAGING_HEAD, head.bytes()).map_err(&doing)?;
            self.transfer = Some(Transfer { staged: staged.intersection(&wanted).copied().collect(), head });
        }
        Ok(self.target())
    }

    /// Returns the chunks of the begun bundle that neither the transfer nor a slot has.
    ///
    /// # Errors
    ///
    /// [`SlotError::NotBegun`].
    pub fn missing(&self) -> Result<Vec<usize>, SlotError> {
        let t = self.transfer.as_ref().ok_or(SlotError::NotBegun)?;
        let places = self.places();
        let has = |d: &Digest| t.staged.contains(d) || places.contains_key(d);
        Ok(t.head.manifest().chunks.iter().enumerate().filter(|(_, c)| !has(&c.digest)).map(|(i, _)| i).collect())
    }

    /// Returns where the chunks of the installed bundles are.
    fn places(&self) -> HashMap<Digest, Place> {
        let mut places = HashMap::new();
        for slot in Slot::ALL.into_iter().filter(|&s| self.installed(s).is_some()) {
            let Ok(head) = self.head(slot) else { continue };
            let m = head.manifest();
            for file in &m.files {
                let mut from = 0;
                for chunk in file.chunks.iter().filter_map(|&i| m.chunks.get(i as usize)) {
                    let len = chunk.raw_len as usize;
                    let path = format!("{}/files/{}", slot.folder(), file.path);
                    places.insert(chunk.digest, Place { path, from, len });
                    from += len;
                }
            }
        }
        places
    }

    /// Takes a chunk as stored in the bundle.
    ///
    /// # Errors
    ///
    /// [`SlotError::Bundle`] if it is not what the manifest says, [`SlotError::NoChunk`], [`SlotError::NotBegun`] or
    /// [`SlotError::Disk`].
    pub fn put_chunk(&mut self, index: usize, stored: &[u8]) -> Result<(), SlotError> {
        let t = self.transfer.as_mut().ok_or(SlotError::NotBegun)?;
        let count = t.head.manifest().chunks.len();
        let entry = t.head.manifest().chunks.get(index).ok_or(SlotError::NoChunk { count, found: index })?;
        let bytes = decode_chunk(index, entry, stored)?;
        self.disk.write(&chunk_path(&entry.digest), &bytes).map_err(failed("keep a chunk"))?;
        t.staged.insert(entry.digest);
        Ok(())
    }

    /// Puts the received bundle into the slot that does not run.
    ///
    /// # Errors
    ///
    /// [`SlotError::Incomplete`], [`SlotError::NotBegun`], [`SlotError::Bundle`] or [`SlotError::Disk`]. The running slot
    /// is as it was.
    pub fn finish(&mut self) -> Result<Slot, SlotError> {
        let missing = self.missing()?.len();
        if missing > 0 {
            return Err(SlotError::Incomplete(missing));
        }
        let slot = self.target();
        let t = self.transfer.as_ref().ok_or(SlotError::NotBegun)?;
        let (manifest, places) = (t.head.manifest().clone(), self.places());
        let head = t.head.bytes().to_vec();
        let digest = t.head.digest();
        let doing = failed("put a bundle together");
        self.disk.remove(NEW).map_err(&doing)?;
        for file in &manifest.files {
            let mut bytes = Vec::new();
            // Neighbours come from one file: read it once.
            let mut open: Option<(String, Vec<u8>)> = None;
            for entry in file.chunks.iter().filter_map(|&i| manifest.chunks.get(i as usize)) {
                match places.get(&entry.digest) {
                    Some(place) => {
                        if open.as_ref().is_none_or(|o| o.0 != place.path) {
                            open = Some((place.path.clone(), self.disk.read(&place.path).map_err(&doing)?));
                        }
                        let whole = open.as_ref().map(|o| o.1.as_slice()).unwrap_or_default();
                        bytes.extend_from_slice(whole.get(place.from..place.from + place.len).unwrap_or_default());
                    }
                    None => bytes.extend(self.disk.read(&chunk_path(&entry.digest)).map_err(&doing)?),
                }
            }
            let found = Digest::of(&bytes);
            if found != file.digest {
                return Err(BundleError::Digest { what: file.path.clone(), expected: file.digest, found }.into());
            }
            self.disk.write(&format!("{NEW}/files/{}", file.path), &bytes).map_err(&doing)?;
        }
        self.disk.write(&format!("{NEW}/head"), &head).map_err(&doing)?;
        // From here to the last line the slot is nobody's: the state says so before its files change.
        let mut state = self.state.clone();
        *entry_of(&mut state, slot) = None;
        self.save(state)?;
        self.disk.remove(slot.folder()).map_err(&doing)?;
        self.disk.rename(NEW, slot.folder()).map_err(&doing)?;
        let mut state = self.state.clone();
        *entry_of(&mut state, slot) = Some(Installed { name: manifest.name, digest, status: Status::Staged });
        self.save(state)?;
        self.transfer = None;
        self.disk.remove(STAGING).map_err(&doing)?;
        Ok(slot)
    }

    /// Makes a slot the one that runs, on trial.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoTrial`] if there is no bundle in it that may run, [`SlotError::Disk`].
    pub fn activate(&mut self, slot: Slot) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        match entry_of(&mut state, slot) {
            Some(installed) if installed.status == Status::Staged => {
                installed.status = Status::Trial { boots_left: TRIAL_BOOTS }
            }
            _ => return Err(SlotError::NoTrial),
        }
        state.current = Some(slot);
        self.save(state)
    }

    /// Condemns a slot that does not run.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn condemn(&mut self, slot: Slot, reason: &str) -> Result<(), SlotError> {
        self.mark(slot, Status::Failed { reason: reason.into() })
    }

    /// Makes the bundle on trial permanent.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoTrial`] or [`SlotError::Disk`].
    pub fn commit(&mut self) -> Result<Slot, SlotError> {
        let slot = self.state.current.ok_or(SlotError::NoTrial)?;
        match self.installed(slot).map(|i| &i.status) {
            Some(Status::Trial { .. }) => self.mark(slot, Status::Committed)?,
            Some(Status::Committed) => {}
            _ => return Err(SlotError::NoTrial),
        }
        Ok(slot)
    }

    /// Goes back to the other slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoWayBack`] or [`SlotError::Disk`].
    pub fn rollback(&mut self, reason: &str) -> Result<Slot, SlotError> {
        let slot = self.state.current.ok_or(SlotError::NoWayBack)?;
        let other = slot.other();
        if !self.may_run(other) {
            return Err(SlotError::NoWayBack);
        }
        self.leave(slot, reason)?;
        Ok(other)
    }

    fn may_run(&self, slot: Slot) -> bool {
        matches!(self.installed(slot).map(|i| &i.status), Some(Status::Committed))
    }

    /// Condemns the running slot and goes to the other one, or to none where that may not run.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn leave(&mut self, slot: Slot, reason: &str) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        if let Some(installed) = entry_of(&mut state, slot) {
            installed.status = Status::Failed { reason: reason.into() };
        }
        state.current = Some(slot.other()).filter(|&s| self.may_run(s));
        self.save(state)
    }
}

fn entry_of(state: &mut State, slot: Slot) -> &mut Option<Installed> {
    match slot {
        Slot::A => &mut state.a,
        Slot::B => &mut state.b,
    }
}

fn chunk_path(digest: &Digest) -> String {
    format!("staging/chunks/{digest}")
}

fn failed(doing: &str) -> impl Fn(io::Error) -> SlotError {
    let doing = doing.to_owned();
    move |source| SlotError::Disk { doing: doing.clone(), source }
}

#[cfg(test)]
mod tests;
