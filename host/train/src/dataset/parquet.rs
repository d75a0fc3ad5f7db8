//! Parquet files of a manifest's columns, as rows of text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::MAX_SAMPLES;

/// The columns that were asked for, of those that the file has.
#[derive(Debug)]
pub(super) struct Table {
    /// Names of all columns that have one value a row.
    pub(super) names: Vec<String>,
    /// A row's fields, in the order of the names; empty where there is no value, or the column was not asked for.
    pub(super) rows: Vec<Vec<String>>,
}

/// Reads the columns of which `is_wanted`. Numbers become text that gives the same number, truths 0 and 1.
///
/// # Errors
///
/// If it is no Parquet file, is compressed by another way than Snappy or Zstandard, or has too many rows; or if pictures lie in
/// it and not beside it.
pub(super) fn read<R: ChunkReader + 'static>(from: R, path: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Table> {
    // The library takes some numbers of a damaged file for true and panics.
    let table = catch_unwind(AssertUnwindSafe(|| table(from, path, is_wanted)));
    table.unwrap_or_else(|_| bail!("expected a Parquet file, found {} damaged; write it again", path.display()))
}

fn table<R: ChunkReader + 'static>(from: R, path: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Table> {
    let doing = || format!("reading {} as Parquet", path.display());
    let reader = SerializedFileReader::new(from).with_context(doing)?;
    let file = reader.metadata().file_metadata();
    let rows = usize::try_from(file.num_rows()).unwrap_or(0);
    ensure!(rows <= MAX_SAMPLES, "expected at most {MAX_SAMPLES} rows in {}, found {rows}", path.display());
    let (flat, nested): (Vec<_>, Vec<_>) = file.schema().get_fields().iter().partition(|f| is_flat(f));
    if let Some(picture) = nested.iter().find(|f| ["image", "file"].contains(&f.name())) {
        bail!(
            "expected files beside {} in its column {}, found pictures inside of it; write them into a folder for each class",
            path.display(),
            picture.name()
        );
    }
    let names: Vec<String> = flat.iter().map(|f| f.name().to_owned()).collect();
    let wanted: Vec<_> = flat.into_iter().filter(|f| is_wanted(f.name())).cloned().collect();
    let mut table = Table { names, rows: vec![] };
    if wanted.is_empty() {
        return Ok(table);
    }
    let projected = Type::group_type_builder(file.schema().name()).with_fields(wanted).build().with_context(doing)?;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).with_context(doing)?;
        for row in group.get_row_iter(Some(projected.clone())).with_context(doing)? {
            let at = table.rows.len() + 1;
            ensure!(at <= rows, "expected {rows} rows in {}, found more", path.display());
            let row = row.with_context(|| format!("reading row {at} of {}", path.display()))?;
            let mut fields = vec![String::new(); table.names.len()];
            for (name, field) in row.get_column_iter() {
                if let Some(place) = table.names.iter().position(|n| n == name) {
                    let what = || format!("reading column {name}, row {at} of {}", path.display());
                    fields[place] = text(field).with_context(what)?;
                }
            }
            table.rows.push(fields);
        }
    }
    ensure!(table.rows.len() == rows, "expected {rows} rows in {}, found {}", path.display(), table.rows.len());
    Ok(table)
}

/// Whether a column has at most one value a row.
fn is_flat(field: &Type) -> bool {
    let is_repeated = field.get_basic_info().has_repetition()
        && field.get_basic_info().repetition() == parquet::basic::Repetition::REPEATED;
    field.is_primitive() && !is_repeated
}

fn text(field: &Field) -> Result<String> {
    Ok(match field {
        Field::Null => String::new(),
        Field::Str(text) => text.trim().to_owned(),
        Field::Bool(is_true) => u8::from(*is_true).to_string(),
        Field::Float(value) => value.to_string(),
        Field::Double(value) => value.to_string(),
        // Text, to writers that do not say so.
        Field::Bytes(bytes) => {
            std::str::from_utf8(bytes.data()).context("expected text, found other bytes")?.to_owned()
        }
        other => other.to_string(),
    })
}
