//! Activations at the freeze point: what trained stages read of frozen ones, of several views of each picture, in a file.
//!
//! The frozen stages then run once for a view instead of once for each epoch that sees it. A record is `f16 [len]` and the
//! first eight bytes of its BLAKE3; the file is as large as its views and no more than what was allowed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::fit::{Source, pictures};
use crate::net::Net;

/// Views of every picture, after the frozen stages.
#[derive(Debug)]
pub struct Views {
    file: Mutex<File>,
    path: PathBuf,
    /// Numbers of a view.
    len: usize,
    /// Pictures.
    pictures: usize,
    /// Views a picture; an epoch sees the one of its number, in turns.
    count: usize,
}

const CHECK: usize = 8;
/// Views that go through the network together.
const BATCH: usize = 32;

impl Views {
    /// Returns how many views of each of `pictures` fit into `bytes` of disk; 0 where the net freezes nothing.
    pub(crate) fn fit(net: &Net, pictures: usize, bytes: u64) -> usize {
        let Some(len) = net.frozen_len() else { return 0 };
        usize::try_from(bytes / (record(len) * pictures.max(1)) as u64).unwrap_or(usize::MAX)
    }

    /// Computes `count` views of each picture of `source` into `path`, or goes on where a file of the same views ends.
    ///
    /// # Errors
    ///
    /// If a picture cannot be read, the file cannot be written, or `stop` is raised: what was computed stays.
    pub(crate) fn make(
        net: &mut Net,
        source: &dyn Source,
        seed: u64,
        count: usize,
        path: &Path,
        stop: &AtomicBool,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let len = net.frozen_len().context("expected frozen stages to keep the activations of, found none")?;
        let doing = || format!("keeping activations in {}", path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).with_context(doing)?;
        let n = source.targets().len();
        let views = Self { file: Mutex::new(file), path: path.to_owned(), len, pictures: n, count };
        let total = n * count;
        let whole = usize::try_from(views.file().metadata().with_context(doing)?.len()).unwrap_or(0) / record(len);
        // By view first: a fit that was stopped here has some views of all pictures rather than all of some.
        let mut at = whole.min(total) / BATCH * BATCH;
        while at < total {
            if stop.load(Ordering::Relaxed) {
                bail!("stopped after {at} of {total} views; add --resume to the same command to go on");
            }
            let mut bytes = Vec::new();
            let end = (at + BATCH).min(total);
            let places: Vec<usize> = (at..end).collect();
            for same in places.chunk_by(|a, b| a / n == b / n) {
                let rows: Vec<usize> = same.iter().map(|p| p % n).collect();
                for row in net.frozen(&pictures(source, seed, same[0] / n, &rows)?)? {
                    put(&mut bytes, &row);
                }
            }
            let mut file = views.file();
            file.seek(SeekFrom::Start((at * record(len)) as u64)).with_context(doing)?;
            file.write_all(&bytes).with_context(doing)?;
            at = end;
            progress(at, total);
        }
        Ok(views)
    }

    /// Returns the views that an epoch has of some pictures.
    pub(crate) fn rows(&self, rows: &[usize], epoch: usize) -> Result<Vec<Vec<f32>>> {
        let view = epoch % self.count;
        rows.iter().map(|row| self.read(view * self.pictures + row)).collect()
    }

    fn read(&self, place: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; record(self.len)];
        let doing = || format!("reading activations from {}", self.path.display());
        let mut file = self.file();
        file.seek(SeekFrom::Start((place * bytes.len()) as u64)).with_context(doing)?;
        file.read_exact(&mut bytes).with_context(doing)?;
        let (body, check) = bytes.split_at(2 * self.len);
        ensure!(
            check == &blake3::hash(body).as_bytes()[..CHECK],
            "expected whole activations in {}, found damaged ones; remove the file",
            self.path.display()
        );
        let numbers: Vec<f16> = body.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
        let mut row = vec![0.0; self.len];
        numbers.convert_to_f32_slice(&mut row);
        Ok(row)
    }

    fn file(&self) -> std::sync::MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Bytes of a record.
fn record(len: usize) -> usize {
    2 * len + CHECK
}

fn put(bytes: &mut Vec<u8>, row: &[f32]) {
    let start = bytes.len();
    // Beyond the largest f16 lies infinity, which would make the loss infinite.
    bytes.extend(row.iter().flat_map(|v| f16::from_f32(v.clamp(-MAX, MAX)).to_le_bytes()));
    let check = blake3::hash(&bytes[start..]);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
}

const MAX: f32 = 65504.0;
