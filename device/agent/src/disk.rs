//! Files that survive a power cut whole: the one place that knows in which order to write, sync and rename.
//!
//! Below it is a [`FileSystem`], the calls a system offers. Each of those may be cut off by the power, and what was not
//! synced may then be there, be lost or be torn, in any order; the simulated one (`torture/simulated.rs`) does just that.
//! Knows nothing of bundles and slots.

use std::io::{self, ErrorKind};

mod folder;

pub use folder::Folder;

/// What a system offers; paths are relative with `/` between plain parts, `""` is the top.
///
/// Only what was synced is sure to survive a power cut: a file's bytes by [`FileSystem::sync_file`], what a folder's names
/// stand for by [`FileSystem::sync_folder`].
pub trait FileSystem {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; the system's.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// Reads at most so many bytes of a file from a place on; fewer, or none, at its end.
    ///
    /// # Errors
    ///
    /// As [`FileSystem::read`].
    fn read_part(&self, path: &str, from: u64, count: usize) -> io::Result<Vec<u8>> {
        let bytes = self.read(path)?;
        let rest = usize::try_from(from).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
        Ok(rest.get(..count).unwrap_or(rest).to_vec())
    }

    /// Returns the length of a file.
    ///
    /// # Errors
    ///
    /// As [`FileSystem::read`].
    fn len(&self, path: &str) -> io::Result<u64> {
        Ok(self.read(path)?.len() as u64)
    }

    /// Lists the names in a folder, and which of them are folders.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such folder; the system's.
    fn entries(&self, path: &str) -> io::Result<Vec<(String, Kind)>>;

    /// Makes a folder in one that is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if there is one; the system's.
    fn make_folder(&mut self, path: &str) -> io::Result<()>;

    /// Makes a file or replaces the bytes of one.
    ///
    /// # Errors
    ///
    /// The system's; the file may then hold some of the bytes.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Has a file's bytes survive.
    ///
    /// # Errors
    ///
    /// The system's.
    fn sync_file(&mut self, path: &str) -> io::Result<()>;

    /// Has a folder's names survive as they are.
    ///
    /// # Errors
    ///
    /// The system's.
    fn sync_folder(&mut self, path: &str) -> io::Result<()>;

    /// Moves a file or folder at once; a file of the new name is replaced.
    ///
    /// # Errors
    ///
    /// The system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; the system's.
    fn remove_file(&mut self, path: &str) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; the system's.
    fn remove_folder(&mut self, path: &str) -> io::Result<()>;

    /// Returns the bytes left, where the system tells.
    fn free_bytes(&self) -> Option<u64>;
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file, or anything else that is no folder.
    File,
    /// A folder.
    Folder,
}

/// A folder whose files change whole or not at all.
#[derive(Debug, Clone)]
pub struct Disk<F>(F);

impl<F: FileSystem> Disk<F> {
    /// Takes a file system.
    pub fn new(files: F) -> Self {
        Self(files)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; the system's.
    pub fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    /// Reads at most so many bytes of a file from a place on; fewer, or none, at its end.
    ///
    /// # Errors
    ///
    /// As [`Disk::read`].
    pub fn read_part(&self, path: &str, from: u64, count: usize) -> io::Result<Vec<u8>> {
        self.0.read_part(path, from, count)
    }

    /// Returns the length of a file.
    ///
    /// # Errors
    ///
    /// As [`Disk::read`].
    pub fn len(&self, path: &str) -> io::Result<u64> {
        self.0.len(path)
    }

    /// Writes a file that survives a power cut from here on; one during the call leaves it as it was, or as it is to be.
    ///
    /// # Errors
    ///
    /// The system's; the file is as it was, or, if only the last sync failed, as it is to be.
    pub fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = parent(path);
        self.make_folders(folder)?;
        // The name is always the same: what a cut leaves of it is replaced by the next attempt.
        let fresh = format!("{path}{FRESH}");
        let outcome = self.0.write(&fresh, bytes).and_then(|()| self.0.sync_file(&fresh));
        if let Err(e) = outcome.and_then(|()| self.0.rename(&fresh, path)) {
            // A full disk gets its space back.
            let _ = self.0.remove_file(&fresh);
            return Err(e);
        }
        self.0.sync_folder(folder)
    }

