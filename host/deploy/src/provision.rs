//! Provisioning: agent, unit, configuration and keys on the boot partition of a Raspberry Pi OS image or card.
//!
//! The boot partition is FAT, which every system can write; what must lie elsewhere is put there by the board itself at its
//! first boot (`scripts/first-boot.sh`, which runs `scripts/install-device.sh`). All is settled in memory before anything is
//! written, and `cmdline.txt`, which has the script run, is written last: a cut leaves the old one or the new one.

mod boot_files;
#[cfg(target_os = "linux")]
mod disk;
mod folder;
mod image;
mod layer;
mod sound;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use graft_bundle::PublicKey;
use graft_link::messages::is_name;
use serde::Serialize;
use sha2::{Digest, Sha256};

use folder::Folder;
use image::Image;

/// What a board is to become.
#[derive(Debug, Clone)]
pub struct Provision {
    /// `graftd`, built for the board.
    pub agent: Vec<u8>,
    /// Name of the device, 1 to 64 printable characters.
    pub name: String,
    /// Where hosts connect, as in `graftd.toml`.
    pub listen: String,
    /// Whose bundles are taken.
    pub keys: Vec<PublicKey>,
    /// A bundle for the factory slot.
    pub bundle: Option<Vec<u8>>,
    /// Where the board mounts its boot partition; none: as its image's `issue.txt` says.
    pub mounted_at: Option<String>,
}

/// What is provisioned.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// An image file, or a whole disk.
    Image(&'a Path, Consent),
    /// A mounted boot partition.
    Folder(&'a Path),
}

/// Whether the user has said that a disk may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// `--yes`.
    Given,
    /// Nothing was said.
    Missing,
}

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Write,
    /// It is only told, after all checks.
    DryRun,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProvisionReport {
    /// What the agent is built for: `aarch64` or `armv7`.
    pub machine: &'static str,
    /// The command that the first boot runs.
    pub first_boot: String,
    /// Every file that belongs there, in the order of writing.
    pub files: Vec<Laid>,
}

/// One file on the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Laid {
    /// Its path there.
    pub path: String,
    /// Its length.
    pub bytes: usize,
    /// Whether it had to be written.
    pub state: LaidState,
}

/// Whether a file had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LaidState {
    /// It differed or was not there.
    Written,
    /// It was right already.
    Unchanged,
}

