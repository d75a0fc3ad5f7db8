//! The folder: which pictures lie below it, and what its device said of them.
//!
//! Pictures are known to all else by their place in this list. Nothing outside the folder is ever opened, whatever
//! links or tables in it say.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{FIELD, LabelError, Seen, field};

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Its path below the folder, with `/` between parts.
    pub file: String,
    /// What its device said.
    pub seen: Option<Seen>,
}

/// The pictures of a folder, in the order of their paths.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// Files that look like pictures and are not labelled.
    pub passed_over: Vec<PassedOver>,
}

/// A file that is not labelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its path below the folder.
    pub file: String,
    /// Why.
    pub reason: String,
}

impl Folder {
    /// Lists the JPEG and PNG files below a folder, hidden ones aside, and reads its `field.csv` if there is one.
    ///
    /// # Errors
    ///
    /// If the folder or its table cannot be read, or there is no picture, or there are more than 200,000.
    pub fn open(root: &Path) -> Result<Self, LabelError> {
        let io_error = |source| LabelError::Io { doing: "open the folder", path: root.to_owned(), source };
        let root = fs::canonicalize(root).map_err(io_error)?;
        let mut folder = Self { root: root.clone(), pictures: vec![], passed_over: vec![] };
        folder.walk(&root, "", 0)?;
        if folder.pictures.is_empty() {
            return Err(LabelError::NoPictures(root));
        }
        folder.pictures.sort_by(|a, b| a.file.cmp(&b.file));
        if let Some(mut seen) = field::read(&root.join(FIELD))? {
            for picture in &mut folder.pictures {
                picture.seen = seen.remove(&picture.file);
            }
            let mut missing: Vec<String> = seen.into_keys().collect();
            missing.sort();
            let told = missing.into_iter().map(|file| PassedOver { file, reason: format!("is in {FIELD} only") });
            folder.passed_over.extend(told);
        }
        Ok(folder)
    }

    /// Returns the folder's own path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a picture's path on disk.
    pub fn path(&self, index: usize) -> Option<PathBuf> {
        Some(self.root.join(&self.pictures.get(index)?.file))
    }

    /// Leaves pictures out, each with its reason: what cannot be read cannot be labelled.
    pub fn leave_out(&mut self, bad: impl IntoIterator<Item = (usize, String)>) {
        let mut bad: Vec<(usize, String)> = bad.into_iter().filter(|(i, _)| *i < self.pictures.len()).collect();
        bad.sort();
        bad.dedup_by_key(|(i, _)| *i);
        for (index, reason) in bad.into_iter().rev() {
            let file = self.pictures.remove(index).file;
            self.passed_over.push(PassedOver { file, reason });
        }
    }

    fn walk(&mut self, folder: &Path, above: &str, depth: usize) -> Result<(), LabelError> {
        let io_error = |source| LabelError::Io { doing: "list", path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(io_error)?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let file = format!("{above}{name}");
            if kind.is_dir() {
                if depth < MAX_DEPTH {
                    self.walk(&path, &format!("{file}/"), depth + 1)?;
                } else {
                    self.passed_over.push(PassedOver { file, reason: format!("is nested deeper than {MAX_DEPTH}") });
                }
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if !PICTURES.contains(&extension.as_str()) {
                continue;
            }
            let reason = if entry.file_name().to_str().is_none() {
                Some("has a name that is not UTF-8; rename it")
            } else if file.trim() != file || file.contains('\\') {
                Some("has a name that a manifest cannot hold (a backslash, or a space at an end); rename it")
            } else if kind.is_symlink() && !is_below(&self.root, &path) {
                Some("is a link to something outside the folder; copy it here")
            } else {
                None
            };
            match reason {
                Some(reason) => self.passed_over.push(PassedOver { file, reason: reason.to_owned() }),
                None if self.pictures.len() == MAX_PICTURES => {
                    return Err(LabelError::TooMany { folder: self.root.clone(), most: MAX_PICTURES });
                }
                None => self.pictures.push(Picture { file, seen: None }),
            }
        }
        Ok(())
    }
}

/// Reads a picture's file, unless it has become a link that leads out of the folder since it was listed.
///
/// # Errors
///
/// If it cannot be read or is too long.
pub(crate) fn read(root: &Path, file: &str) -> Result<Vec<u8>, LabelError> {
    let path = root.join(file);
    let refused = |reason: String| LabelError::Picture { file: file.to_owned(), reason };
    if !is_below(root, &path) {
        return Err(refused("expected a file in the folder, found none".to_owned()));
    }
    let opened = File::open(&path).map_err(|e| refused(e.to_string()))?;
    let len = opened.metadata().map_err(|e| refused(e.to_string()))?.len();
    if len > MAX_FILE_LEN {
        return Err(refused(format!("expected at most {MAX_FILE_LEN} bytes, found {len}; save it smaller")));
    }
    let mut bytes = Vec::new();
    opened.take(MAX_FILE_LEN).read_to_end(&mut bytes).map_err(|e| refused(e.to_string()))?;
    Ok(bytes)
}

/// Says whether a path leads to a plain file below `root`, which has no links in it.
fn is_below(root: &Path, path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real.starts_with(root) && real.is_file())
}

const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];
/// Most pictures: their feature vectors are kept in memory.
pub const MAX_PICTURES: usize = 200_000;
const MAX_DEPTH: usize = 16;
/// Longest file that is shown, in bytes.
const MAX_FILE_LEN: u64 = 256 << 20;
