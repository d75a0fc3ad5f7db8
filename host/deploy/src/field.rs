//! A field folder on the host: pictures that came back, and what devices said. Layout: `docs/formats/field.md`.
//!
//! Knows nothing of links. What it says it has survives a power cut.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::iter;
use std::path::{Path, PathBuf};

use graft_bundle::{Digest, PublicKey};
use graft_link::messages::{Kept, Told};

use crate::durable;

/// A field folder.
#[derive(Debug)]
pub struct Field {
    root: PathBuf,
    /// What the rows of this pull say besides: where the device stood.
    site: Option<String>,
}

/// Who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Teller {
    /// The device's name.
    pub(crate) name: String,
    /// The folder of its pictures, below the field folder.
    pub(crate) folder: String,
    /// The number of its store.
    pub(crate) store: u64,
}

const FIELD: &str = "field.csv";
const PREDICTIONS: &str = "predictions.csv";
/// What a device said, in both tables.
const SAID: [&str; 10] = [
    "device",
    "unix_ms",
    "source",
    "model",
    "answer",
    "probability",
    "second",
    "second_probability",
    "reason",
    "value",
];

/// The columns of the table of pictures.
fn field_columns() -> impl Iterator<Item = &'static str> + Clone {
    iter::once("file").chain(SAID).chain(["site"])
}

/// The columns of the table of predictions. New ones come last: a table that was begun without them goes on without them.
fn prediction_columns() -> impl Iterator<Item = &'static str> {
    ["store", "id"].into_iter().chain(SAID).chain(["latency_ms", "frames"])
}

/// Longest table that is read, as `graft label` reads it.
const MAX_TABLE: u64 = 256 << 20;

/// Why a field folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FieldError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Field {
    /// Takes a folder, which is made if it is not there; `site` says where the device stands.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn open(root: &Path, site: Option<&str>) -> Result<Self, FieldError> {
        let error = |source| FieldError { doing: "make the folder", path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(error)?;
        Ok(Self { root: root.to_owned(), site: site.map(plain) })
    }

    /// Returns the folder's path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn error(&self, doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> FieldError {
        let path = self.root.join(file);
        move |source| FieldError { doing, path, source }
    }

    /// Returns the name of a picture's file, if it is here, whole.
    pub(crate) fn has(&self, teller: &Teller, kept: &Kept) -> Option<String> {
        EXTENSIONS.iter().map(|(_, extension)| file_name(teller, kept, extension)).find(|file| {
            let path = self.root.join(file);
            fs::metadata(&path).is_ok_and(|m| m.len() == kept.len)
                && fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes).0 == kept.digest)
        })
    }

    /// Returns what an earlier pull left of a picture.
    pub(crate) fn part(&self, teller: &Teller, kept: &Kept) -> Vec<u8> {
        let mut bytes = vec![];
        if let Ok(file) = File::open(self.root.join(file_name(teller, kept, PART))) {
            let _ = file.take(kept.len).read_to_end(&mut bytes);
        }
        bytes
    }

    /// Keeps what has come of a picture until the next pull. That it cannot be kept costs time alone.
    pub(crate) fn keep_part(&self, teller: &Teller, kept: &Kept, bytes: &[u8]) {
        if !bytes.is_empty() {
            let _ = durable::write(&self.root.join(file_name(teller, kept, PART)), bytes);
        }
    }

    /// Removes what an earlier pull left of a picture.
    pub(crate) fn drop_part(&self, teller: &Teller, kept: &Kept) {
        let _ = fs::remove_file(self.root.join(file_name(teller, kept, PART)));
    }

    /// Writes a picture whose digest has been checked; returns the name of its file.
    pub(crate) fn save(&self, teller: &Teller, kept: &Kept, bytes: &[u8]) -> Result<String, FieldError> {
        // A device keeps what it could decode.
        let extension = EXTENSIONS.iter().find(|(magic, _)| bytes.starts_with(magic)).map_or("jpg", |(_, e)| *e);
        let file = file_name(teller, kept, extension);
        durable::replace(&self.root.join(&file), bytes).map_err(self.error("write", &file))?;
        // A new folder's name must survive as well.
        durable::sync_folder_of(&self.root.join(&teller.folder)).map_err(self.error("write", &file))?;
        self.drop_part(teller, kept);
        Ok(file)
    }

    /// Adds rows to the table of pictures; those of pictures that it has already are replaced.
    pub(crate) fn tell(&self, teller: &Teller, rows: &[(String, Told)]) -> Result<(), FieldError> {
        let site = self.site.clone().unwrap_or_default();
        let row = |(file, told): &(String, Told)| {
            iter::once(file.clone()).chain(said(teller, told)).chain([site.clone()]).collect::<Vec<String>>()
        };
        let path = self.root.join(FIELD);
        let text = table(&path).and_then(|old| with_rows(&old, &rows.iter().map(row).collect::<Vec<_>>()));
        let text = text.map_err(self.error("read", FIELD))?;
        durable::replace(&path, &text).map_err(self.error("write", FIELD))
    }

    /// Opens the table of predictions, to which those of a store are added.
    pub(crate) fn predictions(&self, teller: &Teller) -> Result<Predictions, FieldError> {
        Predictions::open(&self.root.join(PREDICTIONS), teller).map_err(self.error("use", PREDICTIONS))
    }
}

