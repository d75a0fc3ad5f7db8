//! Where pictures come from: cameras, programs, folders.
//!
//! A [`Source`] gives one picture after another and does nothing with them: no decoding of JPEG or PNG, no rates, no second
//! attempts. Those are the daemon's, for all sources alike. A crate of its own, since cameras are Linux's alone.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

mod ledger;
mod pipe;
mod pixels;
mod process;
mod replay;
mod splitter;
mod tables;
mod v4l;
mod watch;

pub use replay::{Replay, Step};
pub use splitter::{MAX_FRAME, Splitter};

// Checkouts that share a target folder each have this crate built for them: `.cargo/config.toml`.
const _: Option<&str> = option_env!("GRAFT_CHECKOUT");

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Counts up by one with each picture of this source.
    pub number: u64,
    /// The file's name, or the camera's.
    pub name: String,
    /// What is to be seen.
    pub picture: Picture,
    /// Whether it can wait.
    pub pace: Pace,
    /// How much later than the one before it was taken, where that is not what a clock shows: replays run ahead of it.
    pub ahead: Duration,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// The bytes of a file, JPEG or PNG.
    File(Vec<u8>),
    /// `u8 [height, width, 3]`, RGB.
    Pixels {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Three bytes for each.
        rgb: Vec<u8>,
    },
    /// There is one, and it cannot be read; why.
    Unreadable(String),
}

/// Whether a picture waits until there is time for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It lies there.
    Waits,
    /// The next one is more to the point.
    Passes,
}

/// What a source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A picture.
    Frame(Frame),
    /// Nothing so far.
    Nothing,
    /// Nothing ever again.
    End,
}

/// Something that gives pictures.
pub trait Source: Send {
    /// Returns the next picture, for which it waits no longer than `patience`.
    ///
    /// # Errors
    ///
    /// [`SourceError`]; the source is to be opened again.
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError>;

    /// Hears which pictures need not be given again after a restart.
    ///
    /// # Errors
    ///
    /// The system's; they may be given again.
    fn settle(&mut self, _numbers: &[u64]) -> io::Result<()> {
        Ok(())
    }
}

/// Why a source gives no pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The folder cannot be read.
    #[error("cannot read the folder {}: {source}; is it there, and may the daemon read it?", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The camera does not open.
    #[error("cannot open the camera {}: {source}; is it plugged in, and is the user in group video?", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The camera has no format that is read.
    #[error(
        "expected a camera that gives MJPEG, YUYV or RGB, found {found} from {}; where the board has one, name its program: \
         source = \"exec:rpicam-vid -t 0 --codec mjpeg -o -\"", path.display()
    )]
    Format {
        /// The device.
        path: PathBuf,
        /// What it gives.
        found: String,
    },
    /// The camera is gone.
    #[error("the camera {} gives no more pictures: {source}; is it still plugged in?", path.display())]
    Camera {
        /// The device.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program does not start, or has ended.
    #[error("expected {command:?} to give pictures, found that it {found}")]
    Program {
        /// The command.
        command: String,
        /// What became of it.
        found: String,
    },
    /// The stream cannot be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// A replay or a test says so.
    #[error("{0}")]
    Said(String),
}

/// Which source there is, as text in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// New pictures in a folder.
    Watch(PathBuf),
    /// A stream of JPEG files on standard input.
    Stdin,
    /// The like from a program, which is started again when it ends.
    Exec(String),
    /// A camera, and the size that is asked of it.
    V4l {
        /// Such as `/dev/video0`.
        path: PathBuf,
        /// Pixels across and down.
        size: (u32, u32),
    },
    /// The pictures of a folder over and over, as fast as they are taken, as if they were spread over some hours.
    Replay {
        /// The folder.
        folder: PathBuf,
        /// So many in all.
        frames: u64,
        /// Over so many hours.
        hours: u32,
    },
}

/// What a source needs besides.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The file in which it remembers over restarts what it gave.
    pub memory: &'a Path,
    /// Says whether these are the bytes of a whole file, and not of one that is still being written.
    pub is_whole: fn(&[u8]) -> bool,
}

/// What is asked of a camera where nothing is said.
const SIZE: (u32, u32) = (1280, 720);
/// A camera that gives nothing for so long has locked up.
const SILENCE: Duration = Duration::from_secs(10);
/// Most pictures of a replay, and most hours.
const MAX_REPLAY: (u64, u32) = (100_000_000, 24 * 366);

