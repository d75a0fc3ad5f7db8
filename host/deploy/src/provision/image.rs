//! The FAT boot partition inside an image or on a disk.
//!
//! Everything is first done in memory ([`Layer`]), so that what is refused half-way has changed nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FileSystem, FsOptions};

use super::layer::{Change, Layer, SECTOR};
use super::sound::{BootSectorFault, Volume};
use super::{Boot, Entry, FOLDER, Mode, ProvisionError, Stage, too_long};

/// A boot partition in a file or on a disk.
pub(super) struct Image<'a> {
    path: &'a Path,
    disk: File,
    start: u64,
    len: u64,
    volume: Volume,
}

impl<'a> Image<'a> {
    /// Finds the boot partition.
    pub(super) fn open(path: &'a Path, mut disk: File) -> Result<Self, ProvisionError> {
        let io = |source| ProvisionError::Io { doing: format!("reading {}", path.display()), source };
        let size = disk.seek(SeekFrom::End(0)).map_err(io)?;
        let mut first = [0; SECTOR as usize];
        if size < SECTOR {
            return Err(not_an_image(path, format!("{size} bytes"), "download the image again"));
        }
        disk.rewind().map_err(io)?;
        disk.read_exact(&mut first).map_err(io)?;
        let (start, len) = boot_partition(path, &first)?;
        if start + len > size {
            let found = format!("{size} bytes, where its boot partition ends at {}", start + len);
            return Err(not_an_image(path, found, "it is cut off: download or unpack it again"));
        }
        disk.seek(SeekFrom::Start(start)).map_err(io)?;
        disk.read_exact(&mut first).map_err(io)?;
        let volume = Volume::parse(&first, len).map_err(|fault| {
            let (found, remedy) = match fault {
                BootSectorFault::Fat12 => ("FAT12 in the boot partition", "use an image of Raspberry Pi OS"),
                BootSectorFault::NotFat => (
                    "no FAT16 or FAT32 file system in the boot partition",
                    "it is damaged: download or unpack it again",
                ),
            };
            not_an_image(path, found.to_owned(), remedy)
        })?;
        let image = Self { path, disk, start, len, volume };
        image.volume.check(&mut image.layer(), FOLDER).map_err(|e| image.damaged(e))?;
        Ok(image)
    }

    fn layer(&self) -> Layer<&File> {
        Layer::new(&self.disk, self.start, self.len)
    }

    fn damaged(&self, source: io::Error) -> ProvisionError {
        ProvisionError::Damaged { path: self.path.to_owned(), source }
    }

