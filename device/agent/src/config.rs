//! The daemon's configuration: a TOML file, read once and resolved at the edge.
//!
//! An unknown key is an error: a misspelt setting that is silently ignored leaves a device that does something
//! else than its owner wrote. Every error names the file's line. Paths are relative to the file's folder.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use graft_camera::Spec as Source;
use graft_link::messages::is_name;
use serde::Deserialize;
use toml::Spanned;

use crate::slots::Confirm;

/// Resolved settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the device, told to every host.
    pub name: String,
    /// Folder for slots and predictions.
    pub root: PathBuf,
    /// Where hosts may connect.
    pub listen: Vec<Listen>,
    /// Public keys whose bundles are taken, as text.
    pub trusted_keys: Vec<String>,
    /// Public keys of the hosts that may do more than read status, as text; none: all may.
    pub trusted_hosts: Vec<String>,
    /// Whether bundles without a signature are taken.
    pub unsigned: Unsigned,
    /// What is shown where, as text: `none`, `png:PATH` or `fb:PATH`.
    pub display: String,
    /// When a bundle on trial becomes permanent.
    pub confirm: Confirm,
    /// Answers with a probability below this are unsure, 0 to 1, whatever the bundle says; none: the bundle says.
    pub unsure_below: Option<f32>,
    /// Largest bundle taken, in bytes on disk.
    pub max_bundle_bytes: u64,
    /// Most bytes kept for predictions and their pictures.
    pub max_store_bytes: u64,
    /// Whether classified pictures are kept with their predictions.
    pub pictures: Pictures,
    /// Most pictures that are kept in an hour; none: all.
    pub pictures_per_hour: Option<u32>,
    /// Where pictures come from besides hosts.
    pub source: Option<Source>,
    /// Most pictures of a camera in a minute; none: all.
    pub frames_per_minute: Option<u32>,
    /// Pictures of a camera that are left out after it was opened.
    pub warm_up: u32,
    /// Pictures in a row of one plant of which the answer is the mean.
    pub vote: u32,
    /// Longest time between two of them.
    pub vote_gap: Duration,
    /// Where metrics are written for the node_exporter.
    pub metrics: Option<PathBuf>,
}

/// Whether bundles without a signature are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// They are refused.
    Refuse,
    /// They are taken, for a bench.
    Allow,
}

/// Who makes a bundle on trial permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Commit {
    /// The device, after some pictures.
    Auto,
    /// A host.
    Manual,
}

/// Whether classified pictures are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pictures {
    /// Only the prediction is kept.
    Drop,
    /// The picture is kept as it came where the answer is unsure or the picture unfamiliar.
    Unsure,
    /// The picture is kept as it came.
    Keep,
}

/// One place where hosts may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A serial port.
    Serial {
        /// The port.
        path: PathBuf,
        /// Bits a second.
        baud: u32,
    },
    /// A TCP address such as `0.0.0.0:7878`.
    Tcp(String),
    /// A new pseudo-terminal with a link to it at this path, for tests and demonstrations.
    Pty(PathBuf),
    /// A socket of the board itself, at this path.
    Unix(PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; name another one with --config", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is no TOML, or a key is unknown, missing or of another type.
    #[error("cannot use the configuration {}, line {line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What was expected and found.
        message: String,
    },
    /// A value is out of its range.
    #[error("cannot use the configuration {}, line {line}: expected {expected} for {key}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    root: PathBuf,
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    #[serde(default)]
    trusted_keys: Vec<Spanned<String>>,
    #[serde(default)]
    trusted_hosts: Vec<String>,
    #[serde(default)]
    allow_unsigned: bool,
    display: Option<Spanned<String>>,
    commit: Option<Commit>,
    confirm_after: Option<Spanned<u32>>,
    unsure_below: Option<Spanned<f32>>,
    max_bundle_mb: Option<Spanned<u64>>,
    max_store_mb: Option<Spanned<u64>>,
    pictures: Option<Pictures>,
    pictures_per_hour: Option<Spanned<u32>>,
    source: Option<Spanned<String>>,
    frames_per_minute: Option<Spanned<u32>>,
    warm_up: Option<Spanned<u32>>,
    vote: Option<Spanned<u32>>,
    vote_seconds: Option<Spanned<u32>>,
    metrics: Option<PathBuf>,
}

