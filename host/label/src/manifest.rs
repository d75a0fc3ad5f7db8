//! `labels.csv`: the settled pictures, as `graft train` reads them.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::LabelError;

/// A row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labelled<'a> {
    pub(crate) file: &'a str,
    pub(crate) label: &'a str,
    /// Pictures of one group never fall on both sides of a split.
    pub(crate) group: &'a str,
}

/// Writes the manifest anew, so that it is there whole or as it was.
///
/// # Errors
///
/// If the folder cannot be written.
pub(crate) fn write<'a>(path: &Path, rows: impl Iterator<Item = Labelled<'a>>) -> Result<(), LabelError> {
    let written = || -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(vec![]);
        writer.write_record(["file", "label", "group"])?;
        for row in rows {
            writer.write_record([row.file, row.label, row.group])?;
        }
        let bytes = writer.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".labels-").tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        if let Ok(folder) = File::open(folder) {
            // Not every file system can sync a folder; the file itself is safe either way.
            let _ = folder.sync_all();
        }
        Ok(())
    };
    written().map_err(|source| LabelError::Io { doing: "write", path: path.to_owned(), source })
}