    /// Moves a folder, all of whose content survives, to a name that is free.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.make_folders(parent(to))?;
        self.0.rename(from, to)?;
        self.0.sync_folder(parent(to))?;
        if parent(from) == parent(to) { Ok(()) } else { self.0.sync_folder(parent(from)) }
    }

    /// Removes a file or folder with all it holds; one that is not there is removed already.
    ///
    /// A power cut may bring any of it back, as nothing is synced.
    ///
    /// # Errors
    ///
    /// The system's; some of it may be gone.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        let outcome = match self.0.entries(path) {
            Ok(entries) => {
                for (name, kind) in entries {
                    let path = format!("{path}/{name}");
                    match kind {
                        Kind::Folder => self.remove(&path)?,
                        Kind::File => self.0.remove_file(&path)?,
                    }
                }
                self.0.remove_folder(path)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => self.0.remove_file(path),
            Err(e) => Err(e),
        };
        match outcome {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Lists the names in a folder in order; one that is not there is empty.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = match self.0.entries(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => vec![],
            other => other?.into_iter().map(|(name, _)| name).collect(),
        };
        names.sort();
        Ok(names)
    }

    /// Returns the bytes left, where the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    /// Makes the folders of a path. A new one's name must survive before anything in it can.
    fn make_folders(&mut self, path: &str) -> io::Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for folder in ends.filter_map(|end| path.get(..end)).filter(|p| !p.is_empty()) {
            match self.0.make_folder(folder) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            if let Err(e) = self.0.sync_folder(parent(folder)) {
                // Were it left, the next attempt would take it for one that survives.
                let _ = self.0.remove_folder(folder);
                return Err(e);
            }
        }
        Ok(())
    }
}

/// What a file is called until all of it is there.
pub const FRESH: &str = ".new";

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::Simulated;

    fn does_what_it_says(files: impl FileSystem) {
        let mut disk = Disk::new(files);
        disk.write("a/b/one", b"1").unwrap();
        disk.write("a/b/one", b"2").unwrap();
        disk.write("a/two", b"3").unwrap();
        disk.write("three", b"4").unwrap();
        disk.rename("a", "c").unwrap();
        assert_eq!(disk.read("c/b/one").unwrap(), b"2");
        assert_eq!(disk.read("a/two").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.list("c").unwrap(), ["b", "two"]);
        assert_eq!(disk.list("").unwrap(), ["c", "three"]);
        let part = |from, count| disk.read_part("three", from, count).unwrap();
        assert_eq!([part(0, 9), part(0, 0), part(1, 9), part(u64::MAX, 9)], [vec![b'4'], vec![], vec![], vec![]]);
        assert_eq!((disk.len("three").unwrap(), disk.len("x").unwrap_err().kind()), (1, ErrorKind::NotFound));
        assert_eq!(disk.read_part("x", 0, 1).unwrap_err().kind(), ErrorKind::NotFound);
        disk.write("d/e", b"").unwrap();
        disk.rename("c", "d/c").unwrap();
        assert_eq!(disk.list("d").unwrap(), ["c", "e"]);
        disk.remove("d/c/b").unwrap();
        disk.remove("d/c/b").unwrap();
        disk.remove("d/c/two").unwrap();
        assert!(disk.list("d/c").unwrap().is_empty() && disk.list("x").unwrap().is_empty());
        assert!(disk.rename("x", "y").is_err());
    }

    #[test]
    fn a_folder_does_what_its_twin_does() {
        let dir = tempfile::tempdir().unwrap();
        does_what_it_says(Folder::open(&dir.path().join("root")).unwrap());
        does_what_it_says(Simulated::default());
    }

    /// Both file systems answer mistakes alike, as the protocol above relies on the kinds of errors.
    #[test]
    fn a_folder_fails_as_its_twin_does() {
        let dir = tempfile::tempdir().unwrap();
        let (mut real, mut twin) = (Folder::open(&dir.path().join("root")).unwrap(), Simulated::default());
        let files: [&mut dyn FileSystem; 2] = [&mut real, &mut twin];
        for files in files {
            files.make_folder("a").unwrap();
            files.make_folder("e").unwrap();
            files.write("a/b", b"1").unwrap();
            let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
            assert_eq!(kind(files.make_folder("a")), ErrorKind::AlreadyExists);
            assert_eq!(kind(files.make_folder("x/y")), ErrorKind::NotFound);
            assert_eq!(kind(files.write("x/y", b"")), ErrorKind::NotFound);
            assert_eq!(kind(files.remove_file("x")), ErrorKind::NotFound);
            assert_eq!(kind(files.remove_folder("x")), ErrorKind::NotFound);
            assert_eq!(kind(files.remove_folder("a")), ErrorKind::DirectoryNotEmpty);
            assert_eq!(kind(files.rename("x", "y")), ErrorKind::NotFound);
            assert_eq!(kind(files.rename("e", "a")), ErrorKind::DirectoryNotEmpty);
            assert_eq!(files.entries("x").unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(files.entries("a/b").unwrap_err().kind(), ErrorKind::NotADirectory);
            assert_eq!(files.entries("a").unwrap(), [("b".to_owned(), Kind::File)]);
        }
    }
}
