//! A partition with changes laid over it: nothing reaches the disk until all of them are known to work.
//!
//! What is read comes from the changes first, then from the disk. Changes are kept in stages, to be written one after the
//! other, and within a stage in the order in which the file system made them last.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes that a disk writes whole or not at all.
pub(super) const SECTOR: u64 = 512;
const SECTOR_LEN: usize = SECTOR as usize;

type Sector = Box<[u8; SECTOR_LEN]>;

/// One sector to be written, with its place on the whole disk in bytes.
pub(super) type Change = (u64, Sector);

/// The part of a disk from `start` on, `len` bytes long.
pub(super) struct Layer<D> {
    disk: D,
    start: u64,
    len: u64,
    at: u64,
    /// The sector that was read last, as it is on the disk.
    cached: (Option<u64>, Sector),
    /// What earlier stages change.
    settled: BTreeMap<u64, Sector>,
    /// What this stage changes, and when.
    changed: BTreeMap<u64, (u64, Sector)>,
    writes: u64,
    /// Bytes that may be read before the file system is taken to go round in circles.
    reads_left: u64,
}

impl<D: Read + Seek> Layer<D> {
    /// Takes a part of a disk. The caller has checked that it is there.
    pub(super) fn new(disk: D, start: u64, len: u64) -> Self {
        let reads_left = len.saturating_mul(4);
        Self {
            disk,
            start,
            len,
            at: 0,
            cached: (None, Box::new([0; SECTOR_LEN])),
            settled: BTreeMap::new(),
            changed: BTreeMap::new(),
            writes: 0,
            reads_left,
        }
    }

    /// Ends a stage and returns its changes, without those that change nothing.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub(super) fn end_stage(&mut self) -> io::Result<Vec<Change>> {
        let mut made: Vec<(u64, u64, Sector)> = Vec::new();
        for (number, (when, bytes)) in std::mem::take(&mut self.changed) {
            if bytes != *self.sector(number)? {
                made.push((when, number, bytes));
            }
        }
        made.sort_by_key(|(when, _, _)| *when);
        let mut changes = Vec::new();
        for (_, number, bytes) in made {
            changes.push((self.start + number * SECTOR, bytes.clone()));
            self.settled.insert(number, bytes);
        }
        self.at = 0;
        Ok(changes)
    }

    /// Returns a sector as it is with all changes.
    fn sector(&mut self, number: u64) -> io::Result<&Sector> {
        if self.changed.contains_key(&number) || self.settled.contains_key(&number) {
            let changed = self.changed.get(&number).map(|(_, bytes)| bytes);
            return changed.or_else(|| self.settled.get(&number)).ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        if self.cached.0 != Some(number) {
            self.cached.0 = None;
            self.disk.seek(SeekFrom::Start(self.start + number * SECTOR))?;
            self.disk.read_exact(self.cached.1.as_mut_slice())?;
            self.cached.0 = Some(number);
        }
        Ok(&self.cached.1)
    }

    /// Returns the sector at the present place, the place in it, and how much of `wanted` lies in it.
    fn here(&self, wanted: usize) -> (u64, usize, usize) {
        let offset = (self.at % SECTOR) as usize;
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        (self.at / SECTOR, offset, wanted.min(SECTOR_LEN - offset).min(left))
    }
}

impl<D: Read + Seek> Read for Layer<D> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let (number, offset, len) = self.here(to.len());
        if len == 0 {
            return Ok(0);
        }
        self.reads_left = self
            .reads_left
            .checked_sub(len as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file system goes round in circles"))?;
        let bytes = self.sector(number)?;
        to[..len].copy_from_slice(&bytes[offset..offset + len]);
        self.at += len as u64;
        Ok(len)
    }
}

impl<D: Read + Seek> Write for Layer<D> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let (number, offset, len) = self.here(from.len());
        if len == 0 {
            return Ok(0);
        }
        let mut bytes = self.sector(number)?.clone();
        bytes[offset..offset + len].copy_from_slice(&from[..len]);
        self.writes += 1;
        self.changed.insert(number, (self.writes, bytes));
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D> Seek for Layer<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        // A damaged file system may point outside of its partition.
        self.at = at.filter(|at| *at <= self.len).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the file system points outside of its partition")
        })?;
        Ok(self.at)
    }
}
