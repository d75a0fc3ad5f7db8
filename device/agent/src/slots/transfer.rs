//! How a bundle gets into a slot: chunk by chunk, each verified when it comes and again when it is used.

use std::collections::BTreeMap;

use graft_bundle::{Bundle, ChunkEntry, Digest, FileEntry, Head, Needs, decode_chunk};

use super::{Confirm, Installed, Slot, SlotError, Slots, Status, failed, file_path, same};
use crate::disk::{Disk, FileSystem};

/// A bundle on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    head: Head,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// From before the start; what came then has not been looked at.
    Interrupted,
    /// The chunks that were read and found right, and where they are.
    Receiving(BTreeMap<Digest, Place>),
    /// It is what runs.
    Runs(Slot),
}

/// What a finished transfer came to.
#[derive(Debug)]
pub enum Assembled {
    /// Its bundle is what runs in this slot.
    Runs(Slot),
    /// Its bundle, of this head, waits to be moved into a slot.
    New(Box<Head>),
}

/// Where a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Staging,
    File { path: String, from: usize, len: usize },
}

/// A file that was read last: neighbours come from one.
type LastRead = Option<(String, Vec<u8>)>;

const STAGING: &str = "staging";
const STAGING_HEAD: &str = "staging/head";
const CHUNKS: &str = "staging/chunks";
const NEW: &str = "slots/new";
const NEW_FACTORY: &str = "slots/factory.part";

impl<F: FileSystem> Slots<F> {
    /// Reads back which transfer was cut off.
    pub(super) fn interrupted(&self) -> Option<Transfer> {
        let head = Head::parse(&self.disk.read(STAGING_HEAD).ok()?).ok()?;
        Some(Transfer { head, progress: Progress::Interrupted })
    }

    /// Returns the slot that a transfer is filling, and the bundle's name.
    pub fn receiving(&self) -> Option<(Slot, &str)> {
        let transfer = self.transfer.as_ref()?;
        let slot = match transfer.progress {
            Progress::Runs(_) => return None,
            _ => self.target(),
        };
        Some((slot, transfer.head.manifest().name.as_str()))
    }

    /// The slot that does not run; of two, the one that is missed least. A trial that is given up makes room itself, so
    /// that its way back stays.
    fn target(&self) -> Slot {
        if let Some(slot) = self.state.current
            && matches!(self.state.status(slot), Some(Status::Trial { .. }))
            && self.way_back(slot).is_some()
        {
            return slot;
        }
        let worth = |slot: &Slot| match self.state.status(*slot) {
            None => 0,
            Some(Status::Failed { ran: false, .. }) => 1,
            Some(Status::Staged) => 2,
            Some(Status::Failed { ran: true, .. }) => 3,
            Some(Status::Trial { .. } | Status::Committed) => 4,
        };
        Slot::ALL.into_iter().filter(|&s| self.state.current != Some(s)).min_by_key(worth).unwrap_or(Slot::A)
    }