    /// Opens one file of the partition and hands it to `f`, with its length; none where it is not there.
    fn with<T>(
        &self,
        name: &str,
        f: impl FnOnce(&mut dyn Read, u64) -> Result<T, ProvisionError>,
    ) -> Result<Option<T>, ProvisionError> {
        let mut layer = self.layer();
        let fs = FileSystem::new(&mut layer, FsOptions::new()).map_err(|e| self.damaged(e))?;
        let found = match fs.root_dir().open_file(name) {
            Ok(mut file) => {
                let len = file.seek(SeekFrom::End(0)).map_err(|e| self.damaged(e))?;
                file.rewind().map_err(|e| self.damaged(e))?;
                Some(f(&mut file, len)?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(self.damaged(e)),
        };
        Ok(found)
    }

    /// Returns the sectors that lay down the stages, in the order of writing.
    pub(super) fn plan(&self, stages: &[Stage<'_>]) -> Result<Vec<Vec<Change>>, ProvisionError> {
        let mut layer = self.layer();
        let mut changes = Vec::new();
        for stage in stages {
            {
                let fs = FileSystem::new(&mut layer, FsOptions::new()).map_err(|e| self.damaged(e))?;
                self.check_room(&fs, stage)?;
                for folder in stage.iter().filter_map(|e| e.path.rsplit_once('/')).map(|(folder, _)| folder) {
                    fs.root_dir().create_dir(folder).map_err(|e| self.damaged(e))?;
                }
                fs.unmount().map_err(|e| self.damaged(e))?;
                self.volume.mend_dots(&mut layer, FOLDER).map_err(|e| self.damaged(e))?;
                layer.rewind().map_err(|e| self.damaged(e))?;
                let fs = FileSystem::new(&mut layer, FsOptions::new()).map_err(|e| self.damaged(e))?;
                for entry in stage.iter() {
                    lay(&fs, entry).map_err(|e| self.damaged(e))?;
                }
                fs.unmount().map_err(|e| self.damaged(e))?;
            }
            changes.push(layer.end_stage().map_err(|e| self.damaged(e))?);
        }
        Ok(changes)
    }

    fn check_room(&self, fs: &FileSystem<&mut Layer<&File>>, stage: &[&Entry]) -> Result<(), ProvisionError> {
        let stats = fs.stats().map_err(|e| self.damaged(e))?;
        let cluster = u64::from(stats.cluster_size());
        let mut needed = 0;
        let mut given_up = 0;
        for entry in stage {
            needed += (entry.bytes.len() as u64).div_ceil(cluster);
            if let Ok(mut file) = fs.root_dir().open_file(&entry.path) {
                given_up += file.seek(SeekFrom::End(0)).map_err(|e| self.damaged(e))?.div_ceil(cluster);
            }
        }
        // The folder takes clusters, too.
        let needed = if given_up == 0 { needed + 2 } else { needed.saturating_sub(given_up) };
        let free = u64::from(stats.free_clusters());
        if needed > free {
            return Err(ProvisionError::NoRoom {
                path: self.path.to_owned(),
                needed: needed * cluster,
                free: free * cluster,
            });
        }
        Ok(())
    }
}

impl Boot for Image<'_> {
    fn read(&mut self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ProvisionError> {
        self.with(name, |file, len| {
            if len > limit as u64 {
                return Err(too_long(name, limit, len));
            }
            let mut bytes = Vec::new();
            file.take(limit as u64).read_to_end(&mut bytes).map_err(|e| self.damaged(e))?;
            Ok(bytes)
        })
    }

    fn holds(&mut self, entry: &Entry) -> Result<bool, ProvisionError> {
        let found = self.with(&entry.path, |file, len| {
            if len != entry.bytes.len() as u64 {
                return Ok(false);
            }
            let mut piece = vec![0; 64 << 10];
            for expected in entry.bytes.chunks(piece.len()) {
                let found = &mut piece[..expected.len()];
                file.read_exact(found).map_err(|e| self.damaged(e))?;
                if found != expected {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found.unwrap_or(false))
    }

    fn lay(&mut self, stages: &[Stage<'_>], mode: Mode) -> Result<(), ProvisionError> {
        let plan = self.plan(stages)?;
        if mode == Mode::DryRun {
            return Ok(());
        }
        let io = |source| ProvisionError::Io { doing: format!("writing {}", self.path.display()), source };
        for (changes, stage) in plan.iter().zip(stages) {
            for (at, bytes) in changes {
                self.disk.seek(SeekFrom::Start(*at)).map_err(io)?;
                self.disk.write_all(bytes.as_slice()).map_err(io)?;
                // A file that the board starts from grows in order: its new end first, then its new length.
                if stage.iter().all(|e| e.is_grown) {
                    self.disk.sync_data().map_err(io)?;
                }
            }
            self.disk.sync_all().map_err(io)?;
        }
        Ok(())
    }
}

/// Writes one file.
fn lay(fs: &FileSystem<&mut Layer<&File>>, entry: &Entry) -> io::Result<()> {
    let mut file = fs.root_dir().create_file(&entry.path)?;
    if !entry.is_grown {
        file.truncate()?;
    }
    file.write_all(&entry.bytes)?;
    file.flush()
}

/// Returns place and length, in bytes, of the first FAT partition of an MBR.
///
/// # Source
///
/// The table lies at byte 446, four entries of 16 bytes: type at 4, first sector at 8, count of sectors at 12.
fn boot_partition(path: &Path, first: &[u8; SECTOR as usize]) -> Result<(u64, u64), ProvisionError> {
    for (magic, what, remedy) in PACKED {
        if first.starts_with(magic) {
            return Err(not_an_image(path, (*what).to_owned(), remedy));
        }
    }
    if first[510..] != [0x55, 0xaa] {
        let remedy = "name the unpacked image (.img) or the whole disk";
        return Err(not_an_image(path, "no partition table".to_owned(), remedy));
    }
    if first[54..].starts_with(b"FAT") || first[82..].starts_with(b"FAT") {
        let found = "a FAT file system without a partition table".to_owned();
        return Err(not_an_image(path, found, "mount it and name that folder with --boot"));
    }
    let mut kinds = Vec::new();
    for entry in first[446..510].chunks_exact(16) {
        let number =
            |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        let (kind, start, sectors) = (entry[4], number(8), number(12));
        match kind {
            0 => {}
            0xee => {
                let remedy =
                    "Raspberry Pi OS comes with an MBR; mount the boot partition and name that folder with --boot";
                return Err(not_an_image(path, "a GPT partition table".to_owned(), remedy));
            }
            0x04 | 0x06 | 0x0b | 0x0c | 0x0e if start > 0 && sectors > 0 => {
                return Ok((start * SECTOR, sectors * SECTOR));
            }
            other => kinds.push(format!("{other:#04x}")),
        }
    }
    let found = match kinds.as_slice() {
        [] => "an empty partition table".to_owned(),
        kinds => format!("no FAT16 or FAT32 partition, but of type {}", kinds.join(", ")),
    };
    Err(not_an_image(path, found, "use an image of Raspberry Pi OS"))
}

fn not_an_image(path: &Path, found: String, remedy: &'static str) -> ProvisionError {
    let expected = "an image of Raspberry Pi OS with a FAT boot partition";
    ProvisionError::Unusable { what: path.display().to_string(), expected, found, remedy: remedy.to_owned() }
}

const PACKED: &[(&[u8], &str, &str)] = &[
    (b"\xfd7zXZ\0", "an .xz file", "unpack it first: xz -d FILE"),
    (b"PK\x03\x04", "a .zip file", "unpack it first: unzip FILE"),
    (b"\x1f\x8b", "a .gz file", "unpack it first: gzip -d FILE"),
    (b"\x28\xb5\x2f\xfd", "a .zst file", "unpack it first: zstd -d FILE"),
];
