//! The CSV manifest: a file and its label in each row.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Columns, Found, Location, MAX_MANIFEST_LEN, Row, Tree};

/// Reads a manifest on disk; its files are relative to it.
///
/// # Errors
///
/// If a column or a field is missing, or a file occurs twice.
pub(super) fn read(path: &Path, split: Option<&str>, columns: &Columns) -> Result<Found> {
    let root = path.parent().unwrap_or(Path::new("."));
    let file = File::open(path).with_context(|| format!("opening manifest {}", path.display()))?;
    rows(file, path, split, columns, |file| Ok(Location::File(root.join(file))))
}

/// Reads the manifest at the top of an archive; its files are members of the archive.
///
/// # Errors
///
/// As [`read`], and if the archive lacks a file.
pub(super) fn read_inside(tree: &Tree, name: &str, split: Option<&str>, columns: &Columns) -> Result<Found> {
    let manifest = tree.files.get(name).with_context(|| format!("expected a member {name}, found none"))?;
    let bytes = manifest.read(MAX_MANIFEST_LEN)?;
    rows(&bytes[..], &manifest.path(), split, columns, |file| {
        let name = file.replace('\\', "/");
        let found = tree.files.get(name.strip_prefix("./").unwrap_or(&name));
        found.cloned().with_context(|| format!("expected {file} in {}, found no such member", tree.root.display()))
    })
}

fn rows(
    from: impl Read,
    path: &Path,
    split: Option<&str>,
    columns: &Columns,
    locate: impl Fn(&str) -> Result<Location>,
) -> Result<Found> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(from);
    let header = reader.headers().with_context(|| format!("reading the header of {}", path.display()))?.clone();
    let column = |names: &[&str]| header.iter().position(|h| names.contains(&h.trim_start_matches('\u{feff}')));
    let need = |names: &[&str]| {
        column(names).with_context(|| {
            let found: Vec<&str> = header.iter().collect();
            format!("expected a column {} in {}, found {}", names.join(" or "), path.display(), found.join(", "))
        })
    };
    let file = need(&["file", "path", "image"])?;
    let (label, numbers) = match columns.names() {
        None => (Some(need(&["label", "class"])?), vec![]),
        Some(names) => (None, names.iter().map(|n| need(&[n])).collect::<Result<Vec<_>>>()?),
    };
    let (group, part) = (column(&["group"]), column(&["split"]));
    ensure!(split.is_none() || part.is_some(), "expected a column split in {}, found none", path.display());
    let mut seen = BTreeSet::new();
    let mut found = Found::default();
    for (line, record) in reader.records().enumerate() {
        let record = record.with_context(|| format!("reading row {} of {}", line + 2, path.display()))?;
        if let (Some(wanted), Some(part)) = (split, part)
            && record.get(part) != Some(wanted)
        {
            continue;
        }
        let field = |c: usize| record.get(c).unwrap_or_default().to_owned();
        let (file, label) = (field(file), label.map(field));
        ensure!(
            !file.is_empty() && label.as_ref().is_none_or(|l| !l.is_empty()),
            "expected a file and a label in row {} of {}, found {file:?} and {:?}",
            line + 2,
            path.display(),
            label.unwrap_or_default()
        );
        let label = label.unwrap_or_default();
        let values = numbers.iter().map(|&c| columns.number(&field(c))).collect::<Result<_>>();
        let values = values.with_context(|| format!("reading row {} of {}", line + 2, path.display()))?;
        ensure!(seen.insert(file.clone()), "expected each file once in {}, found {file} again", path.display());
        let location = locate(&file).with_context(|| format!("reading row {} of {}", line + 2, path.display()))?;
        let group = group.map(field).filter(|g| !g.is_empty());
        found.push(Row { location, key: file.replace('\\', "/"), label, values, group })?;
    }
    Ok(found)
}
