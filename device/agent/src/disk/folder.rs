//! A folder of the real file system.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{FileSystem, Kind};

/// A folder of the real file system.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Takes a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl FileSystem for Folder {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(path))
    }

    fn read_part(&self, path: &str, from: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.0.join(path))?;
        // Beyond what a place in a file can be there is nothing.
        if i64::try_from(from).is_err() {
            return Ok(vec![]);
        }
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(count as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len(&self, path: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.0.join(path))?.len())
    }

    fn entries(&self, path: &str) -> io::Result<Vec<(String, Kind)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.0.join(path))? {
            let entry = entry?;
            let kind = if entry.file_type()?.is_dir() { Kind::Folder } else { Kind::File };
            // No name of ours is anything but text.
            entries.extend(entry.file_name().into_string().ok().map(|name| (name, kind)));
        }
        Ok(entries)
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        fs::create_dir(self.0.join(path))
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.0.join(path), bytes)
    }

    fn sync_file(&mut self, path: &str) -> io::Result<()> {
        // Writable, since not every system syncs what is open for reading alone.
        File::options().write(true).open(self.0.join(path))?.sync_all()
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        match File::open(self.0.join(path)).and_then(|folder| folder.sync_all()) {
            // Not every file system can sync a folder; those that cannot write names in order.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove_file(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(path))
    }

    fn remove_folder(&mut self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.0.join(path))
    }

    fn free_bytes(&self) -> Option<u64> {
        let system = rustix::fs::statvfs(&self.0).ok()?;
        Some(system.f_bavail.saturating_mul(system.f_frsize))
    }
}
