//! A disk in memory that loses at a power cut what a real one may lose.
//!
//! What programs see and what survives are kept apart. Every call adds to what is pending; only a sync moves it over: a
//! file's bytes by the sync of the file, names by that of their folder, so that a synced file in a folder whose name was
//! not is gone. At a cut each pending change is kept, lost or, for bytes, torn, regardless of the others. That is stricter
//! than any one file system with a journal, and covers those that write names before bytes, bytes before names, and
//! neither.
//!
//! # Source
//!
//! Pillai et al., *All File Systems Are Not Created Equal*, OSDI 2014, of which this is the weakest persistence model in
//! which a single rename is atomic.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graft_link::Random;

use crate::disk::{FileSystem, Kind};

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Simulated(Arc<Mutex<State>>);

/// What goes wrong with the calls of a disk. Calls are counted from 0; reading counts for [`Fault::Error`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// From this changing call on the disk is full: half of what is written arrives.
    Full(u64),
    /// From this changing call on the disk can only be read.
    ReadOnly(u64),
    /// This one call fails, and does nothing.
    Error(u64),
}

/// What is left out on purpose, to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    /// Files are not synced.
    FileSync,
    /// Folders are not synced.
    FolderSync,
    /// The state is written before the slot it speaks of is moved to its place.
    StateFirst,
}

/// The disk at a moment, as the power may find it.
#[derive(Debug, Clone)]
pub struct Moment {
    kept: Arc<Tree>,
    pending: Vec<Change>,
}

#[derive(Debug, Default)]
struct State {
    /// As programs see it.
    seen: Tree,
    /// As it surely survives; shared with the moments that found it so.
    kept: Arc<Tree>,
    pending: Vec<Change>,
    next: Id,
    /// Calls that change, and all calls.
    changes: u64,
    calls: u64,
    fault: Fault,
    slip: Option<Slip>,
    /// A move that [`Slip::StateFirst`] puts off.
    late: Option<(String, String)>,
    film: Option<Vec<Moment>>,
}

type Id = u64;
const TOP: Id = 0;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Folder(BTreeMap<String, Id>),
    File(Arc<Vec<u8>>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tree(BTreeMap<Id, Node>);

/// A name in a folder.
type Name = (Id, String);

#[derive(Debug, Clone)]
enum Change {
    /// The name stands for this now, or for nothing; the second name of a move goes with it.
    Names {
        at: Name,
        id: Option<Id>,
        from: Option<Name>,
    },
    Bytes(Id, Arc<Vec<u8>>),
}

impl Simulated {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a disk with nothing on it of which something is left out.
    pub fn careless(slip: Option<Slip>) -> Self {
        let disk = Self::default();
        disk.lock().slip = slip;
        disk
    }

    /// Has calls fail from now on; they are counted from here.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.lock();
        (state.fault, state.changes, state.calls) = (fault, 0, 0);
    }

    /// Keeps every moment from now on, the present one first.
    pub fn film(&self) {
        let mut state = self.lock();
        state.film = Some(vec![]);
        state.keep_moment();
    }

    /// Returns the moments since [`Simulated::film`], which ends.
    pub fn moments(&self) -> Vec<Moment> {
        self.lock().film.take().unwrap_or_default()
    }

    /// Returns the present moment.
    pub fn moment(&self) -> Moment {
        let state = self.lock();
        Moment { kept: Arc::clone(&state.kept), pending: state.pending.clone() }
    }

    /// Returns the changing calls and all calls since [`Simulated::fail`], or since the beginning.
    pub fn calls(&self) -> (u64, u64) {
        let state = self.lock();
        (state.changes, state.calls)
    }

    /// Flips a bit of one of the files below a path, if there are any; returns which. `random` chooses file and bit.
    pub fn flip(&self, below: &str, random: &mut Random) -> Option<String> {
        let mut state = self.lock();
        let mut files: Vec<(String, Id)> = Vec::new();
        state.seen.files(TOP, "", &mut files);
        files.retain(|(path, id)| path.starts_with(below) && !state.seen.bytes(*id).is_empty());
        let (path, id) = files.get(random.below(files.len() as u64) as usize)?.clone();
        let mut bytes = state.seen.bytes(id).to_vec();
        let bit = random.below(8 * bytes.len() as u64);
        *bytes.get_mut(bit as usize / 8)? ^= 1 << (bit % 8);
        let bytes = Arc::new(bytes);
        state.seen.0.insert(id, Node::File(Arc::clone(&bytes)));
        Arc::make_mut(&mut state.kept).0.insert(id, Node::File(bytes));
        Some(path)
    }

    /// Returns the paths of all files.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        self.lock().seen.files(TOP, "", &mut files);
        files.into_iter().map(|(path, _)| path).collect()
    }
}

