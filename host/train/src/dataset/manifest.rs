//! The manifest: a file and its label in each row, of CSV or Parquet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ::parquet::file::reader::ChunkReader;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::tree::extension;
use super::{Columns, Found, Location, MAX_MANIFEST_LEN, Row, Tree, parquet};

/// Reads a manifest on disk; its files are relative to it.
///
/// # Errors
///
/// If a column or a field is missing, or a file occurs twice.
pub(super) fn read(path: &Path, split: Option<&str>, columns: &Columns) -> Result<Found> {
    let root = path.parent().unwrap_or(Path::new("."));
    let file = File::open(path).with_context(|| format!("opening manifest {}", path.display()))?;
    let wanted = Wanted { path, split, columns, locate: &|file| Ok(Location::File(root.join(file))) };
    if is_parquet(path) { wanted.parquet(file) } else { wanted.csv(file) }
}

/// Reads the manifest at the top of an archive; its files are members of the archive.
///
/// # Errors
///
/// As [`read`], and if the archive lacks a file.
pub(super) fn read_inside(tree: &Tree, name: &str, split: Option<&str>, columns: &Columns) -> Result<Found> {
    let manifest = tree.files.get(name).with_context(|| format!("expected a member {name}, found none"))?;
    let bytes = manifest.read(MAX_MANIFEST_LEN)?;
    let path = manifest.path();
    let locate = |file: &str| {
        let name = file.replace('\\', "/");
        let found = tree.files.get(name.strip_prefix("./").unwrap_or(&name));
        found.cloned().with_context(|| format!("expected {file} in {}, found no such member", tree.root.display()))
    };
    let wanted = Wanted { path: &path, split, columns, locate: &locate };
    if is_parquet(&path) { wanted.parquet(Bytes::from(bytes)) } else { wanted.csv(&bytes[..]) }
}

/// Whether a name is that of a Parquet file.
fn is_parquet(path: &Path) -> bool {
    extension(&path.to_string_lossy()) == "parquet"
}

/// What is wanted of a manifest.
struct Wanted<'a> {
    path: &'a Path,
    split: Option<&'a str>,
    columns: &'a Columns,
    locate: &'a dyn Fn(&str) -> Result<Location>,
}

impl Wanted<'_> {
    fn csv(&self, from: impl Read) -> Result<Found> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(from);
        let header =
            reader.headers().with_context(|| format!("reading the header of {}", self.path.display()))?.clone();
        let names: Vec<&str> = header.iter().map(|h| h.trim_start_matches('\u{feff}')).collect();
        // The header is the first.
        let rows = reader.records().zip(2..).map(|(record, row)| {
            let record = record.with_context(|| format!("reading row {row} of {}", self.path.display()))?;
            Ok((row, record.iter().map(str::to_owned).collect()))
        });
        self.rows(&names, rows)
    }

    fn parquet<R: ChunkReader + 'static>(&self, from: R) -> Result<Found> {
        let numbers = self.columns.names().unwrap_or_default();
        let is_wanted = |name: &str| {
            [FILE, LABEL, &[GROUP, SPLIT]].concat().contains(&name) || numbers.iter().any(|number| number == name)
        };
        let table = parquet::read(from, self.path, is_wanted)?;
        let names: Vec<&str> = table.names.iter().map(String::as_str).collect();
        self.rows(&names, (1..).zip(table.rows).map(Ok))
    }

    fn rows(&self, names: &[&str], rows: impl Iterator<Item = Result<(usize, Vec<String>)>>) -> Result<Found> {
        let Self { path, split, columns, locate } = self;
        let column = |wanted: &[&str]| names.iter().position(|n| wanted.contains(n));
        let need = |wanted: &[&str]| {
            column(wanted).with_context(|| {
                let (wanted, found) = (wanted.join(" or "), names.join(", "));
                format!("expected a column {wanted} in {}, found {found}", path.display())
            })
        };
        let file = need(FILE)?;
        let (label, numbers) = match columns.names() {
            None => (Some(need(LABEL)?), vec![]),
            Some(names) => (None, names.iter().map(|n| need(&[n])).collect::<Result<Vec<_>>>()?),
        };
        let (group, part) = (column(&[GROUP]), column(&[SPLIT]));
        ensure!(split.is_none() || part.is_some(), "expected a column {SPLIT} in {}, found none", path.display());
        let mut seen = BTreeSet::new();
        let mut found = Found::default();
        for row in rows {
            let (at, fields) = row?;
            let doing = || format!("reading row {at} of {}", path.display());
            let field = |c: usize| fields.get(c).cloned().unwrap_or_default();
            if let (Some(wanted), Some(part)) = (split, part)
                && field(part) != *wanted
            {
                continue;
            }
            let (file, label) = (field(file), label.map(field));
            ensure!(
                !file.is_empty() && label.as_ref().is_none_or(|l| !l.is_empty()),
                "expected a file and a label in row {at} of {}, found {file:?} and {:?}",
                path.display(),
                label.unwrap_or_default()
            );
            let label = label.unwrap_or_default();
            let values =
                numbers.iter().map(|&c| columns.number(&field(c))).collect::<Result<_>>().with_context(doing)?;
            ensure!(seen.insert(file.clone()), "expected each file once in {}, found {file} again", path.display());
            let location = locate(&file).with_context(doing)?;
            let group = group.map(field).filter(|g| !g.is_empty());
            found.push(Row { location, key: file.replace('\\', "/"), label, values, group })?;
        }
        Ok(found)
    }
}

/// What a column is called that has the file, and the label.
const FILE: &[&str] = &["file", "path", "image"];
const LABEL: &[&str] = &["label", "class"];
const GROUP: &str = "group";
const SPLIT: &str = "split";
