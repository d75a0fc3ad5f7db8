//! A folder that is watched: each new JPEG or PNG file is given once, those that lay there first by their time.
//!
//! The folder is looked at again when its time has changed, and now and then in any case, since not every file system keeps
//! that; no service of the kernel's, so that folders of networks and cards do as well. A file is given when it has not
//! changed for a moment and is whole, or has not been whole for long.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::ledger::{Ledger, Mark, mark};
use crate::{Frame, Next, Pace, Picture, Setting, Source, SourceError};

/// A watched folder.
pub(crate) struct Watch {
    folder: PathBuf,
    is_whole: fn(&[u8]) -> bool,
    ledger: Ledger,
    /// Given and not settled, by number.
    given: BTreeMap<u64, Mark>,
    /// Files that were met, by name and inode, so that a look at the folder asks for few of them.
    known: HashSet<u64>,
    /// Files that may still be written, and when to look again.
    young: BTreeMap<OsString, (Found, Instant)>,
    ready: VecDeque<Found>,
    listed: Option<Listed>,
    number: u64,
}

/// A file to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    name: OsString,
    facts: Facts,
    /// Since when it has been like this, as far as is known.
    since: Instant,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    len: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

struct Listed {
    /// The folder's time.
    changed: Option<SystemTime>,
    at: Instant,
    /// When all files were asked for, also those known.
    whole_at: Instant,
}

/// How often is looked.
const TURN: Duration = Duration::from_millis(200);
/// A file that has not changed for so long may be whole.
const QUIET: Duration = Duration::from_millis(500);
/// One that is not whole after so long never will be.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// Times of files are no finer on some file systems.
const COARSE: Duration = Duration::from_secs(2);
/// A folder whose time has not changed is looked at nonetheless after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// After so long all of its files are.
const ALL_AGAIN: Duration = Duration::from_secs(60);
/// Longest file that is read; the next stage refuses shorter ones.
const MAX_LEN: u64 = 256 << 20;
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

impl Watch {
    pub(crate) fn open(folder: &Path, setting: Setting<'_>) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Folder { path: folder.to_owned(), source };
        let ledger = Ledger::open(setting.memory).map_err(failed)?;
        let mut this = Self {
            folder: folder.to_owned(),
            is_whole: setting.is_whole,
            ledger,
            given: BTreeMap::new(),
            known: HashSet::new(),
            young: BTreeMap::new(),
            ready: VecDeque::new(),
            listed: None,
            number: 0,
        };
        this.look().map_err(failed)?;
        Ok(this)
    }

    /// Looks for new files, and at those that were not whole.
    fn look(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let changed = fs::metadata(&self.folder)?.modified().ok();
        let is_due = self.listed.as_ref().is_none_or(|l| {
            // One that changed just before it was listed may have changed again since, at the same time.
            let is_fresh = |t: SystemTime| t.elapsed().is_ok_and(|e| e < COARSE);
            l.changed != changed || changed.is_some_and(is_fresh) || now - l.at >= AGAIN
        });
        if is_due {
            self.list(now, changed)?;
        }
        let due: Vec<OsString> =
            self.young.iter().filter(|(_, (_, due))| *due <= now).map(|(name, _)| name.clone()).collect();
        let mut ripe = vec![];
        for name in due {
            let Some((found, _)) = self.young.remove(&name) else { continue };
            match fs::metadata(self.folder.join(&name)).map(|m| Facts::of(&m)) {
                Err(_) => {}
                Ok(facts) if found.facts == facts => ripe.push(found),
                Ok(facts) => drop(self.young.insert(name.clone(), (Found { name, facts, since: now }, now + QUIET))),
            }
        }
        self.add(ripe);
        Ok(())
    }