impl Moment {
    /// Returns the different disks that `attempts` power cuts at this moment leave, with what careless disks leave out.
    pub fn cuts(&self, attempts: u64, slip: Option<Slip>, random: &mut Random) -> Vec<Simulated> {
        let mut trees: Vec<Tree> = Vec::new();
        for attempt in 0..attempts {
            let tree = self.cut(attempt, random);
            if !trees.contains(&tree) {
                trees.push(tree);
            }
        }
        trees.into_iter().map(|tree| Simulated::of(tree, slip)).collect()
    }

    /// The first four lose as file systems typically do, the others at random.
    fn cut(&self, attempt: u64, random: &mut Random) -> Tree {
        let mut tree = Tree::clone(&self.kept);
        for change in &self.pending {
            let is_name = matches!(change, Change::Names { .. });
            let keeps = match attempt {
                0 => false,
                1 => true,
                2 => is_name,
                3 => !is_name,
                _ => random.below(2) == 0,
            };
            match change {
                Change::Bytes(id, bytes) if attempt > 3 && random.below(3) == 0 => {
                    tree.tear(*id, bytes, random);
                }
                change if keeps => tree.apply(change),
                _ => {}
            }
        }
        tree.drop_lost();
        tree
    }
}

impl State {
    fn keep_moment(&mut self) {
        if let Some(film) = &mut self.film {
            film.push(Moment { kept: Arc::clone(&self.kept), pending: self.pending.clone() });
        }
    }

    /// Counts a call that reads.
    fn reads(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fault {
            Fault::Error(at) if at + 1 == self.calls => Err(io::Error::other("simulated input/output error")),
            _ => Ok(()),
        }
    }

    /// Counts a call that changes, which `grows` the disk or not.
    fn changes(&mut self, grows: bool) -> io::Result<()> {
        self.reads()?;
        self.changes += 1;
        match self.fault {
            Fault::Full(at) if grows && self.changes > at => Err(ErrorKind::StorageFull.into()),
            Fault::ReadOnly(at) if self.changes > at => Err(ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        self.seen.apply(&change);
        self.pending.push(change);
        self.keep_moment();
    }

    fn sync(&mut self, concerns: impl Fn(&Change) -> bool) {
        let kept = Arc::make_mut(&mut self.kept);
        for change in std::mem::take(&mut self.pending) {
            if concerns(&change) {
                kept.apply(&change);
            } else {
                self.pending.push(change);
            }
        }
        self.keep_moment();
    }

    fn create(&mut self, at: Name, node: Node) -> Id {
        self.next += 1;
        let id = self.next;
        // Both know of it from the beginning; only its name decides whether it is found.
        self.seen.0.insert(id, node.clone());
        Arc::make_mut(&mut self.kept).0.insert(id, node);
        self.change(Change::Names { at, id: Some(id), from: None });
        id
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (id, old, new) = (self.seen.find(from)?, self.seen.place(from)?, self.seen.place(to)?);
        match self.seen.find(to).ok().and_then(|there| self.seen.0.get(&there)) {
            Some(Node::Folder(names)) if !names.is_empty() => return Err(ErrorKind::DirectoryNotEmpty.into()),
            _ => {}
        }
        self.change(Change::Names { at: new, id: Some(id), from: Some(old) });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.seen.find(path)?;
        let at = self.seen.place(path)?;
        self.change(Change::Names { at, id: None, from: None });
        Ok(())
    }
}

impl Tree {
    fn find(&self, path: &str) -> io::Result<Id> {
        let mut id = TOP;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            id = match self.0.get(&id) {
                Some(Node::Folder(names)) => *names.get(name).ok_or(ErrorKind::NotFound)?,
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => return Err(ErrorKind::NotFound.into()),
            };
        }
        Ok(id)
    }

    fn folder(&self, id: Id) -> io::Result<&BTreeMap<String, Id>> {
        match self.0.get(&id) {
            Some(Node::Folder(names)) => Ok(names),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn bytes(&self, id: Id) -> &[u8] {
        match self.0.get(&id) {
            Some(Node::File(bytes)) => bytes,
            _ => &[],
        }
    }

    fn place(&self, path: &str) -> io::Result<Name> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let id = self.find(folder)?;
        self.folder(id)?;
        Ok((id, name.to_owned()))
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Names { at, id, from } => {
                if let Some(from) = from {
                    // What a lost change put there, or a later one that was kept, has nothing to do with this one.
                    if self.named(from) == *id {
                        self.name(from, None);
                    }
                }
                self.name(at, *id);
            }
            Change::Bytes(id, bytes) => {
                self.0.insert(*id, Node::File(Arc::clone(bytes)));
            }
        }
    }

    fn named(&self, (folder, name): &Name) -> Option<Id> {
        self.folder(*folder).ok()?.get(name).copied()
    }

    fn name(&mut self, (folder, name): &Name, id: Option<Id>) {
        if let Some(Node::Folder(names)) = self.0.get_mut(folder) {
            match id {
                Some(id) => names.insert(name.clone(), id),
                None => names.remove(name),
            };
        }
    }

    /// Leaves a file with a part of its new bytes, before which lies nothing, zeros, or what was there.
    fn tear(&mut self, id: Id, bytes: &[u8], random: &mut Random) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let mut torn = bytes.get(..at).unwrap_or_default().to_vec();
        match random.below(3) {
            0 => {}
            1 => torn.resize(bytes.len(), 0),
            _ => torn.extend(self.bytes(id).get(at..).unwrap_or_default()),
        }
        self.0.insert(id, Node::File(Arc::new(torn)));
    }

