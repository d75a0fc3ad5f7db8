//! Files that a power cut leaves as they were or as they are to be.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file so that its bytes survive; its name does once its folder is synced.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Has the names in a file's folder survive. Windows has no such thing; there a rename is kept with the file.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Makes or replaces a file.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    let outcome = write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path));
    if outcome.is_err() {
        // A full disk gets its room back.
        let _ = fs::remove_file(&fresh);
    }
    outcome.and_then(|()| sync_folder_of(path))
}
