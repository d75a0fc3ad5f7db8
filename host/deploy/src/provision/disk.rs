//! Whether a block device may be written: removable, whole, not in use, and wanted.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Consent, ProvisionError};

/// What the system knows of its disks; tests bring their own.
pub(super) struct System {
    /// Where sysfs is.
    pub(super) sys: PathBuf,
    /// The text of /proc/self/mountinfo.
    pub(super) mounts: String,
    /// The text of /proc/swaps.
    pub(super) swaps: String,
}

impl System {
    /// Asks Linux.
    pub(super) fn open() -> Result<Self, ProvisionError> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|source| ProvisionError::Io { doing: format!("reading {path}"), source })
        };
        // A kernel without swap has no list of it.
        let swaps = read("/proc/swaps").unwrap_or_default();
        Ok(Self { sys: "/sys".into(), mounts: read("/proc/self/mountinfo")?, swaps })
    }

    /// Checks that the disk of this number may be written. `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ProvisionError::Refused`] says why not.
    pub(super) fn check(&self, path: &Path, number: (u32, u32), consent: Consent) -> Result<(), ProvisionError> {
        let refuse = |found: String, remedy: &str| {
            Err(ProvisionError::Refused { path: path.to_owned(), found, remedy: remedy.to_owned() })
        };
        let number = format!("{}:{}", number.0, number.1);
        let Ok(folder) = fs::canonicalize(self.sys.join("dev/block").join(&number)) else {
            return refuse(format!("no entry {number} in /sys/dev/block"), "use an image file or --boot");
        };
        if folder.join("partition").exists() {
            let disk = folder.parent().map(name_of).unwrap_or_default();
            return refuse("one partition".to_owned(), &format!("name the whole disk, as /dev/{disk}"));
        }
        if !is_removable(&folder) {
            return refuse("a disk that is built in".to_owned(), "name a card or a stick; `lsblk` lists them");
        }
        for part in parts(&folder)
            .map_err(|source| ProvisionError::Io { doing: format!("looking at {}", folder.display()), source })?
        {
            let name = name_of(&part);
            let number = text(&part.join("dev"));
            if let Some(place) = self.mounted_at(&number, &name) {
                return refuse(format!("{name} mounted at {place}"), &format!("sudo umount {place}"));
            }
            if self.swaps.lines().any(|l| l.split_whitespace().next() == Some(&format!("/dev/{name}"))) {
                return refuse(format!("{name} in use as swap"), &format!("sudo swapoff /dev/{name}"));
            }
            let holder = fs::read_dir(part.join("holders")).ok().and_then(|mut h| h.next()).and_then(Result::ok);
            if let Some(holder) = holder {
                let found = format!("{name} in use by {}", holder.file_name().to_string_lossy());
                return refuse(found, "close that volume first; `lsblk` shows it");
            }
        }
        if consent == Consent::Missing {
            let sectors: u64 = text(&folder.join("size")).parse().unwrap_or(0);
            let model = text(&folder.join("device/model"));
            let found = format!("no --yes; it is {model:?} of {} MB", sectors.saturating_mul(512) / 1_000_000);
            return refuse(found, "add --yes if that is the one");
        }
        Ok(())
    }

    /// Returns where a disk or partition is mounted, by number and by name: some file systems go by another number.
    fn mounted_at(&self, number: &str, name: &str) -> Option<String> {
        self.mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ');
            let (found, place) = (left.nth(2)?, left.nth(1)?);
            let source = right.split(' ').nth(1)?;
            (found == number || source == format!("/dev/{name}")).then(|| place.to_owned())
        })
    }
}

/// Returns the folders of a disk and of its partitions.
fn parts(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut parts = vec![folder.to_owned()];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.join("partition").exists() {
            parts.push(path);
        }
    }
    Ok(parts)
}

/// Card readers on USB say so themselves; others are told by where they are. A soldered eMMC is of type MMC, a card of type SD.
fn is_removable(folder: &Path) -> bool {
    let on_usb = folder.components().any(|c| c.as_os_str().to_string_lossy().starts_with("usb"));
    text(&folder.join("removable")) == "1" || on_usb || text(&folder.join("device/type")) == "SD"
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the text of a file of sysfs; what is not there says nothing.
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
