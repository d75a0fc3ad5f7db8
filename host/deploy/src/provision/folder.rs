//! A boot partition that the system has mounted.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Boot, Entry, Mode, ProvisionError, Stage, too_long};
use crate::durable::{sync_folder_of, write};

/// A folder with a boot partition's files.
pub(super) struct Folder<'a> {
    path: &'a Path,
}

impl<'a> Folder<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, ProvisionError> {
        if path.is_dir() {
            return Ok(Self { path });
        }
        Err(ProvisionError::Unusable {
            what: path.display().to_string(),
            expected: "the folder of a mounted boot partition",
            found: if path.exists() { "a file" } else { "nothing" }.to_owned(),
            remedy: "mount it first, or name an image with --image".to_owned(),
        })
    }
}

impl Boot for Folder<'_> {
    fn read(&mut self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ProvisionError> {
        let path = self.path.join(name);
        let io = |source| ProvisionError::Io { doing: format!("reading {}", path.display()), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() > limit {
            return Err(too_long(name, limit, bytes.len() as u64));
        }
        Ok(Some(bytes))
    }

    fn holds(&mut self, entry: &Entry) -> Result<bool, ProvisionError> {
        let len = fs::metadata(self.path.join(&entry.path)).map(|m| m.len());
        if len.is_ok_and(|l| l == entry.bytes.len() as u64) {
            return Ok(self.read(&entry.path, entry.bytes.len())?.as_ref() == Some(&entry.bytes));
        }
        Ok(false)
    }

    /// Writes all files under other names before it gives any its own: a partition that is full is left as it was.
    fn lay(&mut self, stages: &[Stage<'_>], mode: Mode) -> Result<(), ProvisionError> {
        if mode == Mode::DryRun {
            return Ok(());
        }
        let mut written: Vec<(PathBuf, PathBuf)> = Vec::new();
        for entry in stages.iter().flatten() {
            let path = self.path.join(&entry.path);
            let fresh = PathBuf::from(format!("{}.new", path.display()));
            written.push((fresh.clone(), path));
            if let Err(source) = write(&fresh, &entry.bytes) {
                for (fresh, _) in &written {
                    // Whatever cannot be removed was not written either, or is named in no file of the board.
                    let _ = fs::remove_file(fresh);
                }
                return Err(ProvisionError::Io { doing: format!("writing {}", fresh.display()), source });
            }
        }
        for (fresh, path) in &written {
            let io = |source| ProvisionError::Io { doing: format!("writing {}", path.display()), source };
            fs::rename(fresh, path).map_err(io)?;
            sync_folder_of(path).map_err(io)?;
        }
        Ok(())
    }
}
