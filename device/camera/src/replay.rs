//! Replays: a source that says what it was told to, for tests, and one that gives a folder's pictures over and over, for days
//! in compressed time.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Frame, Next, Pace, Picture, Source, SourceError};

/// One answer of a [`Replay`].
#[derive(Debug, Clone)]
pub enum Step {
    /// A picture.
    Frame(Frame),
    /// Nothing in all the time that is waited for it.
    Nothing,
    /// The source fails, and says so.
    Fails(String),
}

/// The twin of a camera: gives what it was told, then ends.
#[derive(Debug, Default)]
pub struct Replay {
    steps: VecDeque<Step>,
    settled: Arc<Mutex<Vec<u64>>>,
}

impl Replay {
    /// Takes what it is to say.
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), settled: Arc::default() }
    }

    /// Returns where the numbers of settled pictures are noted.
    pub fn settled(&self) -> Arc<Mutex<Vec<u64>>> {
        Arc::clone(&self.settled)
    }
}

impl Source for Replay {
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError> {
        match self.steps.pop_front() {
            Some(Step::Frame(frame)) => Ok(Next::Frame(frame)),
            Some(Step::Nothing) => {
                std::thread::sleep(patience);
                Ok(Next::Nothing)
            }
            Some(Step::Fails(reason)) => Err(SourceError::Said(reason)),
            None => Ok(Next::End),
        }
    }

    fn settle(&mut self, numbers: &[u64]) -> io::Result<()> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
        Ok(())
    }
}

/// The pictures of a folder, over and over.
pub(crate) struct Rerun {
    files: Vec<(String, Vec<u8>)>,
    frames: u64,
    /// From one to the next.
    gap: Duration,
    number: u64,
}

/// So many pictures of a folder are held in memory.
const MAX_FILES: usize = 1000;
/// After so many pictures that wait come some that do not, to be more than any engine takes.
const CALM: u64 = 1000;
/// So many.
const BURST: u64 = 20;

impl Rerun {
    pub(crate) fn open(folder: &Path, frames: u64, hours: u32) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Folder { path: folder.to_owned(), source };
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
        let mut paths: Vec<_> = entries.into_iter().map(|e| e.path()).filter(|p| p.is_file()).collect();
        paths.sort();
        let mut files = vec![];
        for path in paths.into_iter().take(MAX_FILES) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, fs::read(&path).map_err(failed)?));
        }
        if files.is_empty() {
            return Err(failed(io::Error::new(ErrorKind::NotFound, "expected pictures, found none")));
        }
        let nanos = u128::from(hours) * 3_600_000_000_000 / u128::from(frames.max(1));
        let gap = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Ok(Self { files, frames, gap, number: 0 })
    }
}

impl Source for Rerun {
    fn next(&mut self, _patience: Duration) -> Result<Next, SourceError> {
        if self.number >= self.frames {
            return Ok(Next::End);
        }
        let index = usize::try_from(self.number % self.files.len() as u64).unwrap_or(0);
        let Some((name, bytes)) = self.files.get(index) else { return Ok(Next::End) };
        let pace = if self.number % (CALM + BURST) < CALM { Pace::Waits } else { Pace::Passes };
        self.number += 1;
        let picture = Picture::File(bytes.clone());
        Ok(Next::Frame(Frame { number: self.number, name: name.clone(), picture, pace, ahead: self.gap }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_over_and_over_spread_over_its_hours() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Rerun::open(dir.path(), 7200, 2);
        assert!(open().err().unwrap().to_string().contains("found none"));
        for name in ["b.jpg", "a.jpg"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut rerun = open().unwrap();
        let (mut time, mut names, mut passing) = (Duration::ZERO, vec![], 0);
        while let Next::Frame(frame) = rerun.next(Duration::ZERO).unwrap() {
            time += frame.ahead;
            passing += usize::from(frame.pace == Pace::Passes);
            names.push(frame.name);
        }
        assert_eq!((time, names.len(), passing), (Duration::from_secs(7200), 7200, 140));
        assert_eq!(names[..3], ["a.jpg", "b.jpg", "a.jpg"]);
    }
}
