//! The log of clicks, in SQLite: what is in it was acknowledged, and what was acknowledged is in it.
//!
//! A click is a row and stays one. Taking it back is another row, which the first one then names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use crate::{LabelError, Verdict};

/// A click.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counts up over all clicks.
    pub(crate) id: i64,
    pub(crate) file: String,
    pub(crate) kind: Kind,
    pub(crate) who: String,
    pub(crate) unix_ms: u64,
    /// The newest click on the picture that was shown to the person; 0 for none.
    pub(crate) seen: i64,
    /// The click that took this one back.
    pub(crate) undone_by: Option<i64>,
}

/// What was clicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Verdict(Verdict),
    Skip,
    Undo,
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Verdict(Verdict::Label(_)) => "label",
            Self::Verdict(Verdict::Unusable) => "unusable",
            Self::Skip => "skip",
            Self::Undo => "undo",
        }
    }

    fn label(&self) -> Option<&str> {
        match self {
            Self::Verdict(Verdict::Label(label)) => Some(label),
            _ => None,
        }
    }

    fn parse(name: &str, label: Option<String>) -> Option<Self> {
        Some(match (name, label) {
            ("label", Some(label)) => Self::Verdict(Verdict::Label(label)),
            ("unusable", None) => Self::Verdict(Verdict::Unusable),
            ("skip", None) => Self::Skip,
            ("undo", None) => Self::Undo,
            _ => return None,
        })
    }
}

/// The log, which one process at a time has open.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    connection: Connection,
}

/// Layout of the tables.
const LAYOUT: i64 = 1;
/// Marks the file as a log of clicks: "grLb".
const APPLICATION: i64 = 0x6772_4c62;
const TABLES: &str = "
    CREATE TABLE clicks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        file TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('label', 'unusable', 'skip', 'undo')),
        label TEXT CHECK ((label IS NOT NULL) = (kind = 'label')),
        who TEXT NOT NULL,
        unix_ms INTEGER NOT NULL,
        seen INTEGER NOT NULL,
        nonce TEXT NOT NULL UNIQUE,
        undone_by INTEGER REFERENCES clicks (id)
    ) STRICT;
    CREATE TABLE classes (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;";

impl Store {
    /// Opens the log, or begins one.
    ///
    /// # Errors
    ///
    /// If another process has it open, or it is damaged, of another program or of a later layout.
    pub(crate) fn open(path: &Path) -> Result<Self, LabelError> {
        let connection = Connection::open(path).map_err(|source| at(path, source))?;
        let store = Self { path: path.to_owned(), connection };
        store.begin().map_err(|source| at(path, source))?;
        let found: i64 = store.pragma("user_version")?;
        let application: i64 = store.pragma("application_id")?;
        let is_new = found == 0 && application == 0 && store.is_empty()?;
        if is_new {
            let made = format!(
                "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {LAYOUT}; COMMIT;"
            );
            store.connection.execute_batch(&made).map_err(|e| at(path, e))?;
        } else if (application, found) != (APPLICATION, LAYOUT) {
            let found = if application == APPLICATION { found.to_string() } else { "another program's".to_owned() };
            return Err(LabelError::Layout { path: path.to_owned(), expected: LAYOUT, found });
        }
        let sound: String = store.pragma("quick_check(1)")?;
        if sound != "ok" {
            let damaged = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(11), Some(sound));
            return Err(at(path, damaged));
        }
        Ok(store)
    }

    fn begin(&self) -> rusqlite::Result<()> {
        let connection = &self.connection;
        connection.busy_timeout(Duration::from_millis(300))?;
        // What is known of the clicks is kept in memory, so two processes must not write; the lock goes with the process.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // On the disk before it is acknowledged.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT;")
    }

    fn pragma<T: rusqlite::types::FromSql>(&self, name: &str) -> Result<T, LabelError> {
        self.connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0)).map_err(|e| at(&self.path, e))
    }

    fn is_empty(&self) -> Result<bool, LabelError> {
        let count = self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0));
        Ok(count.map_err(|e| at(&self.path, e))? == 0)
    }

    /// Returns all clicks in their order.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, LabelError> {
        let read = || -> rusqlite::Result<Vec<Entry>> {
            let mut statement = self.connection.prepare(&format!("{SELECT} ORDER BY id"))?;
            statement.query_map([], entry)?.collect()
        };
        read().map_err(|e| at(&self.path, e))
    }

    /// Returns the click that was sent with this nonce: one sent again, as its answer got lost, is no second click.
    pub(crate) fn by_nonce(&self, nonce: &str) -> Result<Option<Entry>, LabelError> {
        let found = self.connection.query_row(&format!("{SELECT} WHERE nonce = ?1"), [nonce], entry).optional();
        found.map_err(|e| at(&self.path, e))
    }

    /// Writes a click, and that it takes back the click `undoes`; returns it with its number.
    pub(crate) fn append(&mut self, mut click: Entry, nonce: &str, undoes: Option<i64>) -> Result<Entry, LabelError> {
        let path = self.path.clone();
        let mut write = || -> rusqlite::Result<i64> {
            let transaction = self.connection.transaction()?;
            transaction.execute(
                "INSERT INTO clicks (file, kind, label, who, unix_ms, seen, nonce) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    click.file,
                    click.kind.name(),
                    click.kind.label(),
                    click.who,
                    i64::try_from(click.unix_ms).unwrap_or(i64::MAX),
                    click.seen,
                    nonce
                ],
            )?;
            let id = transaction.last_insert_rowid();
            if let Some(undone) = undoes {
                transaction.execute("UPDATE clicks SET undone_by = ?1 WHERE id = ?2", [id, undone])?;
            }
            transaction.commit()?;
            Ok(id)
        };
        click.id = write().map_err(|e| at(&path, e))?;
        Ok(click)
    }

    /// Returns the classes in the order in which they came.
    pub(crate) fn classes(&self) -> Result<Vec<String>, LabelError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("SELECT name FROM classes ORDER BY id")?;
            statement.query_map([], |r| r.get(0))?.collect()
        };
        read().map_err(|e| at(&self.path, e))
    }

    /// Keeps a class.
    pub(crate) fn add_class(&self, name: &str) -> Result<(), LabelError> {
        let added = self.connection.execute("INSERT OR IGNORE INTO classes (name) VALUES (?1)", [name]);
        added.map(|_| ()).map_err(|e| at(&self.path, e))
    }

    /// Returns the day of a time in UTC, as `2026-11-27`.
    pub(crate) fn day(&self, unix_ms: u64) -> Result<String, LabelError> {
        let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
        let day =
            self.connection.query_row("SELECT date(?1, 'unixepoch')", [seconds], |r| r.get::<_, Option<String>>(0));
        Ok(day.map_err(|e| at(&self.path, e))?.unwrap_or_else(|| "no-date".to_owned()))
    }
}

