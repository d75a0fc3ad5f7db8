//! The image folder: a folder for each class, with its pictures in it at any depth.

use anyhow::{Result, bail, ensure};

use super::tree::{extension, is_picture, is_split};
use super::{Found, Ignored, Row, Tree};

/// Takes the class of each picture from the folder that it lies in.
///
/// # Errors
///
/// If `split` names none of the parts that the tree has, or the tree has parts and `split` is not given.
pub(super) fn read(tree: Tree, split: Option<&str>) -> Result<Found> {
    let tree = part(tree, split)?;
    let folders: Vec<String> = tree.top().into_iter().map(str::to_owned).collect();
    let mut found = Found { rows: vec![], ignored: tree.ignored };
    for (key, location) in tree.files {
        let mut ignore = |reason: String| found.ignored.push(Ignored { path: location.path(), reason });
        let extension = extension(&key);
        match key.split_once('/') {
            None => ignore("lies beside the class folders".into()),
            Some((label, _)) if is_picture(&key) => {
                let label = label.to_owned();
                found.push(Row { location, key, label, values: vec![], group: None })?;
            }
            Some(_) if OTHER_PICTURES.contains(&extension.as_str()) => {
                ignore(format!("is a .{extension} file, which graft does not read; convert it to JPEG or PNG"));
            }
            Some(_) => ignore("is not a picture".into()),
        }
    }
    for folder in folders {
        // Rows are in the order of their keys, so a class is found by looking for its first one.
        let first = found.rows.partition_point(|r| r.key.as_str() < format!("{folder}/").as_str());
        if found.rows.get(first).is_none_or(|r| r.label != folder) {
            found.ignored.push(Ignored { path: tree.root.join(folder), reason: "holds no picture".into() });
        }
    }
    Ok(found)
}

/// Returns the names of the parts that a tree has: all of its folders, or none.
pub(super) fn parts(tree: &Tree) -> Vec<String> {
    let names: Vec<String> = tree.top().into_iter().map(str::to_owned).collect();
    if names.iter().all(|n| is_split(n)) { names } else { vec![] }
}

/// Returns the part of the tree that `split` names, or all of it if it has no parts.
fn part(tree: Tree, split: Option<&str>) -> Result<Tree> {
    let names: Vec<&str> = tree.top().into_iter().collect();
    let (root, list) = (tree.root.display(), names.join(", "));
    let has_parts = !parts(&tree).is_empty();
    match split {
        Some(split) => {
            ensure!(
                has_parts && names.contains(&split),
                "expected a folder {split} with the class folders in {root}, found {list}"
            );
            Ok(tree.below(split))
        }
        None if has_parts => bail!(
            "expected one folder for each class in {root}, found the splits {list}; name one by its path or by --split {}",
            names[0]
        ),
        None => Ok(tree),
    }
}

const OTHER_PICTURES: [&str; 9] = ["gif", "webp", "bmp", "tif", "tiff", "heic", "heif", "avif", "jp2"];
