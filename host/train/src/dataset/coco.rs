//! COCO files used for classification: a picture's class is the category of its annotations.
//!
//! # Source
//!
//! COCO data format, <https://cocodataset.org/#format-data>: `images`, `annotations`, `categories`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{Found, Ignored, Location, MAX_MANIFEST_LEN, Row};

#[derive(Deserialize)]
struct Coco {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

/// Reads a COCO file. A picture without annotations is passed over; where it lies is told in
/// [`Dataset::open`](super::Dataset::open).
///
/// # Errors
///
/// If `split` is given, which COCO keeps in files of their own; if the file is no COCO file, an id occurs twice or is
/// missing, or a picture has annotations of several categories.
pub(super) fn read(path: &Path, split: Option<&str>) -> Result<Found> {
    ensure!(
        split.is_none(),
        "expected a COCO file for each split, found {} with --split; name the split's own file",
        path.display()
    );
    let doing = || format!("reading the COCO file {}", path.display());
    let file = File::open(path).with_context(doing)?;
    let len = file.metadata().with_context(doing)?.len();
    ensure!(len <= MAX_MANIFEST_LEN, "expected at most {MAX_MANIFEST_LEN} bytes in {}, found {len}", path.display());
    let coco: Coco = serde_json::from_reader(BufReader::new(file.take(MAX_MANIFEST_LEN))).with_context(doing)?;
    let mut names = BTreeMap::new();
    for category in coco.categories {
        let id = category.id;
        ensure!(names.insert(id, category.name).is_none(), "expected each category once, found the id {id} again");
    }
    let mut classes: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for a in coco.annotations {
        classes.entry(a.image_id).or_default().insert(a.category_id);
    }
    let beside = path.parent().unwrap_or(Path::new("."));
    let inside = beside.join("images");
    let first = coco.images.first().map(|i| i.file_name.as_str()).unwrap_or_default();
    let root = if !beside.join(first).is_file() && inside.join(first).is_file() { &inside } else { beside };
    let (mut found, mut seen) = (Found::default(), BTreeSet::new());
    for Image { id, file_name } in coco.images {
        ensure!(seen.insert(id), "expected each picture once in {}, found the id {id} again", path.display());
        let location = Location::File(root.join(&file_name));
        let label = match classes.remove(&id).unwrap_or_default().into_iter().collect::<Vec<_>>()[..] {
            [] => {
                found.ignored.push(Ignored { path: location.path(), reason: "has no annotation".into() });
                continue;
            }
            [one] => names.get(&one).with_context(|| format!("expected a category of id {one}, found none"))?.clone(),
            [a, b, ..] => {
                let name = |id| names.get(&id).map_or("?", String::as_str);
                bail!(
                    "expected one category on each picture, found {} and {} on {file_name}; keep one, or cut the parts out as pictures",
                    name(a),
                    name(b)
                )
            }
        };
        found.push(Row { location, key: file_name.replace('\\', "/"), label, values: vec![], group: None })?;
    }
    if let Some(id) = classes.keys().next() {
        bail!(
            "expected annotations of pictures in {}, found one of the picture {id}, which is not there",
            path.display()
        );
    }
    let mut keys = BTreeSet::new();
    for row in &found.rows {
        ensure!(keys.insert(&row.key), "expected each file once in {}, found {} again", path.display(), row.key);
    }
    Ok(found)
}
