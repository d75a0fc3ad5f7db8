//! The archive that a kernel unpacks as its first file system: cpio, format "newc".
//!
//! Written rather than made from a folder, so that the owner is root and devices are in it whoever runs this.
//!
//! # Source
//!
//! Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.

use anyhow::{Context, Result};

/// An archive that is being written. Folders have to be added before what is in them.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// What an entry is, as the upper bits of its mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTERS: u32 = 0o020_000;

impl Archive {
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, FOLDER | 0o755, &[], [0, 0])
    }

    /// Adds a file that anyone may run.
    pub(super) fn program(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, FILE | 0o755, bytes, [0, 0])
    }

    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, FILE | 0o644, bytes, [0, 0])
    }

    /// Adds a device of characters by its numbers.
    pub(super) fn device(&mut self, path: &str, numbers: [u32; 2]) -> Result<()> {
        self.entry(path, CHARACTERS | 0o600, &[], numbers)
    }

    /// Returns the archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[], [0, 0])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8], device: [u32; 2]) -> Result<()> {
        let len = |n: usize| u32::try_from(n).with_context(|| format!("expected less than 4 GB of {path}, found {n}"));
        let links = if mode & 0o170_000 == FOLDER { 2 } else { 1 };
        // Inode, mode, user, group, links, time, length, device of two numbers, device that it is, length of name with its
        // zero, sum.
        let [major, minor] = device;
        let fields =
            [self.entries, mode, 0, 0, links, 0, len(bytes.len())?, 0, 0, major, minor, len(path.len() + 1)?, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self.entries += 1;
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `printf 'etc\netc/x\n' | busybox cpio -o -H newc -R 0:0` of busybox 1.37.0 writes, with its numbers of inodes and of the
    /// disk set to those here.
    #[test]
    fn entries_are_as_busybox_writes_them() {
        let expected = concat!(
            "07070100000000000041ED0000000000000000000000020000000000000000000000000000000000000000000000000000000400000000",
            "etc\0\0\0",
            "07070100000001000081A40000000000000000000000010000000000000005000000000000000000000000000000000000000600000000",
            "etc/x\0hello\0\0\0",
        );
        let mut archive = Archive::default();
        archive.folder("etc").unwrap();
        archive.file("etc/x", b"hello").unwrap();
        assert_eq!(String::from_utf8(archive.bytes.clone()).unwrap(), expected);
        let whole = archive.finish().unwrap();
        assert!(whole.ends_with(b"TRAILER!!!\0\0\0\0") && whole.len() % 4 == 0);
    }

    #[test]
    fn a_device_has_its_numbers() {
        let mut archive = Archive::default();
        archive.device("dev/console", [5, 1]).unwrap();
        let text = String::from_utf8(archive.bytes).unwrap();
        assert_eq!((&text[14..22], &text[78..94]), ("00002180", "0000000500000001"));
    }
}
