//! Which files were given, remembered over restarts: eight bytes for each, appended.
//!
//! A power cut during a write leaves what was there before, perhaps with some of the new marks, and a torn one is dropped.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What stands for a file of one name, length and time.
pub(crate) type Mark = u64;

/// Marks on the disk.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    marks: HashSet<Mark>,
    /// Marks in the file, of which some may be there twice.
    written: usize,
}

impl Ledger {
    /// Reads what was remembered.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => vec![],
            read => read?,
        };
        let (whole, torn) = bytes.as_chunks::<8>();
        let marks: HashSet<Mark> = whole.iter().map(|b| Mark::from_le_bytes(*b)).collect();
        let mut ledger = Self { path: path.to_owned(), marks, written: whole.len() };
        if !torn.is_empty() {
            ledger.rewrite()?;
        }
        Ok(ledger)
    }

    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }

    /// Remembers files.
    pub(crate) fn add(&mut self, marks: &[Mark]) -> io::Result<()> {
        if marks.is_empty() {
            return Ok(());
        }
        self.marks.extend(marks);
        let bytes: Vec<u8> = marks.iter().flat_map(|m| m.to_le_bytes()).collect();
        let written = OpenOptions::new().append(true).create(true).open(&self.path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_data()
        });
        self.written += marks.len();
        // What was torn by a full disk would put all behind it out of step.
        written.inspect_err(|_| drop(self.rewrite()))
    }

    /// Forgets files that are there no longer.
    pub(crate) fn retain(&mut self, is_there: impl Fn(Mark) -> bool) -> io::Result<()> {
        self.marks.retain(|&mark| is_there(mark));
        // Not for each file that goes.
        if self.written > 2 * self.marks.len() + FEW { self.rewrite() } else { Ok(()) }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let bytes: Vec<u8> = self.marks.iter().flat_map(|m| m.to_le_bytes()).collect();
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.written = self.marks.len();
        Ok(())
    }
}

/// So many marks too many do no harm.
const FEW: usize = 512;

/// Returns the mark of a file.
///
/// # Source
///
/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>, over the parts.
pub(crate) fn mark(parts: &[&[u8]]) -> Mark {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_fnv() {
        // The test vectors of its authors for "", "a" and "foobar".
        assert_eq!(mark(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(mark(&[b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(mark(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn marks_outlive_a_restart_a_torn_write_and_files_that_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen");
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.add(&[1, 2]).unwrap();
        ledger.add(&[3]).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend([9, 9, 9]);
        fs::write(&path, bytes).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert!([1, 2, 3].iter().all(|&m| ledger.has(m)) && !ledger.has(4));
        ledger.add(&[4]).unwrap();
        assert!(Ledger::open(&path).unwrap().has(4), "the torn mark is not in its way");
        ledger.add(&(10..3000).collect::<Vec<_>>()).unwrap();
        ledger.retain(|m| m < 3).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 16);
        let again = Ledger::open(&path).unwrap();
        assert!(again.has(1) && !again.has(3) && !again.has(2999));
    }
}