    /// Drops what no name leads to, so that equal disks compare equal.
    fn drop_lost(&mut self) {
        let mut found = vec![TOP];
        let mut at = 0;
        while let Some(&id) = found.get(at) {
            if let Some(Node::Folder(names)) = self.0.get(&id) {
                found.extend(names.values());
            }
            at += 1;
        }
        self.0.retain(|id, _| found.contains(id));
    }

    fn files(&self, folder: Id, front: &str, files: &mut Vec<(String, Id)>) {
        for (name, &id) in self.folder(folder).into_iter().flatten() {
            match self.0.get(&id) {
                Some(Node::Folder(_)) => self.files(id, &format!("{front}{name}/"), files),
                _ => files.push((format!("{front}{name}"), id)),
            }
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self(BTreeMap::from([(TOP, Node::Folder(BTreeMap::new()))]))
    }
}

impl Simulated {
    fn of(tree: Tree, slip: Option<Slip>) -> Self {
        let next = tree.0.keys().max().copied().unwrap_or(TOP);
        let state = State { seen: tree.clone(), kept: Arc::new(tree), next, slip, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl FileSystem for Simulated {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        state.reads()?;
        let id = state.seen.find(path)?;
        match state.seen.0.get(&id) {
            Some(Node::File(bytes)) => Ok(bytes.to_vec()),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn entries(&self, path: &str) -> io::Result<Vec<(String, Kind)>> {
        let mut state = self.lock();
        state.reads()?;
        let id = state.seen.find(path)?;
        let kind = |id| match state.seen.0.get(id) {
            Some(Node::Folder(_)) => Kind::Folder,
            _ => Kind::File,
        };
        Ok(state.seen.folder(id)?.iter().map(|(name, id)| (name.clone(), kind(id))).collect())
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.seen.find(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.changes(true)?;
        let at = state.seen.place(path)?;
        state.create(at, Node::Folder(BTreeMap::new()));
        Ok(())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let outcome = state.changes(true);
        let bytes = match &outcome {
            Err(e) if e.kind() == ErrorKind::StorageFull => bytes.get(..bytes.len() / 2).unwrap_or_default(),
            Err(_) => return outcome,
            Ok(()) => bytes,
        };
        let id = match state.seen.find(path) {
            Ok(id) => id,
            Err(_) => {
                let at = state.seen.place(path)?;
                state.create(at, Node::File(Arc::default()))
            }
        };
        state.change(Change::Bytes(id, Arc::new(bytes.to_vec())));
        outcome
    }

    fn sync_file(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.slip == Some(Slip::FileSync) {
            return Ok(());
        }
        state.changes(false)?;
        let id = state.seen.find(path)?;
        state.sync(|change| matches!(change, Change::Bytes(file, _) if *file == id));
        Ok(())
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.slip == Some(Slip::FolderSync) {
            return Ok(());
        }
        state.changes(false)?;
        let id = state.seen.find(path)?;
        state.sync(|change| match change {
            Change::Names { at, from, .. } => at.0 == id || from.as_ref().is_some_and(|f| f.0 == id),
            Change::Bytes(..) => false,
        });
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.changes(false)?;
        if state.slip == Some(Slip::StateFirst) && matches!(to, "slots/a" | "slots/b") {
            state.seen.find(from)?;
            state.late = Some((from.to_owned(), to.to_owned()));
            return Ok(());
        }
        state.rename(from, to)?;
        if to == "state.json"
            && let Some((from, to)) = state.late.take()
        {
            state.rename(&from, &to)?;
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.changes(false)?;
        state.remove(path)
    }

    fn remove_folder(&mut self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.changes(false)?;
        let id = state.seen.find(path)?;
        if !state.seen.folder(id)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.remove(path)
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(disk: &Simulated, path: &str) -> Vec<Option<Vec<u8>>> {
        let mut random = Random::new(1, 1);
        let mut found: Vec<_> =
            disk.moment().cuts(64, None, &mut random).iter().map(|disk| disk.read(path).ok()).collect();
        found.sort();
        found.dedup();
        found
    }

    #[test]
    fn what_is_not_synced_is_there_or_lost_or_torn() {
        let mut disk = Simulated::default();
        disk.write("a", b"old").unwrap();
        disk.sync_file("a").unwrap();
        let some = |bytes: &[u8]| Some(bytes.to_vec());
        assert_eq!(outcomes(&disk, "a"), [None, some(b"old")], "its name is not synced");
        disk.sync_folder("").unwrap();
        assert_eq!(outcomes(&disk, "a"), [some(b"old")]);
        disk.write("a", b"new").unwrap();
        let found = outcomes(&disk, "a");
        for bytes in [&b"old"[..], b"new", b"", b"ne", b"n\0\0", b"ned"] {
            assert!(found.contains(&some(bytes)), "{bytes:?} is not among {found:?}");
        }
        disk.sync_file("a").unwrap();
        assert_eq!(outcomes(&disk, "a"), [some(b"new")]);
    }

    #[test]
    fn a_rename_happens_or_does_not_and_the_bytes_may_still_be_missing() {
        let mut disk = Simulated::default();
        disk.write("a", b"old").unwrap();
        disk.sync_file("a").unwrap();
        disk.write("b", b"new").unwrap();
        disk.sync_folder("").unwrap();
        disk.rename("b", "a").unwrap();
        let found = outcomes(&disk, "a");
        for bytes in [&b"old"[..], b"", b"new"] {
            assert!(found.contains(&Some(bytes.to_vec())), "{bytes:?} is not among {found:?}");
        }
        assert!(!found.contains(&None));
    }

    #[test]
    fn a_synced_file_in_a_folder_that_is_not_may_be_lost() {
        let mut disk = Simulated::default();
        disk.make_folder("f").unwrap();
        disk.write("f/a", b"1").unwrap();
        disk.sync_file("f/a").unwrap();
        disk.sync_folder("f").unwrap();
        assert_eq!(outcomes(&disk, "f/a"), [None, Some(b"1".to_vec())]);
        disk.sync_folder("").unwrap();
        assert_eq!(outcomes(&disk, "f/a"), [Some(b"1".to_vec())]);
    }

    #[test]
    fn names_are_kept_or_lost_one_by_one() {
        let mut disk = Simulated::default();
        for name in ["a", "b"] {
            disk.write(name, b"").unwrap();
        }
        let mut random = Random::new(1, 1);
        let mut found: Vec<_> = disk.moment().cuts(64, None, &mut random).iter().map(Simulated::files).collect();
        found.sort();
        assert_eq!(found, [&[][..], &["a".to_owned()], &["a".to_owned(), "b".to_owned()], &["b".to_owned()]]);
    }

    #[test]
    fn faults_come_at_their_call() {
        let mut disk = Simulated::default();
        disk.fail(Fault::Full(1));
        disk.write("a", b"1234").unwrap();
        assert_eq!(disk.write("b", b"1234").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(disk.read("b").unwrap(), b"12");
        disk.remove_file("b").unwrap();
        disk.fail(Fault::ReadOnly(0));
        assert_eq!(disk.rename("a", "c").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        disk.fail(Fault::Error(1));
        assert!(disk.read("a").is_ok() && disk.read("a").is_err() && disk.read("a").is_ok());
        assert_eq!(disk.calls(), (0, 3));
    }
}
