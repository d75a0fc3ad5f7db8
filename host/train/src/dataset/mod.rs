//! Labelled pictures: image folders, archives, manifests of CSV or Parquet, and COCO files, checked and split.
//!
//! Knows where pictures lie and their labels; pictures are decoded elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::objective::Targets;

mod coco;
mod folder;
mod location;
mod manifest;
mod parquet;
mod parts;
mod split;
mod tar;
mod task;
mod tree;
mod zip;

pub use location::Location;
pub use task::{Columns, Task};
use tree::Tree;

/// One labelled picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Where its bytes are.
    pub location: Location,
    /// The path below the set's root with `/` between parts: the same on every machine, in a folder as in an archive.
    pub key: String,
    /// Index into the labels; 0 where the task is not to tell classes.
    pub class: usize,
    /// A number for each label where the task is tags or values; else none.
    pub values: Vec<f32>,
    /// Pictures of one group (a field, a plant) never fall on both sides of a split.
    pub group: Option<String>,
}

/// A set of labelled pictures, in the order of their keys.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What is to be told of a picture.
    pub task: Task,
    /// Class names, ascending; of tags and values the columns' names.
    pub labels: Vec<String>,
    /// The pictures.
    pub samples: Vec<Sample>,
    /// Files that were passed over, with the reason.
    pub ignored: Vec<Ignored>,
}