    fn list(&mut self, now: Instant, changed: Option<SystemTime>) -> io::Result<()> {
        let is_whole = self.listed.as_ref().is_none_or(|l| now - l.whole_at >= ALL_AGAIN);
        let (mut ripe, mut known, mut there) = (vec![], HashSet::new(), HashSet::new());
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_picture(&name) {
                continue;
            }
            let key = mark(&[name.as_bytes(), &entry.ino().to_le_bytes()]);
            known.insert(key);
            if self.known.contains(&key) && !is_whole {
                continue;
            }
            // It may be gone by now; it may be a folder.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if !metadata.is_file() {
                continue;
            }
            let facts = Facts::of(&metadata);
            let mark = facts.mark(&name);
            there.insert(mark);
            let is_in_line = self.ready.iter().any(|r| r.name == name && r.facts == facts);
            if is_in_line || self.ledger.has(mark) || self.given.values().any(|&given| given == mark) {
                continue;
            }
            self.ready.retain(|r| r.name != name);
            let is_old = metadata.modified().is_ok_and(|m| m.elapsed().is_ok_and(|e| e > GIVEN_UP));
            let found = Found { name: name.clone(), facts, since: now };
            if is_old {
                ripe.push(found);
            } else if self.young.get(&name).is_none_or(|(y, _)| y.facts != facts) {
                self.young.insert(name, (found, now + QUIET));
            }
        }
        if is_whole {
            self.ledger.retain(|mark| there.contains(&mark))?;
        }
        self.known = known;
        let whole_at = self.listed.as_ref().filter(|_| !is_whole).map_or(now, |l| l.whole_at);
        self.listed = Some(Listed { changed, at: now, whole_at });
        self.add(ripe);
        Ok(())
    }

    /// Puts files in line, the oldest first.
    fn add(&mut self, mut files: Vec<Found>) {
        files.sort_by(|a, b| (a.facts.changed, &a.name).cmp(&(b.facts.changed, &b.name)));
        self.ready.extend(files);
    }

    /// Reads the next file in line; none: it is gone, or not whole yet.
    fn read(&mut self, file: Found) -> Option<Frame> {
        let path = self.folder.join(&file.name);
        let picture = match read(&path) {
            Ok(bytes) => {
                let (now, metadata) = (Instant::now(), fs::metadata(&path).ok()?);
                let is_old = metadata.modified().is_ok_and(|m| m.elapsed().is_ok_and(|e| e > GIVEN_UP));
                if !is_old && now - file.since < GIVEN_UP && !(self.is_whole)(&bytes) {
                    self.young.insert(file.name.clone(), (file, now + QUIET));
                    return None;
                }
                Picture::File(bytes)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => Picture::Unreadable(e.to_string()),
        };
        self.number += 1;
        self.given.insert(self.number, file.facts.mark(&file.name));
        let name = file.name.to_string_lossy().into_owned();
        Some(Frame { number: self.number, name, picture, pace: Pace::Waits, ahead: Duration::ZERO })
    }
}

impl Source for Watch {
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError> {
        let end = Instant::now() + patience;
        loop {
            while let Some(file) = self.ready.pop_front() {
                if let Some(frame) = self.read(file) {
                    return Ok(Next::Frame(frame));
                }
            }
            self.look().map_err(|source| SourceError::Folder { path: self.folder.clone(), source })?;
            let left = end.saturating_duration_since(Instant::now());
            if self.ready.is_empty() {
                if left.is_zero() {
                    return Ok(Next::Nothing);
                }
                thread::sleep(TURN.min(left));
            }
        }
    }

    fn settle(&mut self, numbers: &[u64]) -> io::Result<()> {
        let marks: Vec<Mark> = numbers.iter().filter_map(|n| self.given.remove(n)).collect();
        self.ledger.add(&marks)
    }
}

impl Facts {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), changed: (metadata.mtime(), metadata.mtime_nsec()) }
    }

    fn mark(&self, name: &OsStr) -> Mark {
        let (seconds, nanos) = self.changed;
        let numbers = [self.len.to_le_bytes(), seconds.to_le_bytes(), nanos.to_le_bytes()].concat();
        mark(&[name.as_bytes(), &[0], &numbers])
    }
}