    /// Begins a transfer, or goes on with it where it is the same bundle. The caller has decided to trust the head.
    ///
    /// All that could be used again, of the slots and of an earlier attempt, is read and verified; `tick` is called in
    /// between. A bundle on trial that the device was to confirm by itself may be given up for this one.
    ///
    /// # Errors
    ///
    /// [`SlotError::OnTrial`] where a host is to confirm it, [`SlotError::Space`], [`SlotError::Left`] or [`SlotError::Disk`].
    pub fn begin(&mut self, head: Head, confirm: Confirm, tick: &mut dyn FnMut()) -> Result<Slot, SlotError> {
        if let Some(slot) = self.state.current.filter(|&s| self.runs_whole(s, &head)) {
            self.transfer = Some(Transfer { head, progress: Progress::Runs(slot) });
            return Ok(slot);
        }
        if let Some(slot) = self.state.current
            && matches!(self.state.status(slot), Some(Status::Trial { .. }))
            && confirm == Confirm::ByHand
        {
            return Err(SlotError::OnTrial(slot));
        }
        let manifest = head.manifest();
        let front = head.bytes().len() as u64;
        let (limit, found) = (self.limit, manifest.payload_len() + manifest.stored_len() + front);
        if found > limit {
            return Err(SlotError::Space { limit, found });
        }
        let doing = failed("prepare a transfer");
        if self.state.current != Some(self.target()) {
            // The slot that is to be filled needs it no more, and the transfer the space.
            self.disk.remove(self.target().packed()).map_err(&doing)?;
        }
        let mut wanted: BTreeMap<Digest, &ChunkEntry> = manifest.chunks.iter().map(|c| (c.digest, c)).collect();
        let mut have = BTreeMap::new();
        for name in self.disk.list(CHUNKS).map_err(&doing)? {
            tick();
            let path = format!("{CHUNKS}/{name}");
            let digest = name.parse().ok().filter(|digest| wanted.contains_key(digest));
            match digest.filter(|&digest| self.disk.read(&path).is_ok_and(|bytes| Digest::of(&bytes) == digest)) {
                Some(digest) => {
                    wanted.remove(&digest);
                    have.insert(digest, Place::Staging);
                }
                None => self.disk.remove(&path).map_err(&doing)?,
            }
        }
        self.find_installed(&mut wanted, &mut have, tick);
        let missing: u64 = wanted.values().map(|c| u64::from(c.raw_len)).sum();
        let found = missing + manifest.payload_len() + 2 * front + SLACK;
        if let Some(limit) = self.disk.free_bytes() {
            if limit < found {
                return Err(SlotError::Space { limit, found });
            }
            let left = Needs::of(manifest)?.free_bytes();
            if limit - found < left {
                return Err(SlotError::Left { expected: left, found: limit - found });
            }
        }
        let is_known = self.transfer.as_ref().is_some_and(|t| t.head.bytes() == head.bytes());
        if !is_known || !self.disk.read(STAGING_HEAD).is_ok_and(|bytes| bytes == head.bytes()) {
            self.disk.write(STAGING_HEAD, head.bytes()).map_err(&doing)?;
        }
        self.transfer = Some(Transfer { head, progress: Progress::Receiving(have) });
        Ok(self.target())
    }

    /// Whether a slot, which runs, holds this very bundle without damage.
    fn runs_whole(&self, slot: Slot, head: &Head) -> bool {
        self.installed(slot).is_some_and(|i| i.digest == head.digest()) && self.verify(slot).is_ok()
    }

    /// Moves from the wanted chunks to those at hand what the installed bundles have.
    fn find_installed(
        &self,
        wanted: &mut BTreeMap<Digest, &ChunkEntry>,
        have: &mut BTreeMap<Digest, Place>,
        tick: &mut dyn FnMut(),
    ) {
        for slot in self.all() {
            let Ok(head) = self.head(slot) else { continue };
            let manifest = head.manifest();
            for file in &manifest.files {
                tick();
                let chunks = || file.chunks.iter().filter_map(|&i| manifest.chunks.get(i as usize));
                if !chunks().any(|chunk| wanted.contains_key(&chunk.digest)) {
                    continue;
                }
                let path = file_path(slot, &file.path);
                let Ok(bytes) = self.disk.read(&path) else { continue };
                let mut from = 0;
                for chunk in chunks() {
                    tick();
                    let len = chunk.raw_len as usize;
                    let found = bytes.get(from..from + len).unwrap_or_default();
                    if wanted.contains_key(&chunk.digest) && Digest::of(found) == chunk.digest {
                        wanted.remove(&chunk.digest);
                        have.insert(chunk.digest, Place::File { path: path.clone(), from, len });
                    }
                    from += len;
                }
            }
        }
    }

