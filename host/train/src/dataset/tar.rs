//! Tar archives, by one pass over their headers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use ::tar::{Archive, EntryType};
use anyhow::{Context, Result, ensure};

use super::location::{Member, Packing};
use super::{Ignored, Location, Tree};

/// Lists a tar archive, seeking over its members.
///
/// A tar has checksums of its headers alone: altered bytes of a picture are for its decoder to find.
///
/// # Errors
///
/// If it is damaged or ends too early.
pub(super) fn tree(path: &Path) -> Result<Tree> {
    let doing = || format!("reading the headers of {}", path.display());
    let file = File::open(path).with_context(doing)?;
    let len = file.metadata().with_context(doing)?.len();
    let archive: Arc<Path> = path.into();
    let mut tree = Tree::new(path);
    let mut end = 0u64;
    let mut tar = Archive::new(Headers { file, read: 0 });
    for entry in tar.entries_with_seek().with_context(doing)? {
        let entry = entry
            .with_context(|| format!("expected a sound .tar file, found {} damaged; copy it again", path.display()))?;
        let (offset, size) = (entry.raw_file_position(), entry.size());
        end = offset.checked_add(size).and_then(|e| e.checked_next_multiple_of(BLOCK)).unwrap_or(u64::MAX);
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous if !name.ends_with('/') => {
                let member = Member {
                    archive: archive.clone(),
                    name: name.clone(),
                    offset,
                    stored: size,
                    len: size,
                    packing: Packing::Plain,
                    crc: None,
                };
                tree.add_member(&name, Some(Location::Member(member))).with_context(doing)?;
            }
            EntryType::Regular | EntryType::Directory => tree.add_member(&name, None).with_context(doing)?,
            EntryType::XGlobalHeader => (),
            _ => tree.ignored.push(Ignored { path: path.join(name), reason: "is a link or no plain file".into() }),
        }
    }
    // Two blocks of zeros end an archive; without them it may have been cut off right behind a member.
    ensure!(
        end.checked_add(BLOCK).is_some_and(|end| end <= len),
        "expected {} to go on to its end mark behind byte {end}, found its end at byte {len}; copy it again",
        path.display()
    );
    Ok(tree)
}

/// Lets through headers and no more: between two of them the archive is seeked, so that what is read in between is
/// the long name of a member, however long it says it is.
struct Headers {
    file: File,
    read: u64,
}

impl Read for Headers {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.read += read as u64;
        if self.read > MAX_HEADER { Err(io::Error::other("a header is too long")) } else { Ok(read) }
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.read = 0;
        self.file.seek(to)
    }
}

const BLOCK: u64 = 512;
/// Most bytes of one header, its long name among them.
const MAX_HEADER: u64 = 1 << 20;