/// Ending of a picture of which a part has come.
const PART: &str = "part";
/// First bytes of files, and the endings that they get.
const EXTENSIONS: [(&[u8], &str); 2] = [(b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png")];

fn file_name(teller: &Teller, kept: &Kept, extension: &str) -> String {
    format!("{}/{}.{extension}", teller.folder, &Digest(kept.digest).to_string()[..32])
}

/// Returns the name of a device's folder: its name as far as any file system takes it, and the beginning of its key, since
/// names are not unique.
pub(crate) fn folder_name(name: &str, key: Option<PublicKey>) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let plain: String = name.chars().take(40).map(letter).collect();
    let plain = plain.trim_matches('-');
    let plain = if plain.is_empty() { "device" } else { plain };
    match key {
        Some(key) => format!("{plain}-{}", &Digest(key.to_bytes()).to_string()[..8]),
        None => plain.to_owned(),
    }
}

/// A text that takes one line and begins and ends with no space.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// Returns the cells of [`SAID`].
fn said(teller: &Teller, told: &Told) -> [String; SAID.len()] {
    let (second, second_probability) =
        told.second.as_ref().map_or((String::new(), String::new()), |(label, p)| (plain(label), share(*p)));
    // An answer without a name would make the table one that is refused.
    let answer = Some(plain(&told.label)).filter(|a| !a.is_empty()).unwrap_or_else(|| "?".into());
    let value = if told.value.is_finite() { told.value.to_string() } else { String::new() };
    [
        plain(&teller.name),
        told.unix_ms.to_string(),
        plain(&told.source),
        plain(&told.model),
        answer,
        share(told.probability),
        second,
        second_probability,
        told.doubt.as_deref().map(plain).unwrap_or_default(),
        value,
    ]
}

/// A probability as text, whatever a device says.
fn share(p: f32) -> String {
    if p.is_finite() { p.clamp(0.0, 1.0).to_string() } else { "0".into() }
}

fn table(path: &Path) -> io::Result<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let len = file.metadata()?.len();
    if len > MAX_TABLE {
        let text = format!("expected at most {MAX_TABLE} bytes, found {len}; begin another folder");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![];
    file.take(MAX_TABLE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Adds rows of [`field_columns`] to a table that may have other columns besides, in another order.
fn with_rows(old: &[u8], rows: &[Vec<String>]) -> io::Result<Vec<u8>> {
    let mut reader = csv::ReaderBuilder::new().from_reader(old);
    let mut columns: Vec<String> =
        reader.headers()?.iter().map(|h| h.trim_start_matches('\u{feff}').trim().to_owned()).collect();
    let before = columns.len();
    let missing = field_columns().filter(|c| !columns.iter().any(|h| h == c)).map(str::to_owned);
    let missing: Vec<String> = missing.collect();
    columns.extend(missing);
    let place = |name: &str| columns.iter().position(|c| c == name).unwrap_or(0);
    let file = place("file");
    let fresh: BTreeMap<&str, &Vec<String>> = rows.iter().map(|row| (row[0].as_str(), row)).collect();
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(&columns)?;
    for record in reader.records() {
        let mut record = record?;
        let is_old = record.get(file).is_none_or(|f| !fresh.contains_key(f.trim()));
        (before..columns.len()).for_each(|_| record.push_field(""));
        if is_old {
            writer.write_record(&record)?;
        }
    }
    for row in fresh.values() {
        let mut cells = vec![String::new(); columns.len()];
        for (name, cell) in field_columns().zip(*row) {
            cells[place(name)].clone_from(cell);
        }
        writer.write_record(&cells)?;
    }
    writer.into_inner().map_err(|e| io::Error::other(e.to_string()))
}

/// The table of predictions, which only grows.
#[derive(Debug)]
pub(crate) struct Predictions {
    path: PathBuf,
    file: File,
    teller: Teller,
    /// How many columns it has.
    columns: usize,
    /// The highest number of this store that it has.
    pub(crate) last: u64,
}

impl Predictions {
    fn open(path: &Path, teller: &Teller) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        // What a power cut left of a last row goes; each row is a line.
        let whole = whole_lines(&mut file)?;
        file.set_len(whole)?;
        if whole == 0 {
            let mut writer = csv::Writer::from_writer(vec![]);
            writer.write_record(prediction_columns())?;
            let head = writer.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
            file.write_all(&head)?;
            durable::sync_folder_of(path)?;
        }
        let store = store_text(teller.store);
        let mut last = 0;
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::new(File::open(path)?));
        let columns = reader.headers()?.len();
        for record in reader.records() {
            let record = record?;
            if record.get(0) == Some(&store) {
                last = record.get(1).and_then(|id| id.parse().ok()).map_or(last, |id: u64| id.max(last));
            }
        }
        Ok(Self { path: path.to_owned(), file, teller: teller.clone(), columns, last })
    }

    /// Adds predictions, and has them survive.
    pub(crate) fn add(&mut self, rows: &[Told]) -> Result<(), FieldError> {
        let outcome = self.write(rows);
        outcome.map_err(|source| FieldError { doing: "write", path: self.path.clone(), source })
    }

    fn write(&mut self, rows: &[Told]) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(vec![]);
        for told in rows {
            let whose = [store_text(self.teller.store), told.id.to_string()];
            let how = [told.latency_ms.to_string(), told.frames.max(1).to_string()];
            writer.write_record(whose.into_iter().chain(said(&self.teller, told)).chain(how).take(self.columns))?;
            self.last = self.last.max(told.id);
        }
        self.file.write_all(&writer.into_inner().map_err(|e| io::Error::other(e.to_string()))?)?;
        self.file.sync_data()
    }
}