const SELECT: &str = "SELECT id, file, kind, label, who, unix_ms, seen, undone_by FROM clicks";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let (kind, label): (String, Option<String>) = (row.get(2)?, row.get(3)?);
    let kind = Kind::parse(&kind, label).ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(Entry {
        id: row.get(0)?,
        file: row.get(1)?,
        kind,
        who: row.get(4)?,
        unix_ms: u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
        seen: row.get(6)?,
        undone_by: row.get(7)?,
    })
}

fn at(path: &Path, source: rusqlite::Error) -> LabelError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => LabelError::InUse(path),
        Some(ErrorCode::NotADatabase) => {
            LabelError::Layout { path, expected: LAYOUT, found: "no SQLite file".to_owned() }
        }
        _ => LabelError::Log { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn click(label: &str) -> Entry {
        Entry {
            id: 0,
            file: "a.jpg".into(),
            kind: Kind::Verdict(Verdict::Label(label.into())),
            who: "ann".into(),
            unix_ms: 1_795_745_180_000,
            seen: 0,
            undone_by: None,
        }
    }

    #[test]
    fn clicks_are_read_back_with_what_took_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.sqlite");
        let mut store = Store::open(&path).unwrap();
        let first = store.append(click("rust"), "n1", None).unwrap();
        let undo = Entry { kind: Kind::Undo, ..click("") };
        let undo = store.append(undo, "n2", Some(first.id)).unwrap();
        assert!(matches!(Store::open(&path), Err(LabelError::InUse(_))), "two have it open");
        drop(store);
        let store = Store::open(&path).unwrap();
        let expected = [Entry { undone_by: Some(undo.id), ..first }, undo];
        assert_eq!(store.entries().unwrap(), expected);
        assert_eq!(store.by_nonce("n2").unwrap().as_ref(), Some(&expected[1]));
        assert_eq!(store.by_nonce("n3").unwrap(), None);
    }

    /// As `date -u -d @SECONDS +%F` of coreutils 9.1 gives them.
    #[test]
    fn days_are_as_date_gives_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("labels.sqlite")).unwrap();
        for (seconds, day) in [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_795_745_180, "2026-11-27")] {
            assert_eq!(store.day(seconds * 1000).unwrap(), day);
        }
        assert_eq!(store.day(u64::MAX).unwrap(), "no-date");
    }

    #[test]
    fn what_is_no_log_of_clicks_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.sqlite");
        std::fs::write(
            &path,
            "not a database, by far not, and longer than a header of SQLite's would be, which is 100 bytes",
        )
        .unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("found no SQLite file"), "{error}");
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE others (x); PRAGMA user_version = 1;").unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
    }
}