/// Why a board cannot be provisioned. Nothing was changed, except where writing itself failed ([`ProvisionError::Io`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The system cannot read or write.
    #[error("{doing}")]
    Io {
        /// What we were doing, with the path.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something given is not what is needed.
    #[error("cannot use {what}: expected {expected}, found {found}; {remedy}")]
    Unusable {
        /// A path or a setting.
        what: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The FAT file system contradicts itself.
    #[error("cannot use the boot partition of {}: expected a sound FAT file system; check it with fsck.fat, or take a fresh image", path.display())]
    Damaged {
        /// The image or disk.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The partition is full.
    #[error("expected {needed} bytes free on the boot partition of {}, found {free}; delete what is not needed there, or leave --bundle out and flash it later", path.display())]
    NoRoom {
        /// The image or disk.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A disk must not be written.
    #[error("refused to write to {}: expected a whole disk that is removable and not in use, and --yes, found {found}; {remedy}", path.display())]
    Refused {
        /// The device.
        path: PathBuf,
        /// What speaks against it.
        found: String,
        /// What to do.
        remedy: String,
    },
}

/// Puts all that a board needs on its boot partition. A second time changes nothing that is right already.
///
/// # Errors
///
/// [`ProvisionError`].
pub fn provision(what: &Provision, target: Target<'_>, mode: Mode) -> Result<ProvisionReport, ProvisionError> {
    let machine = machine_of(&what.agent)?;
    let toml = configuration(what)?;
    match target {
        Target::Folder(path) => lay_down(what, &toml, machine, &mut Folder::open(path)?, mode),
        Target::Image(path, consent) => {
            let disk = open_image(path, consent, mode)?;
            lay_down(what, &toml, machine, &mut Image::open(path, disk)?, mode)
        }
    }
}

/// Returns what an agent is built for.
///
/// # Errors
///
/// [`ProvisionError::Unusable`] where it is no program for a Raspberry Pi.
///
/// # Source
///
/// ELF: class at byte 4, byte order at 5, machine at 18.
pub fn machine_of(agent: &[u8]) -> Result<&'static str, ProvisionError> {
    let wrong = |found: String| ProvisionError::Unusable {
        what: "the agent".to_owned(),
        expected: "graftd built for aarch64 or armv7 (an ELF file)",
        found,
        remedy: "build it with: cargo build --profile device -p graft-agent --target aarch64-unknown-linux-gnu"
            .to_owned(),
    };
    let Some(head) = agent.first_chunk::<20>() else { return Err(wrong(format!("{} bytes", agent.len()))) };
    if !head.starts_with(b"\x7fELF") {
        return Err(wrong("other bytes".to_owned()));
    }
    match (head[4], head[5], u16::from_le_bytes([head[18], head[19]])) {
        (2, 1, 183) => Ok("aarch64"),
        (1, 1, 40) => Ok("armv7"),
        (2, 1, 62) => Err(wrong("one for x86-64".to_owned())),
        (_, _, other) => Err(wrong(format!("one for ELF machine {other}"))),
    }
}

/// One file to be laid down.
struct Entry {
    path: String,
    bytes: Vec<u8>,
    /// Whether the old content is kept as the beginning of the new one, but for spaces: the board starts from it.
    is_grown: bool,
}

/// Files that are written before those of the next stage.
type Stage<'a> = Vec<&'a Entry>;

/// A boot partition: a folder, or inside an image.
trait Boot {
    /// Reads a small file; none where it is not there.
    fn read(&mut self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, ProvisionError>;
    /// Tells whether a file has just these bytes.
    fn holds(&mut self, entry: &Entry) -> Result<bool, ProvisionError>;
    /// Writes the stages one after the other, or finds out whether it could.
    fn lay(&mut self, stages: &[Stage<'_>], mode: Mode) -> Result<(), ProvisionError>;
}

fn lay_down(
    what: &Provision,
    toml: &str,
    machine: &'static str,
    boot: &mut dyn Boot,
    mode: Mode,
) -> Result<ProvisionReport, ProvisionError> {
    let text = |boot: &mut dyn Boot, name: &str| -> Result<Option<String>, ProvisionError> {
        let Some(bytes) = boot.read(name, MAX_TEXT_LEN)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| ProvisionError::Unusable {
            what: name.to_owned(),
            expected: "text in UTF-8",
            found: "other bytes".to_owned(),
            remedy: "take a fresh image".to_owned(),
        })
    };
    let cmdline = text(boot, CMDLINE)?.filter(|t| !t.trim().is_empty()).ok_or_else(|| ProvisionError::Unusable {
        what: "the boot partition".to_owned(),
        expected: "a file cmdline.txt, as Raspberry Pi OS has",
        found: "none, or an empty one".to_owned(),
        remedy: "use an image of Raspberry Pi OS, or the folder where its boot partition is mounted".to_owned(),
    })?;
    let mounted_at = match &what.mounted_at {
        Some(path) => boot_files::checked_mount(path)?,
        None => boot_files::mount_of(text(boot, "issue.txt")?.as_deref().unwrap_or_default()),
    };
    let first_boot = format!("{mounted_at}/{FOLDER}/first-boot.sh");

    let mut entries = files(what, toml);
    if what.listen.starts_with("/dev/") {
        let config = text(boot, CONFIG)?.unwrap_or_default();
        entries.push(grown(CONFIG, boot_files::with_uart(&config)));
    }
    entries.push(grown(CMDLINE, boot_files::with_hook(&cmdline, &first_boot)));

    let mut laid = Vec::new();
    let mut stages: Vec<Stage<'_>> = Vec::new();
    for entry in &entries {
        let state = if boot.holds(entry)? { LaidState::Unchanged } else { LaidState::Written };
        laid.push(Laid { path: entry.path.clone(), bytes: entry.bytes.len(), state });
        if state == LaidState::Unchanged {
            continue;
        }
        match stages.last_mut() {
            // The folder is one stage; what the board starts from comes after it, one file at a time.
            Some(stage) if !entry.is_grown => stage.push(entry),
            _ => stages.push(vec![entry]),
        }
    }
    if !stages.is_empty() {
        boot.lay(&stages, mode)?;
    }
    Ok(ProvisionReport { machine, first_boot, files: laid })
}

/// Returns the files of graft's own folder. The list of digests is for the first boot.
fn files(what: &Provision, toml: &str) -> Vec<Entry> {
    let mut files = vec![
        ("graftd", what.agent.clone()),
        ("graftd.toml", toml.as_bytes().to_vec()),
        ("graftd.service", SERVICE.as_bytes().to_vec()),
        ("install-device.sh", INSTALL.as_bytes().to_vec()),
        ("first-boot.sh", FIRST_BOOT.as_bytes().to_vec()),
    ];
    if let Some(bundle) = &what.bundle {
        files.push(("bundle.graft", bundle.clone()));
    }
    let mut sums = String::new();
    for (name, bytes) in &files {
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        sums.push_str(&format!("{digest}  {name}\n"));
    }
    files.push(("SHA256SUMS", sums.into_bytes()));
    let entry = |(name, bytes)| Entry { path: format!("{FOLDER}/{name}"), bytes, is_grown: false };
    files.into_iter().map(entry).collect()
}

fn grown(path: &str, text: String) -> Entry {
    Entry { path: path.to_owned(), bytes: text.into_bytes(), is_grown: true }
}

/// Returns the text of `graftd.toml`.
fn configuration(what: &Provision) -> Result<String, ProvisionError> {
    let wrong = |what: &str, expected, found: &str| {
        Err(ProvisionError::Unusable {
            what: what.to_owned(),
            expected,
            found: format!("{found:?}"),
            remedy: "give another one".to_owned(),
        })
    };
    let name = &what.name;
    if !is_name(name) {
        return wrong("the name", "1 to 64 printable characters", name);
    }
    let listen = &what.listen;
    let is_line = ["/dev/", "tcp://", "unix:"].iter().any(|p| listen.len() > p.len() && listen.starts_with(p));
    if !is_line || listen.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return wrong("the line to listen on", "/dev/NAME, /dev/NAME?baud=N, tcp://HOST:PORT or unix:PATH", listen);
    }
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    let keys: Vec<String> = what.keys.iter().map(|k| format!("\"{k}\"")).collect();
    Ok(format!(
        "# Configuration of graftd; every key is in docs/architecture.md. Paths are relative to this folder.\n\
         name = \"{name}\"\nroot = \"/var/lib/graft\"\nlisten = [\"{listen}\"]\ntrusted_keys = [{}]\ndisplay = \"none\"\n",
        keys.join(", ")
    ))
}

/// Opens an image file; a disk only after all checks.
fn open_image(path: &Path, consent: Consent, mode: Mode) -> Result<File, ProvisionError> {
    let io = |source| ProvisionError::Io { doing: format!("opening {}; a disk needs sudo", path.display()), source };
    let meta = fs::metadata(path).map_err(io)?;
    let mut options = OpenOptions::new();
    options.read(true).write(mode == Mode::Write);
    if meta.is_file() {
        return options.open(path).map_err(io);
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
        if meta.file_type().is_block_device() {
            let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            // Looking changes nothing, so it needs no consent.
            let consent = if mode == Mode::DryRun { Consent::Given } else { consent };
            disk::System::open()?.check(path, number, consent)?;
            // The kernel refuses this where somebody has mounted it meanwhile, and lets nobody mount it afterwards.
            if let Ok(exclusive) = i32::try_from(rustix::fs::OFlags::EXCL.bits()) {
                options.custom_flags(exclusive);
            }
            return options.open(path).map_err(io);
        }
    }
    let _ = consent;
    let found = if meta.is_dir() { "a folder" } else { "a device" };
    let remedy = "for a mounted boot partition use --boot DIR".to_owned();
    let expected = "an image file, or on Linux a disk";
    Err(ProvisionError::Unusable { what: path.display().to_string(), expected, found: found.to_owned(), remedy })
}

fn too_long(name: &str, limit: usize, found: u64) -> ProvisionError {
    ProvisionError::Unusable {
        what: name.to_owned(),
        expected: "a short text",
        found: format!("{found} bytes or more, where {limit} are allowed"),
        remedy: "take a fresh image".to_owned(),
    }
}

const FOLDER: &str = "graft";
const CMDLINE: &str = "cmdline.txt";
const CONFIG: &str = "config.txt";
/// Longest text file of a boot partition that is looked into.
const MAX_TEXT_LEN: usize = 64 << 10;
const SERVICE: &str = include_str!("../../../scripts/graftd.service");
const INSTALL: &str = include_str!("../../../scripts/install-device.sh");
const FIRST_BOOT: &str = include_str!("../../../scripts/first-boot.sh");