fn store_text(store: u64) -> String {
    format!("{store:016x}")
}

/// Returns the length of a file up to the end of its last whole line.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let (mut at, mut whole, mut buffer) = (0u64, 0, vec![0; 64 << 10]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(whole);
        }
        if let Some(end) = buffer[..n].iter().rposition(|&b| b == b'\n') {
            whole = at + end as u64 + 1;
        }
        at += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_folder_is_a_plain_name() {
        let key = PublicKey::from_bytes([0xab; 32]);
        assert_eq!(folder_name("bed 3", Some(key)), "bed-3-abababab");
        assert_eq!(folder_name("../../etc", None), "etc");
        assert_eq!(folder_name("Gewächshaus/7", None), "Gew-chshaus-7");
        assert_eq!(folder_name("日本", Some(key)), "device-abababab");
        assert!(folder_name(&"x".repeat(64), Some(key)).len() < 60);
    }

    #[test]
    fn rows_go_into_a_table_of_other_columns_and_take_the_place_of_older_ones() {
        let row = |file: &str, answer: &str| {
            let mut cells = vec![String::new(); field_columns().count()];
            (cells[0], cells[5]) = (file.into(), answer.into());
            cells
        };
        let old = b"\xef\xbb\xbfmood,answer,file\nsad,rust,a.jpg\nglad,phoma,b.jpg\n";
        let text = String::from_utf8(with_rows(old, &[row("a.jpg", "healthy, or so"), row("c.jpg", "miner")]).unwrap());
        let text = text.unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("mood,answer,file,device,unix_ms"), "{text}");
        assert!(lines[1].starts_with("glad,phoma,b.jpg,,"), "{text}");
        assert!(lines[2].starts_with(",\"healthy, or so\",a.jpg,") && lines[3].starts_with(",miner,c.jpg,"), "{text}");
        assert_eq!(lines.len(), 4);
        let fresh = String::from_utf8(with_rows(b"", &[row("a.jpg", "rust")]).unwrap()).unwrap();
        assert!(fresh.starts_with("file,device,unix_ms,source,model,answer,probability,second,"), "{fresh}");
        assert!(with_rows(b"file,answer\na.jpg\n", &[]).is_err(), "a torn row of somebody else is not thrown away");
    }

    #[test]
    fn predictions_go_on_behind_a_torn_row_and_each_store_counts_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let field = Field::open(dir.path(), None).unwrap();
        let teller = |store| Teller { name: "bed\n3".into(), folder: "bed-3".into(), store };
        let told = |id| Told { id, label: "rust, \"orange\"\r\n".into(), probability: f32::NAN, ..Told::default() };
        field.predictions(&teller(1)).unwrap().add(&[told(1), told(2)]).unwrap();
        let path = dir.path().join(PREDICTIONS);
        let mut torn = fs::read(&path).unwrap();
        let whole = torn.clone();
        torn.extend(b"0000000000000001,3,bed");
        fs::write(&path, torn).unwrap();
        assert_eq!(field.predictions(&teller(1)).unwrap().last, 2);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(field.predictions(&teller(9)).unwrap().last, 0);
        field.predictions(&teller(9)).unwrap().add(&[told(7)]).unwrap();
        assert_eq!((field.predictions(&teller(9)).unwrap().last, field.predictions(&teller(1)).unwrap().last), (7, 2));
        let ends = |path: &Path| -> Vec<String> {
            let mut rows = csv::Reader::from_path(path).unwrap();
            rows.records().map(|row| row.unwrap().iter().next_back().unwrap().to_owned()).collect()
        };
        assert_eq!(ends(&path), ["1", "1", "1"], "frames");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");

        let head = text.lines().next().unwrap().strip_suffix(",frames").unwrap();
        fs::write(&path, format!("{head}\n")).unwrap();
        field.predictions(&teller(1)).unwrap().add(&[Told { latency_ms: 2.5, ..told(3) }]).unwrap();
        assert_eq!(ends(&path), ["2.5"], "a table begun without the number of frames");
    }
}
