//! What the device saw: predictions as JSON lines, and the pictures that are kept of them (`pictures.rs`).
//!
//! Append-only, bounded: when the folder grows over its limit, the older half of the predictions goes, and of the pictures
//! those worth least. A line torn by a power cut is dropped when the store is opened. Where the disk takes nothing, the
//! newest predictions are kept in memory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use graft_link::messages::{Kept, MAX_TOLD, Told};

use crate::disk::{Disk, Folder};
use crate::pictures::{MAX_ID, Pictures};

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
    kept_at: VecDeque<Instant>,
}

/// What is on the disk.
#[derive(Debug)]
struct Files {
    log: File,
    log_len: u64,
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
        let (folder, kept_at) = (folder.to_owned(), VecDeque::new());
        Self { folder, limit, per_hour: None, files, recent, next_id, kept_at }
    }

    /// Sets how many pictures may be kept in an hour, of those that are told; none: all.
    #[must_use]
    pub fn at_most_hourly(self, pictures: Option<u32>) -> Self {
        Self { per_hour: pictures, ..self }
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
        let record = Record { id: self.next_id, ..record };
        let id = record.id;
        self.next_id += 1;
        self.recent.push_back(record.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let picture = picture.filter(|_| self.is_in_time());
        if self.files.is_err() {
            // The disk may have come back.
            self.files = Ok(Files::open(&self.folder, self.limit, &logs(&self.folder))?);
        }
        let Ok(files) = &mut self.files else { return Ok(id) };
        // Each is worth something without the other.
        let kept = picture.map_or(Ok(false), |picture| files.pictures.keep(&record, picture));
        let written = files.write(&record).and_then(|()| files.make_room(&self.folder, self.limit));
        if kept? {
            self.kept_at.push_back(Instant::now());
        }
        written?;
        Ok(id)
    }

    /// Whether this hour's share of pictures is not used up.
    fn is_in_time(&mut self) -> bool {
        while self.kept_at.front().is_some_and(|at| at.elapsed() > HOUR) {
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

    /// Returns predictions of numbers above `after`, the lowest first.
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
        let marks = [old.as_ref().map_or(vec![], |old| marks(old)), marks(text)];
        // Half for pictures, a quarter for each of the two logs.
        Ok(Self { log, log_len, marks, pictures: Pictures::open(files, limit / 2), number })
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.log.write_all(&line)?;
        self.log.sync_data()?;
        if record.id.is_multiple_of(MARK) {
            self.marks[1].push((record.id, self.log_len));
        }
        self.log_len += line.len() as u64;
        Ok(())
    }

    fn make_room(&mut self, folder: &Path, limit: u64) -> io::Result<()> {
        if self.log_len > limit / 4 {
            fs::rename(folder.join(LOG), folder.join(OLD_LOG))?;
            self.log = OpenOptions::new().append(true).create(true).open(folder.join(LOG))?;
            self.log_len = 0;
            self.marks = [std::mem::take(&mut self.marks[1]), vec![]];
        }
        Ok(())
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
        assert!(logs < 4400, "{logs}");
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
