//! What can go wrong, and how to mend it.

use std::io;
use std::path::PathBuf;

/// Why pictures cannot be labelled, or a click is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// A file or folder cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done: `read`, `write`, `list`.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to label.
    #[error("expected pictures (jpg, jpeg, png) below {}, found none; is the path right?", .0.display())]
    NoPictures(PathBuf),
    /// More pictures than are kept in memory.
    #[error("expected at most {most} pictures below {}, found more; label a part of them", folder.display())]
    TooMany {
        /// Where.
        folder: PathBuf,
        /// The limit.
        most: usize,
    },
    /// The device's table is not one.
    #[error("expected {expected} in {}, found {found}", path.display())]
    Field {
        /// The table.
        path: PathBuf,
        /// What was expected, with the row.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Somebody labels these pictures already.
    #[error("expected nobody else at {}, found a `graft label` that has it open; use the address which that one printed", .0.display())]
    InUse(PathBuf),
    /// The log is of another program or of a later graft.
    #[error("expected a log of clicks of layout {expected} in {}, found {found}; move it away, or use the graft that wrote it", path.display())]
    Layout {
        /// The log.
        path: PathBuf,
        /// The layout that this graft writes.
        expected: i64,
        /// What is there.
        found: String,
    },
    /// The log cannot be used.
    #[error("cannot use the log of clicks {}; is the disk full, or the file damaged?", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The address is taken.
    #[error("cannot listen on 127.0.0.1:{port}; choose another --port, or none for a free one")]
    Listen {
        /// The port asked for.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A picture that is not in the table.
    #[error("expected a picture from 0 to {}, found {found}; load the page anew", count.saturating_sub(1))]
    NoSuchPicture {
        /// How many there are.
        count: usize,
        /// The one asked for.
        found: usize,
    },
    /// A label that is no class.
    #[error("expected one of the classes as label, found {0:?}; add it as a class first")]
    NoSuchClass(String),
    /// A name of a person or class.
    #[error(
        "expected {what} of 1 to {most} characters without control characters or spaces at its ends, found {found:?}"
    )]
    Name {
        /// `a name` or `a class`.
        what: &'static str,
        /// Most characters.
        most: usize,
        /// What was given.
        found: String,
    },
    /// Too many classes.
    #[error("expected at most {0} classes, found one more")]
    TooManyClasses(usize),
    /// This person has no click to take back.
    #[error("expected a click of {0} that can be taken back, found none")]
    NothingToUndo(String),
    /// A picture that cannot be shown.
    #[error("cannot show {file}: {reason}")]
    Picture {
        /// The picture.
        file: String,
        /// Why.
        reason: String,
    },
}

impl LabelError {
    /// Says whether the page asked for something that cannot be, which asking again does not change.
    pub fn is_refusal(&self) -> bool {
        use LabelError::{Name, NoSuchClass, NoSuchPicture, NothingToUndo, Picture, TooManyClasses};
        matches!(
            self,
            NoSuchPicture { .. } | NoSuchClass(_) | Name { .. } | TooManyClasses(_) | NothingToUndo(_) | Picture { .. }
        )
    }
}
