//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes a file, or replaces one, by way of a temporary file beside it: after a power cut it is as it was or as it is to be.
///
/// # Errors
///
/// The folder's.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    if let Ok(folder) = File::open(folder) {
        // Not every file system can sync a folder; the file is whole either way.
        let _ = folder.sync_all();
    }
    Ok(())
}
