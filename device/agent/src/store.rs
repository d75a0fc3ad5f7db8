//! What the device saw: predictions as JSON lines, and the pictures that are kept of them (`pictures.rs`).
//!
//! Append-only, bounded: when the folder grows over its limit, the older half of the predictions goes, and of the pictures
//! those worth least. A line torn by a power cut is dropped when the store is opened. Where the disk takes nothing, the
//! newest predictions are kept in memory.
//!
//! Cards wear by writes and not by bytes: what a camera has answered is written in batches, half a minute of it at most, which
//! is what a power cut may cost. What a host asked for, and pictures, are written at once.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use graft_link::messages::{Kept, MAX_TOLD, Told};

use crate::clock;
use crate::disk::{Disk, Folder};
use crate::pictures::{MAX_ID, Pictures, Tally};

/// One prediction.
pub type Record = Told;

/// Predictions on disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    limit: u64,
    /// Pictures that may be kept in an hour.
    per_hour: Option<u32>,
    files: io::Result<Files>,
    recent: VecDeque<Record>,
    next_id: u64,
    /// On [`clock::running`].
    kept_at: VecDeque<Duration>,
    /// Lines to be written, with their numbers.
    pending: Vec<(u64, Vec<u8>)>,
    /// Since when the first of them waits.
    pending_since: Option<Duration>,
}

/// When a prediction is to be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before anything else.
    Now,
    /// With others, in half a minute at most.
    Soon,
}

/// What is on the disk.
#[derive(Debug)]
struct Files {
    log: File,
    log_len: u64,
    old_len: u64,
    /// Numbers and places of lines in the older log and in the newer one, so that reading on begins near its place.
    marks: [Vec<(u64, u64)>; 2],
    pictures: Pictures<Folder>,
    number: u64,
}

/// Predictions kept in memory.
const RECENT: usize = 256;
/// Lines from mark to mark.
const MARK: u64 = 256;
const LOG: &str = "predictions.jsonl";
const OLD_LOG: &str = "predictions.old.jsonl";
/// The number of the store, which another store has not.
const NUMBER: &str = "number";
const HOUR: Duration = Duration::from_secs(3600);
/// How long a prediction may wait for others.
const BATCH_TIME: Duration = Duration::from_secs(30);
/// So many are written at once.
const BATCH: usize = 128;

impl Store {
    /// Opens a folder that may grow to `limit` bytes.
    pub fn open(folder: &Path, limit: u64) -> Self {
        let mut recent = VecDeque::new();
        let logs = logs(folder);
        for text in logs.iter().flatten() {
            let lines = text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
            for record in lines.filter(|record| record.id <= MAX_ID) {
                recent.push_back(record);
                if recent.len() > RECENT {
                    recent.pop_front();
                }
            }
        }
        let files = Files::open(folder, limit, &logs);
        // A picture may have been kept whose line was lost.
        let last = recent.back().map(|r: &Record| r.id).max(files.as_ref().ok().and_then(|f| f.pictures.last_id()));
        let next_id = last.map_or(1, |id| id + 1);
        let (folder, kept_at, pending) = (folder.to_owned(), VecDeque::new(), vec![]);
        Self { folder, limit, per_hour: None, files, recent, next_id, kept_at, pending, pending_since: None }
    }

    /// Sets how many pictures may be kept in an hour, of those that are told; none: all.
    #[must_use]
    pub fn at_most_hourly(mut self, pictures: Option<u32>) -> Self {
        self.per_hour = pictures;
        self
    }

    /// Returns why nothing can be written, if that is so.
    pub fn ails(&self) -> Option<&io::Error> {
        self.files.as_ref().err()
    }

    /// Adds a prediction, with its picture where one is to be kept; returns its number.
    ///
    /// # Errors
    ///
    /// The system's; a full disk is one. The prediction is kept in memory then.
    pub fn add(&mut self, record: Record, picture: Option<&[u8]>) -> io::Result<u64> {
        self.add_when(record, picture, When::Now)
    }