impl Config {
    /// Reads a configuration file of at most [`MAX_CONFIG_LEN`] bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the line.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        let io = |source| ConfigError::Io { path: path.to_owned(), source };
        let len = std::fs::metadata(path).map_err(io)?.len();
        if len > MAX_CONFIG_LEN {
            let message = format!("expected at most {MAX_CONFIG_LEN} bytes, found {len}");
            return Err(ConfigError::Parse { path: path.to_owned(), line: 1, message });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// Reads a configuration from its text; `path` is for messages and relative paths.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Parse`] or [`ConfigError::Value`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            line: line_of(text, e.span().map_or(0, |s| s.start)),
            message: e.message().to_owned(),
        })?;
        let value = |at: usize, key, expected, found: String| ConfigError::Value {
            path: path.to_owned(),
            line: line_of(text, at),
            key,
            expected,
            found,
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = raw.name.get_ref();
        if !is_name(name) {
            let expected = "1 to 64 printable characters";
            return Err(value(raw.name.span().start, "name", expected, format!("{name:?}")));
        }
        let mut listen = Vec::new();
        for address in &raw.listen {
            let parsed: Listen = address.get_ref().parse().map_err(|()| {
                value(address.span().start, "listen", LISTEN_FORMS, format!("{:?}", address.get_ref()))
            })?;
            listen.push(parsed.below(folder));
        }
        let megabytes = |entry: Option<Spanned<u64>>, key, default: u64| match entry {
            None => Ok(default * MEGABYTE),
            Some(v) => match v.get_ref() {
                mb @ 1..=1_000_000 => Ok(mb * MEGABYTE),
                other => Err(value(v.span().start, key, "1 to 1000000", other.to_string())),
            },
        };
        let unsure_below = match raw.unsure_below {
            None => None,
            Some(v) if (0.0..=1.0).contains(v.get_ref()) => Some(*v.get_ref()),
            Some(v) => {
                let found = v.get_ref().to_string();
                return Err(value(v.span().start, "unsure_below", "0 to 1", found));
            }
        };
        let pictures = raw.pictures.unwrap_or(Pictures::Drop);
        let pictures_per_hour = match raw.pictures_per_hour {
            None => (pictures == Pictures::Unsure).then_some(DEFAULT_PER_HOUR),
            Some(v) if (1..=MAX_PER_HOUR).contains(v.get_ref()) => Some(*v.get_ref()),
            Some(v) => {
                return Err(value(v.span().start, "pictures_per_hour", "1 to 100000", v.get_ref().to_string()));
            }
        };
        let source =
            match &raw.source {
                None => None,
                Some(text) => Some(text.get_ref().parse::<Source>().map(|s| s.below(folder)).map_err(|()| {
                    value(text.span().start, "source", Source::FORMS, format!("{:?}", text.get_ref()))
                })?),
            };
        let within = |entry: Option<Spanned<u32>>, key, range: RangeInclusive<u32>, expected| match entry {
            None => Ok(None),
            Some(v) if range.contains(v.get_ref()) => Ok(Some(v.into_inner())),
            Some(v) => Err(value(v.span().start, key, expected, v.get_ref().to_string())),
        };
        let frames_per_minute = within(raw.frames_per_minute, "frames_per_minute", 1..=6000, "1 to 6000")?;
        let warm_up = within(raw.warm_up, "warm_up", 0..=1000, "0 to 1000")?;
        let vote = within(raw.vote, "vote", 1..=100, "1 to 100")?;
        let vote_seconds = within(raw.vote_seconds, "vote_seconds", 1..=3600, "1 to 3600")?;
        let confirm = match (raw.commit.unwrap_or(Commit::Auto), raw.confirm_after) {
            (Commit::Auto, None) => Confirm::After(DEFAULT_CONFIRM_AFTER),
            (Commit::Auto, Some(v)) if *v.get_ref() <= MAX_CONFIRM_AFTER => Confirm::After(*v.get_ref()),
            (Commit::Auto, Some(v)) => {
                return Err(value(v.span().start, "confirm_after", "0 to 1000", v.get_ref().to_string()));
            }
            (Commit::Manual, None) => Confirm::ByHand,
            (Commit::Manual, Some(v)) => {
                let expected = "none besides commit = \"manual\"";
                return Err(value(v.span().start, "confirm_after", expected, v.get_ref().to_string()));
            }
        };
        Ok(Self {
            name: name.clone(),
            root: folder.join(raw.root),
            listen,
            trusted_keys: raw.trusted_keys.into_iter().map(Spanned::into_inner).collect(),
            trusted_hosts: raw.trusted_hosts,
            unsigned: if raw.allow_unsigned { Unsigned::Allow } else { Unsigned::Refuse },
            display: raw.display.map_or_else(|| "none".to_owned(), Spanned::into_inner),
            confirm,
            unsure_below,
            max_bundle_bytes: megabytes(raw.max_bundle_mb, "max_bundle_mb", DEFAULT_BUNDLE_MB)?,
            max_store_bytes: megabytes(raw.max_store_mb, "max_store_mb", DEFAULT_STORE_MB)?,
            pictures,
            pictures_per_hour,
            source,
            frames_per_minute,
            warm_up: warm_up.unwrap_or(DEFAULT_WARM_UP),
            vote: vote.unwrap_or(1),
            vote_gap: Duration::from_secs(vote_seconds.unwrap_or(DEFAULT_VOTE_SECONDS).into()),
            metrics: raw.metrics.map(|path| folder.join(path)),
        })
    }
}

