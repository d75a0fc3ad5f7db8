//! Why a picture cannot be mapped.

use std::io;

/// Why a picture cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TilesError {
    /// The file cannot be read.
    #[error("reading the picture")]
    Read(#[from] io::Error),
    /// A file cannot be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A picture of a kind that is not taken.
    #[error("expected {expected}, found {found}; {remedy}")]
    Kind {
        /// What is taken.
        expected: &'static str,
        /// What the file is.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The structure or the data is damaged.
    #[error("expected a sound {format} file, found a damaged one ({reason}); copy it again")]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The data ends before the last row.
    #[error("expected {rows} rows in the {format} file, found its end after {found}; copy it again")]
    Truncated {
        /// Name of the format.
        format: &'static str,
        /// Rows by the header.
        rows: u32,
        /// Rows that are there.
        found: u32,
    },
    /// A picture, or what was asked for, needs more memory than a limit allows.
    #[error("expected {what} of at most {limit}, found {found}; {remedy}")]
    TooLarge {
        /// What is limited.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
        /// What it would be.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Fewer pixels on a side than there is anything to see in.
    #[error("expected at least {least} pixels a side, found {width}x{height}; use a larger picture")]
    TooSmall {
        /// Fewest pixels.
        least: u32,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// A setting that cannot be.
    #[error("expected {expected}, found {found}")]
    Setting {
        /// What can be.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// What looks at a tile failed.
    #[error("looking at the tile at {x}, {y}: {reason}")]
    Look {
        /// Pixels to the left of the tile.
        x: u32,
        /// Pixels above it.
        y: u32,
        /// What went wrong.
        reason: String,
    },
    /// It was asked to stop.
    #[error("stopped")]
    Stopped,
}