    /// Returns the chunks of the begun bundle that neither the transfer nor a slot has.
    ///
    /// # Errors
    ///
    /// [`SlotError::NotBegun`].
    pub fn missing(&self) -> Result<Vec<usize>, SlotError> {
        let transfer = self.transfer.as_ref().ok_or(SlotError::NotBegun)?;
        match &transfer.progress {
            Progress::Interrupted => Err(SlotError::NotBegun),
            Progress::Runs(_) => Ok(vec![]),
            Progress::Receiving(have) => {
                let chunks = transfer.head.manifest().chunks.iter().enumerate();
                Ok(chunks.filter(|(_, chunk)| !have.contains_key(&chunk.digest)).map(|(index, _)| index).collect())
            }
        }
    }

    /// Takes a chunk as stored in the bundle.
    ///
    /// # Errors
    ///
    /// [`SlotError::Bundle`] if it is not what the manifest says, [`SlotError::NoChunk`], [`SlotError::NotBegun`] or
    /// [`SlotError::Disk`].
    pub fn put_chunk(&mut self, index: usize, stored: &[u8]) -> Result<(), SlotError> {
        let Some(Transfer { head, progress: Progress::Receiving(have) }) = &mut self.transfer else {
            return Err(SlotError::NotBegun);
        };
        let count = head.manifest().chunks.len();
        let entry = head.manifest().chunks.get(index).ok_or(SlotError::NoChunk { count, found: index })?;
        let bytes = decode_chunk(index, entry, stored)?;
        self.disk.write(&chunk_path(&entry.digest), &bytes).map_err(failed("keep a chunk"))?;
        have.insert(entry.digest, Place::Staging);
        Ok(())
    }

    /// Puts the received bundle together beside the slots; a bundle that runs stays where it is.
    ///
    /// # Errors
    ///
    /// [`SlotError::Incomplete`], [`SlotError::NotBegun`], [`SlotError::Bundle`] or [`SlotError::Disk`]. The slots are as
    /// they were.
    pub fn assemble(&mut self, tick: &mut dyn FnMut()) -> Result<Assembled, SlotError> {
        let missing = self.missing()?.len();
        if missing > 0 {
            return Err(SlotError::Incomplete(missing));
        }
        let Some(transfer) = self.transfer.take() else { return Err(SlotError::NotBegun) };
        let (head, have) = match transfer.progress {
            Progress::Runs(slot) => return Ok(Assembled::Runs(slot)),
            Progress::Receiving(have) => (transfer.head, have),
            Progress::Interrupted => return Err(SlotError::NotBegun),
        };
        let outcome = self.disk.remove(NEW).map_err(failed("put a bundle together")).and_then(|()| {
            put_together(&mut self.disk, NEW, &head, |disk, file| {
                tick();
                gather(disk, &head, file, &have)
            })
        });
        if let Err(e) = outcome {
            let _ = self.disk.remove(NEW);
            // What is at hand is looked at anew: it may be the reason.
            self.transfer = Some(Transfer { head, progress: Progress::Interrupted });
            return Err(e);
        }
        Ok(Assembled::New(Box::new(head)))
    }

    /// Whether the bundle on trial must be left before the transfer's can take its slot.
    pub fn gives_up_trial(&self) -> bool {
        self.state.current == Some(self.target())
    }

    /// Moves the bundle that was put together into the slot that does not run.
    ///
    /// # Errors
    ///
    /// [`SlotError::OnTrial`] if the slot that is to make room still runs, [`SlotError::Disk`]. The running slot is as it
    /// was.
    pub fn install(&mut self, head: &Head) -> Result<Slot, SlotError> {
        let slot = self.target();
        if self.gives_up_trial() {
            return Err(SlotError::OnTrial(slot));
        }
        let doing = failed("move a bundle into its slot");
        // From here to the last line the slot is nobody's: the state says so before its files change.
        let mut state = self.state.clone();
        state.put(slot, None);
        self.save(state)?;
        self.disk.remove(slot.folder()).map_err(&doing)?;
        self.disk.rename(NEW, slot.folder()).map_err(&doing)?;
        let mut state = self.state.clone();
        let (name, digest) = (head.manifest().name.clone(), head.digest());
        state.put(slot, Some(Installed { name, digest, status: Status::Staged }));
        self.note_in(&mut state, slot, "is received and whole");
        self.save(state)?;
        // What it leaves behind is found by the next transfer.
        let _ = self.disk.remove(STAGING);
        Ok(slot)
    }