impl FromStr for Listen {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(address) = text.strip_prefix("tcp://") {
            let (host, port) = address.rsplit_once(':').ok_or(())?;
            port.parse::<u16>().map_err(|_| ())?;
            return if host.is_empty() { Err(()) } else { Ok(Self::Tcp(address.to_owned())) };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(()) } else { Ok(Self::Unix(path.into())) };
        }
        if let Some(path) = text.strip_prefix("pty:") {
            return if path.is_empty() { Err(()) } else { Ok(Self::Pty(path.into())) };
        }
        let (path, baud) = match text.split_once('?') {
            None => (text, DEFAULT_BAUD),
            Some((path, query)) => {
                let baud = query.strip_prefix("baud=").ok_or(())?.parse().map_err(|_| ())?;
                (path, baud)
            }
        };
        if !path.starts_with('/') || baud < 300 {
            return Err(());
        }
        Ok(Self::Serial { path: path.into(), baud })
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial { path, baud } => write!(f, "{}?baud={baud}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Pty(path) => write!(f, "pty:{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    fn below(self, folder: &Path) -> Self {
        match self {
            Self::Pty(path) => Self::Pty(folder.join(path)),
            Self::Unix(path) => Self::Unix(folder.join(path)),
            other => other,
        }
    }
}

/// Returns the line, from 1, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// Longest configuration file, in bytes.
pub const MAX_CONFIG_LEN: u64 = 64 << 10;
const MEGABYTE: u64 = 1_000_000;
const DEFAULT_BUNDLE_MB: u64 = 256;
const DEFAULT_STORE_MB: u64 = 200;
const DEFAULT_CONFIRM_AFTER: u32 = 3;
const MAX_CONFIRM_AFTER: u32 = 1000;
/// Wears a card little, and is more than a person labels.
const DEFAULT_PER_HOUR: u32 = 60;
const MAX_PER_HOUR: u32 = 100_000;
/// A camera's exposure has settled by then.
const DEFAULT_WARM_UP: u32 = 10;
const DEFAULT_VOTE_SECONDS: u32 = 10;
const DEFAULT_BAUD: u32 = 115_200;
const LISTEN_FORMS: &str = "/dev/NAME, /dev/NAME?baud=N, tcp://HOST:PORT, unix:PATH or pty:PATH";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/graft/graftd.toml"))
    }

    #[test]
    fn two_keys_are_enough_and_the_rest_is_safe() {
        let found = parse("name = \"bench\"\nroot = \"data\"\n").unwrap();
        assert_eq!(found.root, Path::new("/etc/graft/data"));
        assert_eq!((found.unsigned, found.confirm), (Unsigned::Refuse, Confirm::After(3)));
        assert!(found.listen.is_empty() && found.trusted_keys.is_empty());
        assert_eq!((found.display.as_str(), found.pictures), ("none", Pictures::Drop));
        assert_eq!(found.max_bundle_bytes, 256_000_000);
        assert_eq!((found.unsure_below, found.pictures_per_hour), (None, None));
        let unsure = parse("name = \"bench\"\nroot = \"data\"\npictures = \"unsure\"\n").unwrap();
        assert_eq!((unsure.pictures, unsure.pictures_per_hour), (Pictures::Unsure, Some(60)));
        assert_eq!((&found.source, found.frames_per_minute, &found.metrics), (&None, None, &None));
        assert_eq!((found.warm_up, found.vote, found.vote_gap), (10, 1, Duration::from_secs(10)));
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            name = "greenhouse 3"
            root = "/var/lib/graft"
            listen = ["/dev/ttyS0?baud=57600", "/dev/ttyUSB0", "tcp://[::]:7878", "pty:port"]
            trusted_keys = ["graft-ed25519:00"]
            allow_unsigned = true
            display = "png:screen.png"
            commit = "manual"
            unsure_below = 0.25
            max_bundle_mb = 3
            max_store_mb = 4
            pictures = "keep"
            pictures_per_hour = 7
            source = "watch:in"
            frames_per_minute = 30
            warm_up = 0
            vote = 5
            vote_seconds = 2
            metrics = "graft.prom"
        "#;
        let found = parse(text).unwrap();
        let listen: Vec<String> = found.listen.iter().map(ToString::to_string).collect();
        let expected = ["/dev/ttyS0?baud=57600", "/dev/ttyUSB0?baud=115200", "tcp://[::]:7878", "pty:/etc/graft/port"];
        assert_eq!(listen, expected);
        assert_eq!(found.root, Path::new("/var/lib/graft"));
        assert_eq!(found.trusted_keys, ["graft-ed25519:00"]);
        assert_eq!((found.unsigned, found.confirm), (Unsigned::Allow, Confirm::ByHand));
        assert_eq!((found.unsure_below, found.pictures), (Some(0.25), Pictures::Keep));
        assert_eq!(found.pictures_per_hour, Some(7));
        assert_eq!(found.source, Some(Source::Watch("/etc/graft/in".into())));
        assert_eq!((found.frames_per_minute, found.warm_up), (Some(30), 0));
        assert_eq!((found.vote, found.vote_gap), (5, Duration::from_secs(2)));
        assert_eq!(found.metrics.as_deref(), Some(Path::new("/etc/graft/graft.prom")));
        assert_eq!((found.max_bundle_bytes, found.max_store_bytes), (3_000_000, 4_000_000));
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let base = "name = \"x\"\nroot = \"r\"\n";
        let cases = [
            ("", "line 1", "name"),
            ("name = 3\nroot = \"r\"", "line 1", "string"),
            ("name = \"\"\nroot = \"r\"", "line 1", "1 to 64"),
            ("lisen = []", "line 3", "lisen"),
            ("commit = \"never\"", "line 3", "never"),
            ("confirm_after = 1001", "line 3", "0 to 1000"),
            ("commit = \"manual\"\nconfirm_after = 3", "line 4", "manual"),
            ("\nlisten = [\n\"tcp://:1\"]", "line 5", "tcp://HOST:PORT"),
            ("listen = [\"tcp://h:99999\"]", "line 3", "h:99999"),
            ("listen = [\"/dev/x?speed=3\"]", "line 3", "baud=N"),
            ("listen = [\"COM1\"]", "line 3", "COM1"),
            ("unsure_below = 1.5", "line 3", "1.5"),
            ("unsure_below = nan", "line 3", "NaN"),
            ("pictures_per_hour = 0", "line 3", "1 to 100000"),
            ("source = \"webcam\"", "line 3", "v4l:/dev/videoN"),
            ("source = \"v4l:video0\"", "line 3", "v4l:video0"),
            ("frames_per_minute = 0", "line 3", "1 to 6000"),
            ("warm_up = 1001", "line 3", "0 to 1000"),
            ("vote = 0", "line 3", "1 to 100"),
            ("vote_seconds = 0", "line 3", "1 to 3600"),
            ("max_store_mb = 0", "line 3", "max_store_mb"),
            ("max_store_mb = -1", "line 3", "-1"),
            ("name =", "line 3", ""),
        ];
        for (text, line, word) in cases {
            let whole =
                if text.is_empty() || text.contains("root") { text.to_owned() } else { format!("{base}{text}") };
            let error = parse(&whole).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(word), "{whole}: {error}");
            assert!(error.contains("graftd.toml"), "{error}");
        }
    }

    #[test]
    fn open_names_a_missing_file_and_refuses_a_long_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("graftd.toml");
        assert!(Config::open(&path).unwrap_err().to_string().contains("--config"));
        std::fs::write(&path, " ".repeat(70_000)).unwrap();
        assert!(Config::open(&path).unwrap_err().to_string().contains("found 70000"));
    }
}
