//! The file system as slots see it: a handful of operations, each of which happens whole or not at all.
//!
//! The in-memory twin cuts the power after a number of operations, so that a test can try every moment.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A folder; paths are relative with `/` between plain parts.
pub trait Disk {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; the system's.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;

    /// Writes a file so that it survives a power cut whole, or is as it was before.
    ///
    /// # Errors
    ///
    /// The system's.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Moves a file or folder to a name that is free.
    ///
    /// # Errors
    ///
    /// The system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or folder with all it holds; one that is not there is removed already.
    ///
    /// # Errors
    ///
    /// The system's.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Lists the names of the files in a folder; one that is not there is empty.
    ///
    /// # Errors
    ///
    /// The system's.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Returns the bytes left, where the system tells.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

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

    fn sync(folder: &Path) {
        // Not every file system can sync a folder; where it can, a rename survives a power cut.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
    }
}

impl Disk for Folder {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(path))
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(path);
        let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|e| e.error)?;
        Self::sync(folder);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let to = self.0.join(to);
        fs::rename(self.0.join(from), &to)?;
        if let Some(folder) = to.parent() {
            Self::sync(folder);
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        let path = self.0.join(path);
        let outcome = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(e) => Err(e),
        };
        match outcome {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.0.join(path)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
pub(crate) mod memory {
    //! A folder in memory whose power can be cut.

    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;

    /// Files by path.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Memory {
        pub(crate) files: BTreeMap<String, Vec<u8>>,
        /// Changes that still happen before the power goes; none for ever.
        pub(crate) left: Cell<Option<usize>>,
    }

    impl Memory {
        fn step(&self) -> io::Result<()> {
            match self.left.get() {
                None => Ok(()),
                Some(0) => Err(io::Error::other("the power is gone")),
                Some(n) => {
                    self.left.set(Some(n - 1));
                    Ok(())
                }
            }
        }

        fn below(path: &str) -> impl Fn(&String) -> bool + '_ {
            move |p: &String| p == path || p.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
        }
    }

    impl Disk for Memory {
        fn read(&self, path: &str) -> io::Result<Vec<u8>> {
            self.files.get(path).cloned().ok_or_else(|| ErrorKind::NotFound.into())
        }

        fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
            self.step()?;
            self.files.insert(path.into(), bytes.to_vec());
            Ok(())
        }

        fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
            self.step()?;
            let moved: Vec<String> = self.files.keys().filter(|p| Self::below(from)(p)).cloned().collect();
            assert!(!moved.is_empty(), "{from} is not there");
            for path in moved {
                let bytes = self.files.remove(&path).unwrap();
                self.files.insert(format!("{to}{}", &path[from.len()..]), bytes);
            }
            Ok(())
        }

        fn remove(&mut self, path: &str) -> io::Result<()> {
            // File by file: a folder may be left half removed.
            let gone: Vec<String> = self.files.keys().filter(|p| Self::below(path)(p)).cloned().collect();
            for path in gone {
                self.step()?;
                self.files.remove(&path);
            }
            Ok(())
        }

        fn list(&self, path: &str) -> io::Result<Vec<String>> {
            let front = format!("{path}/");
            let mut names: Vec<String> = self
                .files
                .keys()
                .filter_map(|p| p.strip_prefix(&front)?.split('/').next().map(str::to_owned))
                .collect();
            names.dedup();
            Ok(names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_does_what_its_twin_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut real = Folder::open(&dir.path().join("root")).unwrap();
        let mut twin = memory::Memory::default();
        let disks: [&mut dyn Disk; 2] = [&mut real, &mut twin];
        for disk in disks {
            disk.write("a/b/one", b"1").unwrap();
            disk.write("a/b/one", b"2").unwrap();
            disk.write("a/two", b"3").unwrap();
            disk.rename("a", "c").unwrap();
            assert_eq!(disk.read("c/b/one").unwrap(), b"2");
            assert_eq!(disk.read("a/two").unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(disk.list("c").unwrap(), ["b", "two"]);
            disk.remove("c/b").unwrap();
            disk.remove("c/b").unwrap();
            disk.remove("c/two").unwrap();
            assert!(disk.list("c").unwrap().is_empty() && disk.list("x").unwrap().is_empty());
        }
    }
}