    /// Fills the factory slot, which must be empty. The caller has decided to trust the bundle.
    ///
    /// # Errors
    ///
    /// [`SlotError::FactoryFilled`], [`SlotError::Bundle`] or [`SlotError::Disk`].
    pub fn fill_factory(&mut self, bundle: &Bundle) -> Result<(), SlotError> {
        let doing = failed("fill the factory slot");
        if !self.disk.list(Slot::Factory.folder()).map_err(&doing)?.is_empty() {
            let found = self.factory.as_ref().map_or("a damaged bundle", |head| &head.manifest().name);
            return Err(SlotError::FactoryFilled(found.to_owned()));
        }
        self.disk.remove(NEW_FACTORY).map_err(&doing)?;
        put_together(&mut self.disk, NEW_FACTORY, bundle.head(), |_, file| Ok(bundle.file(&file.path)?))?;
        self.disk.remove(Slot::Factory.packed()).map_err(&doing)?;
        self.disk.rename(NEW_FACTORY, Slot::Factory.folder()).map_err(&doing)?;
        self.factory = Some(bundle.head().clone());
        Ok(())
    }

    /// Empties the factory slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::Disk`].
    pub fn clear_factory(&mut self) -> Result<(), SlotError> {
        self.factory = None;
        self.disk.remove(Slot::Factory.folder()).map_err(failed("empty the factory slot"))
    }
}

/// Writes a bundle's head and files into a folder, all of which then survive a power cut.
fn put_together<F: FileSystem>(
    disk: &mut Disk<F>,
    folder: &str,
    head: &Head,
    mut bytes_of: impl FnMut(&Disk<F>, &FileEntry) -> Result<Vec<u8>, SlotError>,
) -> Result<(), SlotError> {
    let doing = failed("put a bundle together");
    for file in &head.manifest().files {
        let bytes = bytes_of(disk, file)?;
        disk.write(&format!("{folder}/files/{}", file.path), &bytes).map_err(&doing)?;
    }
    disk.write(&format!("{folder}/head"), head.bytes()).map_err(&doing)
}

/// Joins the chunks of a file, each verified again.
fn gather<F: FileSystem>(
    disk: &Disk<F>,
    head: &Head,
    file: &FileEntry,
    have: &BTreeMap<Digest, Place>,
) -> Result<Vec<u8>, SlotError> {
    let mut bytes = Vec::new();
    let mut last: LastRead = None;
    for entry in file.chunks.iter().filter_map(|&i| head.manifest().chunks.get(i as usize)) {
        let start = bytes.len();
        match have.get(&entry.digest) {
            Some(Place::File { path, from, len }) => {
                if last.as_ref().is_none_or(|(name, _)| name != path) {
                    last = Some((path.clone(), disk.read(path).map_err(failed("read a chunk"))?));
                }
                let whole = last.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
                bytes.extend_from_slice(whole.get(*from..from + len).unwrap_or_default());
            }
            Some(Place::Staging) => {
                bytes.extend(disk.read(&chunk_path(&entry.digest)).map_err(failed("read a chunk"))?);
            }
            None => return Err(SlotError::Incomplete(1)),
        }
        same("a chunk on the disk", entry.digest, Digest::of(bytes.get(start..).unwrap_or_default()))?;
    }
    same(&file.path, file.digest, Digest::of(&bytes))?;
    Ok(bytes)
}

fn chunk_path(digest: &Digest) -> String {
    format!("{CHUNKS}/{digest}")
}

/// Bytes for names, for blocks that are not full, and for the state.
const SLACK: u64 = 64 << 10;