/// A file that is no part of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The file; that of an archive's member begins with the archive's.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Dataset {
    /// Opens a data set, of the layout that the path says:
    ///
    /// - **A folder** holds a folder for each class, `DIR/<class>/…/picture.jpg`, or one for each of `train`, `test` and
    ///   so on with the classes in it, of which `split` names one.
    /// - **`.zip`, `.tar`** hold what such a folder would, in a folder of their own or not, or a manifest at their
    ///   top. They are read in place, nothing is unpacked.
    /// - **`.json`** is a COCO file: a picture's class is the category of its annotations, which must be one. Files are
    ///   looked for beside it, or in a folder `images` there.
    /// - **`.parquet`, and any other file as CSV,** is a manifest: a column `file` (or `path`, `image`), relative to the
    ///   manifest, and a column `label` (or `class`); optional are `group`, and `split`, of which only rows equal to
    ///   `split` stay where that is given.
    ///
    /// # Errors
    ///
    /// If nothing usable is found: the message says what was expected and what lies there.
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self> {
        Self::open_as(path, split, &Columns::Label)
    }

    /// Opens a data set as [`Dataset::open`], of which a manifest's `columns` tell what is wanted of a picture.
    ///
    /// # Errors
    ///
    /// As [`Dataset::open`]; if the layout has no columns; if a column is missing, or a field is not such a number.
    pub fn open_as(path: &Path, split: Option<&str>, columns: &Columns) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("opening data set {}", path.display()))?;
        if meta.is_dir() {
            columns.only_label(path)?;
            return Self::new(path, folder::read(Tree::of_folder(path)?, split)?, columns);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let found = match name.rsplit('.').next().unwrap_or_default() {
            "zip" => archive(path, zip::tree(path)?, split, columns)?,
            "tar" => archive(path, tar::tree(path)?, split, columns)?,
            "json" => {
                columns.only_label(path)?;
                coco::read(path, split)?
            }
            // A picture in the midst of these could only be reached by unpacking all before it, in every epoch.
            "gz" | "tgz" | "bz2" | "xz" | "zst" | "7z" | "rar" => bail!(
                "expected a folder, .zip, .tar, .json, .csv or .parquet, found {}, in which single pictures cannot be reached; unpack it, or pack it as .zip or .tar",
                path.display()
            ),
            _ => manifest::read(path, split, columns)?,
        };
        Self::new(path, found, columns)
    }

    /// Returns all pictures below a folder, or in an archive, at any depth; their class means nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or there is no picture.
    pub fn unlabelled(path: &Path) -> Result<Vec<Sample>> {
        let doing = || format!("looking for pictures in {}", path.display());
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let tree = match extension.as_str() {
            _ if path.is_dir() => Tree::of_folder(path),
            "zip" => zip::tree(path),
            "tar" => tar::tree(path),
            _ => bail!("expected a folder, .zip or .tar of pictures, found {}", path.display()),
        };
        let files = tree.with_context(doing)?.files.into_iter().filter(|(key, _)| tree::is_picture(key));
        let sample = |(key, location)| Sample { location, key, class: 0, values: vec![], group: None };
        let samples: Vec<Sample> = files.map(sample).collect();
        ensure!(!samples.is_empty(), "expected pictures (jpg, jpeg, png) below {}, found none", path.display());
        Ok(samples)
    }

    fn new(path: &Path, Found { rows, ignored }: Found, columns: &Columns) -> Result<Self> {
        let classes: BTreeSet<&String> = rows.iter().map(|r| &r.label).collect();
        let labels = columns.names().map_or_else(|| classes.into_iter().cloned().collect(), <[String]>::to_vec);
        let index: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(i, l)| (l.as_str(), i)).collect();
        let class = |label: &str| index.get(label).copied().unwrap_or(0);
        let mut samples: Vec<Sample> = rows
            .into_iter()
            .map(|r| Sample {
                class: class(&r.label),
                location: r.location,
                key: r.key,
                values: r.values,
                group: r.group,
            })
            .collect();
        samples.sort_by(|a, b| a.key.cmp(&b.key));
        ensure!(
            !samples.is_empty(),
            "expected pictures (jpg, jpeg, png) in one folder for each class below {}, found none{}",
            path.display(),
            ignored.first().map_or(String::new(), |i: &Ignored| format!("; {}: {}", i.path.display(), i.reason))
        );
        Ok(Self { task: columns.task(), labels, samples, ignored })
    }

    /// Returns what is wanted of the pictures at `rows`.
    pub fn targets(&self, rows: &[usize]) -> Targets {
        let width = self.labels.len();
        let values = || rows.iter().flat_map(|&r| &self.samples[r].values).copied().collect();
        match self.task {
            Task::Classes => {
                Targets::Classes { of: rows.iter().map(|&r| self.samples[r].class).collect(), count: width }
            }
            Task::Tags => Targets::Tags { of: values(), width },
            Task::Values => Targets::Values { of: values(), width },
        }
    }

    /// Numbers the classes as `labels` does, so that a set can be compared with a model.
    ///
    /// # Errors
    ///
    /// If the set has a class that is not among `labels`.
    pub fn relabel(mut self, labels: &[String]) -> Result<Self> {
        ensure!(
            self.task == Task::Classes || self.labels == labels,
            "expected the model's columns ({}), found {}",
            labels.join(", "),
            self.labels.join(", ")
        );
        if self.task != Task::Classes {
            return Ok(self);
        }
        for sample in &mut self.samples {
            let name = &self.labels[sample.class];
            let Some(class) = labels.iter().position(|l| l == name) else {
                bail!("expected the model's classes ({}), found class {name:?} in the data set", labels.join(", "));
            };
            sample.class = class;
        }
        self.labels = labels.to_vec();
        Ok(self)
    }

    /// Returns the set of these of its samples.
    pub fn part(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let samples = rows.into_iter().map(|r| self.samples[r].clone()).collect();
        Self { task: self.task, labels: self.labels.clone(), samples, ignored: vec![] }
    }

    /// Returns at most `count` samples, spread over all of them: they come sorted by key, and so by class.
    pub fn spread(samples: &[Sample], count: usize) -> Vec<Sample> {
        let (n, count) = (samples.len(), count.min(samples.len()));
        (0..count).map(|i| samples[i * n / count].clone()).collect()
    }

    /// Returns the number of pictures of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.labels.len()];
        for s in &self.samples {
            counts[s.class] += 1;
        }
        counts
    }
}

/// What a layout gave.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<Row>,
    ignored: Vec<Ignored>,
}

/// A picture before its class has a number.
#[derive(Debug)]
struct Row {
    location: Location,
    key: String,
    label: String,
    values: Vec<f32>,
    group: Option<String>,
}

impl Found {
    fn push(&mut self, row: Row) -> Result<()> {
        ensure!(
            self.rows.len() < MAX_SAMPLES,
            "expected at most {MAX_SAMPLES} pictures, found more; is the path right?"
        );
        self.rows.push(row);
        Ok(())
    }
}

fn archive(path: &Path, tree: Tree, split: Option<&str>, columns: &Columns) -> Result<Found> {
    let tree = tree.unwrapped();
    match tree.manifest()? {
        Some(name) => manifest::read_inside(&tree, &name, split, columns),
        None => {
            columns.only_label(path)?;
            folder::read(tree, split)
        }
    }
}

/// More pictures than this are refused, so that a mistyped root does not read a whole disk.
const MAX_SAMPLES: usize = 5_000_000;
/// Longest manifest that is read into memory, in bytes.
const MAX_MANIFEST_LEN: u64 = 1 << 30;

#[cfg(test)]
mod tests;