fn is_picture(name: &OsStr) -> bool {
    let path = Path::new(name);
    let is_hidden = name.as_bytes().starts_with(b".");
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    !is_hidden && ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    if len > MAX_LEN {
        return Err(io::Error::other(format!("expected at most {MAX_LEN} bytes, found {len}")));
    }
    let mut bytes = vec![];
    file.take(MAX_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_whole(bytes: &[u8]) -> bool {
        bytes.ends_with(b"end")
    }

    fn watch(dir: &Path) -> Watch {
        Watch::open(&dir.join("in"), Setting { memory: &dir.join("seen"), is_whole }).unwrap()
    }

    /// Returns the names of what comes within a time.
    fn names(watch: &mut Watch, patience: Duration) -> Vec<String> {
        let mut names = vec![];
        while let Next::Frame(frame) = watch.next(patience).unwrap() {
            names.push(frame.name);
        }
        names
    }

    fn put(dir: &Path, name: &str, text: &str, age: u64) {
        let path = dir.join("in").join(name);
        fs::write(&path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        dir
    }

    const SOON: Duration = Duration::from_millis(1500);

    #[test]
    fn files_come_by_their_time_once_and_after_a_restart_only_the_new_ones() {
        let dir = folder();
        for (name, age) in [("b.jpg", 100), ("a.JPEG", 50), ("c.png", 200), (".d.jpg", 1), ("notes.txt", 1)] {
            put(dir.path(), name, "an end", age);
        }
        fs::create_dir(dir.path().join("in/e.png")).unwrap();
        let mut first = watch(dir.path());
        let Next::Frame(frame) = first.next(Duration::ZERO).unwrap() else { panic!() };
        assert_eq!((frame.name.as_str(), frame.picture), ("c.png", Picture::File(b"an end".to_vec())));
        first.settle(&[frame.number]).unwrap();
        assert_eq!(names(&mut first, Duration::ZERO), ["b.jpg", "a.JPEG"]);
        // Those that nobody said to be done with come again.
        let mut second = watch(dir.path());
        assert_eq!(names(&mut second, Duration::ZERO), ["b.jpg", "a.JPEG"]);
        second.settle(&[1, 2, 77]).unwrap();
        put(dir.path(), "f.jpg", "an end", 40);
        let mut third = watch(dir.path());
        assert_eq!(names(&mut third, Duration::ZERO), ["f.jpg"]);
    }

    #[test]
    fn a_half_written_file_is_left_alone_until_it_is_whole() {
        let dir = folder();
        let mut watch = watch(dir.path());
        put(dir.path(), "a.jpg", "half of", 0);
        put(dir.path(), "b.jpg", "an end", 0);
        assert_eq!(names(&mut watch, SOON), ["b.jpg"]);
        put(dir.path(), "a.jpg", "all of it to the end", 0);
        assert_eq!(names(&mut watch, SOON), ["a.jpg"]);
        // What was not whole for long is given as it is, to be refused by name.
        put(dir.path(), "c.jpg", "half of", 31);
        assert_eq!(names(&mut watch, SOON), ["c.jpg"]);
        // A new file in an old one's place is a new one.
        put(dir.path(), "d.tmp", "another end", 40);
        fs::rename(dir.path().join("in/d.tmp"), dir.path().join("in/b.jpg")).unwrap();
        assert_eq!(names(&mut watch, SOON), ["b.jpg"]);
        assert_eq!(names(&mut watch, SOON), [""; 0]);
    }

    #[test]
    fn nothing_is_given_twice_when_all_files_are_looked_at_again() {
        let dir = folder();
        let mut watch = watch(dir.path());
        put(dir.path(), "a.jpg", "half of", 0);
        assert_eq!(names(&mut watch, Duration::from_millis(800)), [""; 0]);
        put(dir.path(), "a.jpg", "to the end", 0);
        put(dir.path(), "b.jpg", "to the end", 0);
        let mut found = names(&mut watch, SOON);
        found.sort();
        assert_eq!(found, ["a.jpg", "b.jpg"]);
        watch.settle(&[1]).unwrap();
        for _ in 0..2 {
            let listed = watch.listed.as_mut().unwrap();
            listed.changed = None;
            listed.whole_at -= ALL_AGAIN;
            assert_eq!(names(&mut watch, Duration::ZERO), [""; 0]);
        }
        fs::remove_file(dir.path().join("in/a.jpg")).unwrap();
        watch.listed.as_mut().unwrap().whole_at -= ALL_AGAIN;
        assert_eq!(names(&mut watch, SOON), [""; 0]);
        assert_eq!(watch.known.len(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let setting = Setting { memory: &dir.path().join("seen"), is_whole };
        let error = Watch::open(&dir.path().join("none"), setting).err().unwrap().to_string();
        assert!(error.contains("none") && error.contains("is it there"), "{error}");
    }
}
