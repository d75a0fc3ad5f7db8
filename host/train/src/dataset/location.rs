//! Where a picture's bytes are: in a file of their own, or in an archive.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use flate2::bufread::DeflateDecoder;

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// A part of an archive.
    Member(Member),
}

/// A part of an archive that can be read without what lies before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub(super) archive: Arc<Path>,
    pub(super) name: String,
    /// Where it begins in the archive, in bytes.
    pub(super) offset: u64,
    /// Its length in the archive.
    pub(super) stored: u64,
    /// Its length.
    pub(super) len: u64,
    pub(super) packing: Packing,
    /// CRC-32 of its bytes, where the archive has it.
    pub(super) crc: Option<u32>,
}

/// How a member's bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Deflated,
}

impl Location {
    /// Returns the path for messages; that of a member is the archive's with the member's name behind it.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Member(member) => member.archive.join(&member.name),
        }
    }

    /// Reads the bytes; may be called from many threads.
    ///
    /// # Errors
    ///
    /// If there are more than `limit`, or they cannot be read or are damaged.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let doing = || format!("reading {self}");
        let (file, len) = match self {
            Self::File(path) => {
                let file = File::open(path).with_context(doing)?;
                let len = file.metadata().with_context(doing)?.len();
                (file, len)
            }
            Self::Member(member) => (File::open(&member.archive).with_context(doing)?, member.len),
        };
        ensure!(len <= limit, "expected at most {limit} bytes in {self}, found {len}");
        match self {
            Self::File(_) => bytes(file, limit),
            Self::Member(member) => member.read(file),
        }
        .with_context(doing)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

impl Member {
    fn read(&self, mut archive: File) -> Result<Vec<u8>> {
        archive.seek(SeekFrom::Start(self.offset))?;
        let stored = archive.take(self.stored);
        let bytes = match self.packing {
            Packing::Plain => bytes(stored, self.len)?,
            Packing::Deflated => bytes(DeflateDecoder::new(BufReader::new(stored)), self.len)?,
        };
        let (found, len) = (bytes.len(), self.len);
        ensure!(found as u64 == len, "expected {len} bytes, found {found}; the archive is damaged, copy it again");
        if let Some(wanted) = self.crc {
            let found = crc32fast::hash(&bytes);
            ensure!(
                found == wanted,
                "expected the checksum {wanted:08x}, found {found:08x}; the archive is damaged, copy it again"
            );
        }
        Ok(bytes)
    }
}

/// Reads to the end, but at most one byte over `limit`: what a header says of a length may be a lie.
fn bytes(from: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "expected at most {limit} bytes, found more");
    Ok(bytes)
}
