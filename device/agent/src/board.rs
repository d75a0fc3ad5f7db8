//! What the device runs on, and its name.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use graft_link::messages;

use crate::disk::{Disk, Folder};
use crate::health::kilobytes;

/// Returns the board as its firmware names it, such as `Raspberry Pi 4 Model B Rev 1.4`; empty where it does not.
pub fn name() -> String {
    let files = ["/proc/device-tree/model", "/sys/class/dmi/id/product_name"];
    files.into_iter().find_map(|file| line_of(Path::new(file))).unwrap_or_default()
}

/// Returns the memory that the system has, in bytes.
pub fn memory_bytes() -> Option<u64> {
    kilobytes(Path::new(MEMINFO), "MemTotal:")
}

/// Returns the memory that programs may still take, in bytes.
pub fn available_bytes() -> Option<u64> {
    kilobytes(Path::new(MEMINFO), "MemAvailable:")
}

/// Returns the system, such as `Debian GNU/Linux 12 (bookworm)`.
pub fn system() -> String {
    let text = read(Path::new("/etc/os-release")).unwrap_or_default();
    let pretty = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| std::env::consts::OS.to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Returns the name that a host gave the device.
pub fn given_name(root: &Path) -> Option<String> {
    line_of(&root.join(NAME)).filter(|name| is_name(name))
}

/// Keeps a name over restarts.
///
/// # Errors
///
/// The system's.
pub fn give_name(root: &Path, name: &str) -> io::Result<()> {
    Disk::new(Folder::open(root)?).write(NAME, name.as_bytes())
}

/// Whether a text is a name that a host may give: one that can be seen.
pub fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && messages::is_name(name)
}

const MEMINFO: &str = "/proc/meminfo";
const NAME: &str = "name";
/// No such file is longer.
const MOST: u64 = 4096;

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn line_of(path: &Path) -> Option<String> {
    let text = read(path)?;
    let line = text.trim_matches(['\0', '\n', ' ']);
    (!line.is_empty()).then(|| line.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_name_lasts_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(given_name(dir.path()), None);
        give_name(dir.path(), "field 7").unwrap();
        give_name(dir.path(), "field 8").unwrap();
        assert_eq!(given_name(dir.path()).as_deref(), Some("field 8"));
        fs::write(dir.path().join(NAME), [b'x'; 100]).unwrap();
        assert_eq!(given_name(dir.path()), None);
        assert!(!is_name("") && !is_name(" ") && !is_name("a\nb") && is_name("Köln"));
    }
}