    /// Adds a prediction as [`Store::add`] does, that may be written later.
    ///
    /// # Errors
    ///
    /// As [`Store::add`].
    pub fn add_when(&mut self, record: Record, picture: Option<&[u8]>, when: When) -> io::Result<u64> {
        let record = Record { id: self.next_id, ..record };
        let id = record.id;
        self.next_id += 1;
        self.recent.push_back(record.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let picture = picture.filter(|_| self.is_in_time());
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        self.pending.push((id, line));
        let now = clock::running();
        let since = *self.pending_since.get_or_insert(now);
        let files = self.open_files()?;
        // Each is worth something without the other.
        let kept = picture.map_or(Ok(false), |picture| files.pictures.keep(&record, picture));
        let is_due = when == When::Now || self.pending.len() >= BATCH || now.saturating_sub(since) >= BATCH_TIME;
        let written = if is_due { self.flush() } else { Ok(()) };
        if kept? && self.per_hour.is_some() {
            self.kept_at.push_back(now);
        }
        written?;
        Ok(id)
    }

    /// Writes what waits, if it has waited long enough.
    ///
    /// # Errors
    ///
    /// As [`Store::add`].
    pub fn flush_in_time(&mut self) -> io::Result<()> {
        let is_due = self.pending_since.is_some_and(|s| clock::running().saturating_sub(s) >= BATCH_TIME);
        if is_due { self.flush() } else { Ok(()) }
    }

    /// Writes what waits.
    ///
    /// # Errors
    ///
    /// As [`Store::add`]; it waits no longer then, so that it takes no more and more memory.
    pub fn flush(&mut self) -> io::Result<()> {
        self.pending_since = None;
        let lines = std::mem::take(&mut self.pending);
        if lines.is_empty() {
            return Ok(());
        }
        let (folder, limit) = (self.folder.clone(), self.limit);
        let written = self.open_files().and_then(|files| files.write(&lines, &folder, limit));
        if let Err(e) = &written {
            // A part of a line may be there: what opens the log anew gives it an end.
            self.files = Err(again(e));
        }
        written
    }

    /// Returns what is on the disk, which may have come back.
    fn open_files(&mut self) -> io::Result<&mut Files> {
        if self.files.is_err() {
            self.files = Files::open(&self.folder, self.limit, &logs(&self.folder));
        }
        self.files.as_mut().map_err(|e| again(e))
    }

    /// Returns what became of pictures, and the bytes of all that is kept.
    pub fn tally(&self) -> (Tally, u64) {
        self.files.as_ref().map_or((Tally::default(), 0), |f| {
            let tally = f.pictures.tally();
            (tally, tally.bytes + f.log_len + f.old_len)
        })
    }

    /// Returns how many bytes may be kept.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether this hour's share of pictures is not used up.
    fn is_in_time(&mut self) -> bool {
        let now = clock::running();
        while self.kept_at.front().is_some_and(|at| now.saturating_sub(*at) > HOUR) {
            self.kept_at.pop_front();
        }
        self.per_hour.is_none_or(|most| (self.kept_at.len() as u64) < u64::from(most))
    }

    /// Returns the newest predictions, newest first.
    pub fn recent(&self, count: usize) -> Vec<Record> {
        self.recent.iter().rev().take(count).cloned().collect()
    }

    fn files(&self) -> io::Result<&Files> {
        self.files.as_ref().map_err(again)
    }

    /// Returns the number of the store: with another one, numbers of predictions mean other ones.
    ///
    /// # Errors
    ///
    /// The system's, as in all below.
    pub fn number(&self) -> io::Result<u64> {
        Ok(self.files()?.number)
    }

    /// Returns predictions of numbers above `after` that are on the disk, the lowest first.
    ///
    /// # Errors
    ///
    /// As [`Store::number`].
    pub fn after(&self, after: u64, count: usize) -> io::Result<Vec<Record>> {
        let files = self.files()?;
        let (mut found, count) = (vec![], count.min(MAX_TOLD));
        for (name, marks) in [OLD_LOG, LOG].into_iter().zip(&files.marks) {
            let mut file = match File::open(self.folder.join(name)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let before = marks.partition_point(|(id, _)| *id <= after);
            file.seek(SeekFrom::Start(before.checked_sub(1).and_then(|i| marks.get(i)).map_or(0, |m| m.1)))?;
            for line in BufReader::new(file).split(b'\n') {
                if found.len() == count {
                    return Ok(found);
                }
                let record = serde_json::from_slice::<Record>(&line?);
                found.extend(record.ok().filter(|r| r.id > after && r.id <= MAX_ID));
            }
        }
        Ok(found)
    }

    /// Returns how many pictures are kept, and of those the most valuable but for the first `skip`.
    ///
    /// # Errors
    ///
    /// As [`Store::number`].
    pub fn kept(&self, skip: usize, count: usize) -> io::Result<(usize, Vec<Kept>)> {
        Ok(self.files()?.pictures.list(skip, count))
    }

    /// Whether the picture of a prediction is kept.
    pub fn keeps(&self, id: u64) -> bool {
        self.files.as_ref().is_ok_and(|f| f.pictures.has(id))
    }

    /// Returns a part of a kept picture.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it is not kept; else as [`Store::number`].
    pub fn part(&self, id: u64, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        self.files()?.pictures.part(id, offset, count)
    }

    /// Removes pictures whose digest is the one that is told; returns how many there were.
    ///
    /// # Errors
    ///
    /// As [`Store::number`].
    pub fn forget(&mut self, pictures: &[(u64, [u8; 32])]) -> io::Result<usize> {
        let files = self.files.as_mut().map_err(|e| again(e))?;
        files.pictures.forget(pictures)
    }
}

impl Files {
    /// Opens the logs, of which this is the text, and what is kept.
    fn open(folder: &Path, limit: u64, [old, text]: &[io::Result<Vec<u8>>; 2]) -> io::Result<Self> {
        let files = Folder::open(folder)?;
        let mut disk = Disk::new(files.clone());
        let number = match disk.read(NUMBER).ok().and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))) {
            Some(number) => number,
            None => {
                let random = graft_bundle::proof::nonce().map_err(io::Error::other)?;
                let number = random.first_chunk().map_or(0, |first: &[u8; 8]| u64::from_le_bytes(*first));
                disk.write(NUMBER, &number.to_le_bytes())?;
                number
            }
        };
        let mut log = OpenOptions::new().append(true).create(true).open(folder.join(LOG))?;
        let text = text.as_ref().map_err(again)?;
        let mut log_len = text.len() as u64;
        if text.last().is_some_and(|&b| b != b'\n') {
            // A torn line gets an end of its own, so that it does not swallow the next one.
            log.write_all(b"\n")?;
            log_len += 1;
        }
        let old_len = old.as_ref().map_or(0, |old| old.len() as u64);
        let marks = [old.as_ref().map_or(vec![], |old| marks(old)), marks(text)];
        // Half for pictures, a quarter for each of the two logs.
        Ok(Self { log, log_len, old_len, marks, pictures: Pictures::open(files, limit / 2), number })
    }

    /// Appends lines, and begins a new log where this one would grow too long.
    fn write(&mut self, lines: &[(u64, Vec<u8>)], folder: &Path, limit: u64) -> io::Result<()> {
        let len: u64 = lines.iter().map(|(_, line)| line.len() as u64).sum();
        if self.log_len > 0 && self.log_len + len > limit / 4 {
            fs::rename(folder.join(LOG), folder.join(OLD_LOG))?;
            self.log = OpenOptions::new().append(true).create(true).open(folder.join(LOG))?;
            self.old_len = std::mem::take(&mut self.log_len);
            self.marks = [std::mem::take(&mut self.marks[1]), vec![]];
        }
        let bytes: Vec<u8> = lines.iter().flat_map(|(_, line)| line).copied().collect();
        self.log.write_all(&bytes)?;
        self.log.sync_data()?;
        for (id, line) in lines {
            if id.is_multiple_of(MARK) {
                self.marks[1].push((*id, self.log_len));
            }
            self.log_len += line.len() as u64;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

/// Reads the older log and the newer one; one that is not there is empty.
fn logs(folder: &Path) -> [io::Result<Vec<u8>>; 2] {
    [OLD_LOG, LOG].map(|name| match fs::read(folder.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        read => read,
    })
}

/// Returns an error that was kept, to be told once more.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Returns numbers and places of some lines of a log.
fn marks(text: &[u8]) -> Vec<(u64, u64)> {
    let mut at = 0;
    let mut marks: Vec<(u64, u64)> = vec![];
    for (index, line) in text.split_inclusive(|&b| b == b'\n').enumerate() {
        if (index as u64).is_multiple_of(MARK)
            && let Ok(record) = serde_json::from_slice::<Record>(line)
            && marks.last().is_none_or(|(id, _)| *id < record.id)
        {
            marks.push((record.id, at));
        }
        at += line.len() as u64;
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: &str) -> Record {
        let (source, label) = ("a.jpg".into(), label.into());
        Record { unix_ms: 5, source, label, probability: 0.5, latency_ms: 1.0, ..Record::default() }
    }

    #[test]
    fn predictions_survive_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 20);
        assert_eq!((store.add(record("a"), None).unwrap(), store.add(record("b"), None).unwrap()), (1, 2));
        drop(store);
        let log = dir.path().join(LOG);
        let mut text = fs::read(&log).unwrap();
        text.extend(b"{\"id\":3,\"uni");
        fs::write(&log, text).unwrap();
        let mut store = Store::open(dir.path(), 1 << 20);
        assert_eq!(store.add(record("c"), None).unwrap(), 3);
        let store = Store::open(dir.path(), 1 << 20);
        let labels: Vec<String> = store.recent(9).into_iter().map(|r| r.label).collect();
        assert_eq!(labels, ["c", "b", "a"]);
    }

    #[test]
    fn a_number_from_which_one_cannot_go_on_is_no_prediction() {
        let dir = tempfile::tempdir().unwrap();
        let line = |id, label| serde_json::to_string(&Record { id, ..record(label) }).unwrap() + "\n";
        fs::write(dir.path().join(LOG), line(4, "a") + &line(u64::MAX, "b")).unwrap();
        let mut store = Store::open(dir.path(), 1 << 20);
        assert_eq!(store.recent(9).into_iter().map(|r| r.label).collect::<Vec<_>>(), ["a"]);
        assert_eq!(store.add(record("c"), None).unwrap(), 5);
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_the_newest_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        // A file in the folder's place takes nothing, whoever runs the test.
        fs::write(&folder, b"").unwrap();
        let mut store = Store::open(&folder, 4000);
        assert!(store.ails().is_some());
        assert!(store.add(record("a"), None).is_err());
        assert_eq!(store.recent(9)[0].label, "a");
        fs::remove_file(&folder).unwrap();
        assert_eq!(store.add(record("b"), None).unwrap(), 2);
        assert!(store.ails().is_none());
        assert_eq!(Store::open(&folder, 4000).recent(9)[0].label, "b");
    }

    #[test]
    fn what_a_camera_answered_is_written_in_batches() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 20);
        let written = || fs::read(dir.path().join(LOG)).unwrap().iter().filter(|&&b| b == b'\n').count();
        for _ in 0..BATCH - 1 {
            store.add_when(record("a"), None, When::Soon).unwrap();
        }
        assert_eq!((written(), store.recent(1)[0].id), (0, BATCH as u64 - 1));
        store.add_when(record("b"), None, When::Soon).unwrap();
        assert_eq!(written(), BATCH);
        store.add_when(record("c"), None, When::Soon).unwrap();
        store.flush_in_time().unwrap();
        assert_eq!(written(), BATCH);
        store.pending_since = Some(clock::running());
        clock::put_ahead(BATCH_TIME);
        store.flush_in_time().unwrap();
        assert_eq!(written(), BATCH + 1);
        store.add_when(record("d"), None, When::Soon).unwrap();
        store.add(record("e"), None).unwrap();
        assert_eq!(written(), BATCH + 3, "what a host asked for is on the disk, and all before it");
        store.add_when(record("f"), None, When::Soon).unwrap();
        drop(store);
        assert_eq!(written(), BATCH + 4);
        let told = Store::open(dir.path(), 1 << 20).after(BATCH as u64, 9).unwrap();
        assert_eq!(told.iter().map(|r| r.label.as_str()).collect::<Vec<_>>(), ["c", "d", "e", "f"]);
    }

    #[test]
    fn the_oldest_goes_when_the_limit_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 8000);
        for i in 0..60 {
            store.add(record(&i.to_string()), Some(&[0; 300])).unwrap();
        }
        let size = |p: &Path| fs::read_dir(p).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert!(size(&dir.path().join("pictures")) <= 4000);
        let logs =
            fs::metadata(dir.path().join(LOG)).unwrap().len() + fs::metadata(dir.path().join(OLD_LOG)).unwrap().len();
        assert!(logs <= 4000, "{logs}");
        assert!(store.keeps(60) && !store.keeps(1));
        let again = Store::open(dir.path(), 8000);
        assert_eq!((again.recent(1)[0].label.as_str(), again.keeps(60)), ("59", true));
        assert_eq!(again.number().unwrap(), store.number().unwrap());
    }

    #[test]
    fn predictions_are_read_on_from_any_number() {
        let dir = tempfile::tempdir().unwrap();
        // Both logs, and several marks of each.
        let mut store = Store::open(dir.path(), 1 << 20);
        while fs::metadata(dir.path().join(LOG)).unwrap().len() < 200_000 || !dir.path().join(OLD_LOG).exists() {
            store.add(record("a"), None).unwrap();
        }
        let newest = store.recent(1)[0].id;
        for store in [&store, &Store::open(dir.path(), 1 << 20)] {
            let mut after = 0;
            let mut found: Vec<u64> = vec![];
            loop {
                let next = store.after(after, usize::MAX).unwrap();
                let Some(last) = next.last() else { break };
                assert!(next.len() <= MAX_TOLD);
                after = last.id;
                found.extend(next.iter().map(|r| r.id));
            }
            assert!(found.windows(2).all(|w| w[1] == w[0] + 1) && found.last() == Some(&newest), "{}", found.len());
            assert!(found.len() > 1000, "{}", found.len());
            for after in [newest - 1, newest - 300, newest - 513] {
                assert_eq!(store.after(after, 1).unwrap()[0].id, after + 1);
            }
            assert!(store.after(newest, 9).unwrap().is_empty() && store.after(u64::MAX, 9).unwrap().is_empty());
        }
    }

    #[test]
    fn no_more_pictures_are_kept_in_an_hour_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 20).at_most_hourly(Some(2));
        let kept: Vec<bool> = (0..4)
            .map(|_| {
                let id = store.add(record("a"), Some(&[7; 30])).unwrap();
                store.keeps(id)
            })
            .collect();
        assert_eq!(kept, [true, true, false, false]);
        assert_eq!((store.kept(0, 9).unwrap().0, store.recent(9).len()), (2, 4));
    }

    #[test]
    fn the_number_of_a_picture_whose_line_was_lost_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 20);
        assert_eq!(store.add(record("a"), Some(&[7; 30])).unwrap(), 1);
        drop(store);
        fs::write(dir.path().join(LOG), "").unwrap();
        assert_eq!(Store::open(dir.path(), 1 << 20).add(record("b"), None).unwrap(), 2);
    }
}
