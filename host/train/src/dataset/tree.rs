//! The files below a set's root, on disk or in an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Ignored, Location};

/// The files below a root. Hidden ones are no part of it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// For messages.
    pub(super) root: PathBuf,
    /// Where each file is, by its path below the root, with `/` between parts.
    pub(super) files: BTreeMap<String, Location>,
    /// The path of each folder that is listed by itself: empty ones are known by nothing else.
    folders: BTreeSet<String>,
    /// What is never looked at, such as links in an archive.
    pub(super) ignored: Vec<Ignored>,
}

impl Tree {
    /// Begins with no files.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    /// Lists a folder on disk.
    ///
    /// # Errors
    ///
    /// If a folder cannot be read, or there are too many files or levels.
    pub(super) fn of_folder(root: &Path) -> Result<Self> {
        let mut tree = Self::new(root);
        tree.walk(root, "", 0)?;
        Ok(tree)
    }

    fn walk(&mut self, folder: &Path, above: &str, depth: usize) -> Result<()> {
        ensure!(depth <= MAX_DEPTH, "expected at most {MAX_DEPTH} nested folders, found more at {}", folder.display());
        for (name, path) in listing(folder)? {
            let name = format!("{above}{name}");
            if path.is_dir() {
                self.walk(&path, &format!("{name}/"), depth + 1)?;
                self.folders.insert(name);
            } else {
                self.insert(name, Location::File(path))?;
            }
        }
        Ok(())
    }

    /// Adds a member of an archive by its name there: a file, or a folder where the name ends in `/`.
    ///
    /// # Errors
    ///
    /// If the name is none that a file below a root could have.
    pub(super) fn add_member(&mut self, name: &str, location: Option<Location>) -> Result<()> {
        ensure!(name.len() <= MAX_NAME, "expected names of at most {MAX_NAME} bytes, found one of {}", name.len());
        let name = name.replace('\\', "/");
        let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        ensure!(
            !name.starts_with('/') && !parts.contains(&".."),
            "expected names below the archive's root, found {name:?}; pack it again"
        );
        if parts.is_empty() || parts.iter().any(|p| p.starts_with('.') || *p == "__MACOSX") {
            return Ok(());
        }
        ensure!(parts.len() <= MAX_DEPTH + 1, "expected at most {MAX_DEPTH} nested folders, found more at {name:?}");
        match location {
            Some(location) => self.insert(parts.join("/"), location),
            None => {
                self.folders.insert(parts.join("/"));
                Ok(())
            }
        }
    }

    fn insert(&mut self, name: String, location: Location) -> Result<()> {
        ensure!(
            self.files.len() < MAX_FILES,
            "expected at most {MAX_FILES} files below {}, found more",
            self.root.display()
        );
        // Of two members of one name the later one counts, as in unpacking.
        self.files.insert(name, location);
        Ok(())
    }

    /// Returns the names of the folders right below the root, empty ones too.
    pub(super) fn top(&self) -> BTreeSet<&str> {
        let of_files = self.files.keys().filter_map(|n| n.split_once('/'));
        of_files.map(|n| n.0).chain(self.folders.iter().map(|n| n.split('/').next().unwrap_or(n))).collect()
    }

    /// Returns what lies below a folder.
    pub(super) fn below(self, folder: &str) -> Self {
        let inside = |name: &str| Some(name.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
        Self {
            files: self.files.into_iter().filter_map(|(name, location)| Some((inside(&name)?, location))).collect(),
            folders: self.folders.iter().filter_map(|name| inside(name)).collect(),
            root: self.root.join(folder),
            ignored: self.ignored,
        }
    }

    /// Leaves off folders in which all else lies, as an archive of a folder has; but none that has a split's name or
    /// pictures of its own, so is a class.
    pub(super) fn unwrapped(mut self) -> Self {
        while let Some(folder) = self.wrapper().map(str::to_owned) {
            self = self.below(&folder);
        }
        self
    }

    fn wrapper(&self) -> Option<&str> {
        let top = self.top();
        let (Some(&folder), 1) = (top.first(), top.len()) else { return None };
        let own = |n: &str| n.strip_prefix(folder).is_some_and(|n| n.matches('/').count() == 1);
        let has_class = self.files.keys().any(|n| n.matches('/').count() >= 2);
        let is_class = self.files.keys().any(|n| own(n) && is_picture(n));
        let at_top = self.files.keys().any(|n| !n.contains('/') && (is_picture(n) || is_manifest(n)));
        let has_manifest = self.files.keys().any(|n| own(n) && is_manifest(n));
        let wraps = (has_class && !is_class || has_manifest) && !at_top && !is_split(folder);
        wraps.then_some(folder)
    }

    /// Returns the name of the manifest at the top, if there is one.
    ///
    /// # Errors
    ///
    /// If there are several.
    pub(super) fn manifest(&self) -> Result<Option<String>> {
        let names: Vec<&String> = self.files.keys().filter(|n| !n.contains('/') && is_manifest(n)).collect();
        match names[..] {
            [] => Ok(None),
            [name] => Ok(Some(name.clone())),
            [a, b, ..] => {
                bail!("expected one manifest at the top of {}, found {a} and {b}; keep one", self.root.display())
            }
        }
    }
}

/// Lists a folder by name, without hidden files.
fn listing(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let doing = || format!("listing {}", folder.display());
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.insert(name, path);
        }
    }
    Ok(found)
}

/// Says whether a folder of this name is a part of a set and no class.
pub(super) fn is_split(name: &str) -> bool {
    SPLITS.contains(&name.to_lowercase().as_str())
}

/// Says whether a file of this name is a picture that is read.
pub(super) fn is_picture(name: &str) -> bool {
    PICTURES.contains(&extension(name).as_str())
}

fn is_manifest(name: &str) -> bool {
    MANIFESTS.contains(&extension(name).as_str())
}

/// Returns what is behind the last point of a path's last part, in lower case.
pub(super) fn extension(name: &str) -> String {
    Path::new(name).extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

const MANIFESTS: [&str; 2] = ["csv", "parquet"];
const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];
const SPLITS: [&str; 6] = ["train", "test", "val", "valid", "validation", "dev"];
/// Folders nested deeper than this below a class are an error (a loop of links).
const MAX_DEPTH: usize = 16;
/// Longest name of an archive's member, in bytes.
const MAX_NAME: usize = 4096;
/// Most files below a root, pictures or not.
const MAX_FILES: usize = 2 * super::MAX_SAMPLES;