impl Spec {
    /// What the configuration may say.
    pub const FORMS: &str = "watch:FOLDER, stdin, exec:COMMAND, v4l:/dev/videoN or v4l:/dev/videoN?size=1280x720";

    /// Makes paths ones below a folder.
    #[must_use]
    pub fn below(self, folder: &Path) -> Self {
        match self {
            Self::Watch(path) => Self::Watch(folder.join(path)),
            Self::Replay { folder: path, frames, hours } => Self::Replay { folder: folder.join(path), frames, hours },
            other => other,
        }
    }

    /// Opens the source.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn open(&self, setting: Setting<'_>) -> Result<Box<dyn Source>, SourceError> {
        Ok(match self {
            Self::Watch(folder) => Box::new(watch::Watch::open(folder, setting)?),
            Self::Stdin => Box::new(process::Stdin::default()),
            Self::Exec(command) => Box::new(process::Program::start(command)?),
            Self::V4l { path, size } => Box::new(v4l::Camera::open(path, *size)?),
            Self::Replay { folder, frames, hours } => Box::new(replay::Rerun::open(folder, *frames, *hours)?),
        })
    }

    /// Returns how long a source may be silent before it is to be opened again; none where silence is nothing unusual.
    pub fn silence(&self) -> Option<Duration> {
        matches!(self, Self::Exec(_) | Self::V4l { .. }).then_some(SILENCE)
    }

    /// Whether what it gives is a camera's, of which pictures may be left out.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Stdin | Self::Exec(_) | Self::V4l { .. })
    }
}

impl FromStr for Spec {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let filled = |rest: &str| if rest.trim().is_empty() { Err(()) } else { Ok(rest.to_owned()) };
        if text == "stdin" {
            return Ok(Self::Stdin);
        }
        if let Some(folder) = text.strip_prefix("watch:") {
            return Ok(Self::Watch(filled(folder)?.into()));
        }
        if let Some(command) = text.strip_prefix("exec:") {
            return Ok(Self::Exec(filled(command)?));
        }
        if let Some(rest) = text.strip_prefix("replay:") {
            let (folder, query) = rest.split_once("?frames=").ok_or(())?;
            let (frames, hours) = query.split_once("&hours=").unwrap_or((query, "24"));
            let (frames, hours) = (frames.parse().map_err(|_| ())?, hours.parse().map_err(|_| ())?);
            let is_right = (1..=MAX_REPLAY.0).contains(&frames) && (1..=MAX_REPLAY.1).contains(&hours);
            return if is_right { Ok(Self::Replay { folder: filled(folder)?.into(), frames, hours }) } else { Err(()) };
        }
        let rest = text.strip_prefix("v4l:").ok_or(())?;
        let (path, size) = match rest.split_once("?size=") {
            None => (rest, SIZE),
            Some((path, size)) => {
                let (width, height) = size.split_once('x').ok_or(())?;
                (path, (width.parse().map_err(|_| ())?, height.parse().map_err(|_| ())?))
            }
        };
        let is_right = path.starts_with('/') && (8..=8192).contains(&size.0) && (8..=8192).contains(&size.1);
        if is_right { Ok(Self::V4l { path: path.into(), size }) } else { Err(()) }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watch(path) => write!(f, "watch:{}", path.display()),
            Self::Stdin => f.write_str("stdin"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::V4l { path, size: (width, height) } => write!(f, "v4l:{}?size={width}x{height}", path.display()),
            Self::Replay { folder, frames, hours } => {
                write!(f, "replay:{}?frames={frames}&hours={hours}", folder.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read_and_written_and_strangers_refused() {
        for text in [
            "watch:/srv/leaves",
            "stdin",
            "exec:rpicam-vid -t 0 --codec mjpeg -o -",
            "v4l:/dev/video0?size=640x480",
            "replay:/srv/leaves?frames=50000&hours=24",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        assert_eq!("v4l:/dev/video1".parse::<Spec>().unwrap().to_string(), "v4l:/dev/video1?size=1280x720");
        assert_eq!("watch:in".parse::<Spec>().unwrap().below(Path::new("/etc")).to_string(), "watch:/etc/in");
        for text in [
            "",
            "camera",
            "watch:",
            "exec: ",
            "v4l:video0",
            "v4l:/dev/video0?size=640",
            "v4l:/dev/video0?size=0x480",
            "v4l:/dev/video0?size=640x99999",
            "replay:x",
            "replay:x?frames=0",
            "replay:?frames=1",
            "replay:x?frames=1&hours=0",
        ] {
            assert!(text.parse::<Spec>().is_err(), "{text}");
        }
    }
}
