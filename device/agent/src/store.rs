//! What the device saw: predictions as JSON lines, with their pictures where they are to be kept.
//!
//! Append-only, bounded: when the folder grows over its limit, the oldest file goes. A line torn by a power cut is
//! dropped when the store is opened. Where the disk takes nothing, the newest predictions are kept in memory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counts up by one with each prediction of this device.
    pub id: u64,
    /// The device's clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// Name of the picture.
    pub source: String,
    /// The best label.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// Time for preprocessing and the network.
    pub latency_ms: f32,
}

/// Predictions on disk.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    limit: u64,
    log: io::Result<File>,
    log_len: u64,
    recent: VecDeque<Record>,
    next_id: u64,
}

/// Predictions kept in memory.
const RECENT: usize = 256;
/// Largest number that is read: none that counted up from 1 came near, and from it one can go on.
const MAX_ID: u64 = u64::MAX / 2;
const LOG: &str = "predictions.jsonl";
const OLD_LOG: &str = "predictions.old.jsonl";
const PICTURES: &str = "pictures";

impl Store {
    /// Opens a folder that may grow to `limit` bytes.
    pub fn open(folder: &Path, limit: u64) -> Self {
        let mut recent = VecDeque::new();
        for name in [OLD_LOG, LOG] {
            let text = fs::read(folder.join(name)).unwrap_or_default();
            let lines = text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice::<Record>(line).ok());
            for record in lines.filter(|record| record.id <= MAX_ID) {
                recent.push_back(record);
                if recent.len() > RECENT {
                    recent.pop_front();
                }
            }
        }
        let (log, log_len) = match open_log(folder) {
            Ok((log, len)) => (Ok(log), len),
            Err(e) => (Err(e), 0),
        };
        let next_id = recent.back().map_or(1, |r: &Record| r.id + 1);
        Self { folder: folder.to_owned(), limit, log_len, log, recent, next_id }
    }

    /// Returns why nothing can be written, if that is so.
    pub fn ails(&self) -> Option<&io::Error> {
        self.log.as_ref().err()
    }

    /// Adds a prediction, with its picture where one is given; returns its number.
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
        if self.log.is_err() {
            // The disk may have come back.
            let (log, len) = open_log(&self.folder)?;
            (self.log, self.log_len) = (Ok(log), len);
        }
        self.write(&record, picture)?;
        self.make_room()?;
        Ok(id)
    }

    fn write(&mut self, record: &Record, picture: Option<&[u8]>) -> io::Result<()> {
        let Ok(log) = &mut self.log else { return Ok(()) };
        if let Some(bytes) = picture {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(bytes)?;
            file.persist(self.folder.join(PICTURES).join(format!("{:010}.img", record.id))).map_err(|e| e.error)?;
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        log.write_all(&line)?;
        log.sync_data()?;
        self.log_len += line.len() as u64;
        Ok(())
    }

    /// Returns the newest predictions, newest first.
    pub fn recent(&self, count: usize) -> Vec<Record> {
        self.recent.iter().rev().take(count).cloned().collect()
    }

    fn make_room(&mut self) -> io::Result<()> {
        // Half for pictures, a quarter for each of the two logs.
        if self.log_len > self.limit / 4 {
            fs::rename(self.folder.join(LOG), self.folder.join(OLD_LOG))?;
            self.log = Ok(OpenOptions::new().append(true).create(true).open(self.folder.join(LOG))?);
            self.log_len = 0;
        }
        let mut pictures: Vec<(PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(self.folder.join(PICTURES))? {
            let entry = entry?;
            pictures.push((entry.path(), entry.metadata()?.len()));
        }
        pictures.sort();
        let mut total: u64 = pictures.iter().map(|p| p.1).sum();
        for (path, len) in pictures {
            if total <= self.limit / 2 {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }
}

/// Opens the log and returns its length.
fn open_log(folder: &Path) -> io::Result<(File, u64)> {
    fs::create_dir_all(folder.join(PICTURES))?;
    let path = folder.join(LOG);
    let mut log = OpenOptions::new().append(true).create(true).read(true).open(&path)?;
    let text = fs::read(&path)?;
    if text.last().is_some_and(|&b| b != b'\n') {
        // A torn line gets an end of its own, so that it does not swallow the next one.
        log.write_all(b"\n")?;
    }
    Ok((log, text.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(label: &str) -> Record {
        Record { id: 0, unix_ms: 5, source: "a.jpg".into(), label: label.into(), probability: 0.5, latency_ms: 1.0 }
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
        let mut store = Store::open(dir.path(), 4000);
        for i in 0..60 {
            store.add(record(&i.to_string()), Some(&[0; 300])).unwrap();
        }
        let size = |p: &Path| fs::read_dir(p).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert!(size(&dir.path().join(PICTURES)) <= 2000);
        let logs =
            fs::metadata(dir.path().join(LOG)).unwrap().len() + fs::metadata(dir.path().join(OLD_LOG)).unwrap().len();
        assert!(logs < 2200, "{logs}");
        assert!(dir.path().join(PICTURES).join("0000000060.img").exists());
        assert_eq!(Store::open(dir.path(), 4000).recent(1)[0].label, "59");
    }
}
