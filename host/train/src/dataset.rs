//! Labelled pictures: image folders and CSV manifests, checked and split.
//!
//! Knows paths and labels; pictures are decoded elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// One labelled picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where the file is.
    pub path: PathBuf,
    /// The path below the set's root with `/` between parts: the same on every machine.
    pub key: String,
    /// Index into the labels.
    pub class: usize,
    /// Pictures of one group (a field, a plant) never fall on both sides of a split.
    pub group: Option<String>,
}

/// A set of labelled pictures, in the order of their keys.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Class names, ascending.
    pub labels: Vec<String>,
    /// The pictures.
    pub samples: Vec<Sample>,
    /// Files that were passed over, with the reason.
    pub ignored: Vec<Ignored>,
}

/// A file that is no part of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];
const OTHER_PICTURES: [&str; 9] = ["gif", "webp", "bmp", "tif", "tiff", "heic", "heif", "avif", "jp2"];
const SPLITS: [&str; 6] = ["train", "test", "val", "valid", "validation", "dev"];
/// Folders nested deeper than this below a class are an error (a loop of links).
const MAX_DEPTH: usize = 16;
/// More pictures than this are refused, so that a mistyped root does not read a whole disk.
const MAX_SAMPLES: usize = 5_000_000;

impl Dataset {
    /// Opens an image folder (`DIR/<class>/…/picture.jpg`) or a CSV manifest (`FILE.csv`).
    ///
    /// A manifest has a header with a column `file` (or `path`, `image`), relative to the manifest, and a column
    /// `label` (or `class`); optional are `group`, and `split` (of which, if `split` is given, only equal rows stay).
    ///
    /// # Errors
    ///
    /// If nothing usable is found: the message says what was expected and what lies there.
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("opening data set {}", path.display()))?;
        let mut rows = Vec::new();
        let mut ignored = Vec::new();
        if meta.is_dir() {
            folder(path, &mut rows, &mut ignored)?;
        } else {
            manifest(path, split, &mut rows)?;
        }
        let labels: Vec<String> = rows.iter().map(|r| r.1.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let index: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(i, l)| (l.as_str(), i)).collect();
        let mut samples: Vec<Sample> = rows
            .iter()
            .map(|(path, label, key, group)| Sample {
                path: path.clone(),
                key: key.clone(),
                class: index[label.as_str()],
                group: group.clone(),
            })
            .collect();
        samples.sort_by(|a, b| a.key.cmp(&b.key));
        ensure!(
            !samples.is_empty(),
            "expected pictures (jpg, jpeg, png) in one folder for each class below {}, found none{}",
            path.display(),
            ignored.first().map_or(String::new(), |i: &Ignored| format!("; {}: {}", i.path.display(), i.reason))
        );
        Ok(Self { labels, samples, ignored })
    }

    /// Numbers the classes as `labels` does, so that a set can be compared with a model.
    ///
    /// # Errors
    ///
    /// If the set has a class that is not among `labels`.
    pub fn relabel(mut self, labels: &[String]) -> Result<Self> {
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

    /// Splits off about `share` of the pictures of each class, or of the groups where the samples have groups.
    ///
    /// Returns (kept, split off) as indices. Which side a picture falls on depends on the seed and the names alone,
    /// never on the order of a directory listing. A class of two or more pictures keeps at least one on each side,
    /// as long as there are no groups.
    pub fn split(&self, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let mut off = BTreeSet::new();
        for class in 0..self.labels.len() {
            let mut plain: Vec<(u64, usize)> = Vec::new();
            for (i, s) in self.samples.iter().enumerate().filter(|(_, s)| s.class == class) {
                match &s.group {
                    Some(group) => {
                        if (rank(seed, group) as f64) < share * u64::MAX as f64 {
                            off.insert(i);
                        }
                    }
                    None => plain.push((rank(seed, &s.key), i)),
                }
            }
            plain.sort_unstable();
            let wanted = (plain.len() as f64 * share).round() as usize;
            let take = if plain.len() < 2 || share <= 0.0 { 0 } else { wanted.clamp(1, plain.len() - 1) };
            off.extend(plain.iter().take(take).map(|p| p.1));
        }
        (0..self.samples.len()).partition(|i| !off.contains(i))
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

fn rank(seed: u64, key: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(key.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

/// Path, label, key, group.
type Row = (PathBuf, String, String, Option<String>);

fn folder(root: &Path, rows: &mut Vec<Row>, ignored: &mut Vec<Ignored>) -> Result<()> {
    let mut classes = Vec::new();
    for path in listing(root)? {
        if path.is_dir() {
            classes.push(path);
        } else {
            ignored.push(Ignored { path, reason: "lies beside the class folders".into() });
        }
    }
    let names: Vec<String> = classes.iter().map(|p| name_of(p)).collect();
    if !names.is_empty() && names.iter().all(|n| SPLITS.contains(&n.to_lowercase().as_str())) {
        bail!(
            "expected one folder for each class in {}, found the splits {}; name one of them, such as {}",
            root.display(),
            names.join(", "),
            root.join(&names[0]).display()
        );
    }
    for (class, label) in classes.iter().zip(names) {
        let before = rows.len();
        class_folder(class, &label, &label, 0, rows, ignored)?;
        if rows.len() == before {
            ignored.push(Ignored { path: class.clone(), reason: "holds no picture".into() });
        }
    }
    Ok(())
}

fn class_folder(
    folder: &Path,
    label: &str,
    key: &str,
    depth: usize,
    rows: &mut Vec<Row>,
    ignored: &mut Vec<Ignored>,
) -> Result<()> {
    ensure!(depth < MAX_DEPTH, "expected at most {MAX_DEPTH} nested folders, found more at {}", folder.display());
    for path in listing(folder)? {
        let key = format!("{key}/{}", name_of(&path));
        if path.is_dir() {
            class_folder(&path, label, &key, depth + 1, rows, ignored)?;
            continue;
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if PICTURES.contains(&extension.as_str()) {
            ensure!(
                rows.len() < MAX_SAMPLES,
                "expected at most {MAX_SAMPLES} pictures, found more; is the folder right?"
            );
            rows.push((path, label.to_owned(), key, None));
        } else if OTHER_PICTURES.contains(&extension.as_str()) {
            let reason = format!("is a .{extension} file, which graft does not read; convert it to JPEG or PNG");
            ignored.push(Ignored { path, reason });
        } else {
            ignored.push(Ignored { path, reason: "is not a picture".into() });
        }
    }
    Ok(())
}

/// Lists a folder by name, without hidden files.
fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("listing {}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if !name_of(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn manifest(path: &Path, split: Option<&str>, rows: &mut Vec<Row>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .with_context(|| format!("opening manifest {}", path.display()))?;
    let header = reader.headers().with_context(|| format!("reading the header of {}", path.display()))?.clone();
    let column = |names: &[&str]| header.iter().position(|h| names.contains(&h.trim_start_matches('\u{feff}')));
    let need = |names: &[&str]| {
        column(names).with_context(|| {
            let found: Vec<&str> = header.iter().collect();
            format!("expected a column {} in {}, found {}", names.join(" or "), path.display(), found.join(", "))
        })
    };
    let (file, label) = (need(&["file", "path", "image"])?, need(&["label", "class"])?);
    let (group, part) = (column(&["group"]), column(&["split"]));
    ensure!(split.is_none() || part.is_some(), "expected a column split in {}, found none", path.display());
    let root = path.parent().unwrap_or(Path::new("."));
    let mut seen = BTreeSet::new();
    for (line, record) in reader.records().enumerate() {
        let record = record.with_context(|| format!("reading row {} of {}", line + 2, path.display()))?;
        if let (Some(wanted), Some(part)) = (split, part)
            && record.get(part) != Some(wanted)
        {
            continue;
        }
        let field = |c: usize| record.get(c).unwrap_or_default().to_owned();
        let (file, label) = (field(file), field(label));
        ensure!(
            !file.is_empty() && !label.is_empty(),
            "expected a file and a label in row {} of {}, found {file:?} and {label:?}",
            line + 2,
            path.display()
        );
        ensure!(seen.insert(file.clone()), "expected each file once in {}, found {file} again", path.display());
        ensure!(rows.len() < MAX_SAMPLES, "expected at most {MAX_SAMPLES} rows in {}, found more", path.display());
        let group = group.map(field).filter(|g| !g.is_empty());
        rows.push((root.join(&file), label, file.replace('\\', "/"), group));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for f in files {
            let path = dir.path().join(f);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_gives_sorted_labels_and_counts_what_it_passes_over() {
        let dir =
            tree(&["rust/b.JPG", "rust/deep/a.png", "healthy/1.jpeg", "healthy/x.gif", "notes.txt", ".git/x.jpg"]);
        fs::create_dir(dir.path().join("empty")).unwrap();
        let set = Dataset::open(dir.path(), None).unwrap();
        assert_eq!(set.labels, ["healthy", "rust"]);
        assert_eq!(
            set.samples.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(),
            ["healthy/1.jpeg", "rust/b.JPG", "rust/deep/a.png"]
        );
        assert_eq!(set.ignored.len(), 3);
        assert!(set.ignored.iter().any(|i| i.reason.contains("convert it")));
    }

    #[test]
    fn split_folders_and_empty_folders_are_named() {
        let dir = tree(&["train/a/1.jpg", "test/a/1.jpg"]);
        assert!(Dataset::open(dir.path(), None).unwrap_err().to_string().contains("found the splits test, train"));
        let empty = tree(&["a/readme.md"]);
        assert!(Dataset::open(empty.path(), None).unwrap_err().to_string().contains("found none"));
        assert!(Dataset::open(&empty.path().join("nowhere"), None).is_err());
    }

    #[test]
    fn a_manifest_is_read_by_column_name_and_split() {
        let dir = tree(&["x/1.jpg", "x/2.jpg", "x/3.jpg"]);
        let csv = dir.path().join("set.csv");
        fs::write(
            &csv,
            "group,file,class,split\nf1,x/1.jpg,rust,train\nf1,x/2.jpg,healthy,train\nf2,x/3.jpg,rust,test\n",
        )
        .unwrap();
        let set = Dataset::open(&csv, Some("train")).unwrap();
        assert_eq!(set.samples.len(), 2);
        assert_eq!(set.samples[0].group.as_deref(), Some("f1"));
        assert_eq!(set.labels, ["healthy", "rust"]);
        fs::write(&csv, "file,kind\na,b\n").unwrap();
        assert!(Dataset::open(&csv, None).unwrap_err().to_string().contains("label or class"));
        fs::write(&csv, "file,label\na,b\na,c\n").unwrap();
        assert!(Dataset::open(&csv, None).unwrap_err().to_string().contains("found a again"));
    }

    #[test]
    fn the_split_is_stratified_and_depends_on_seed_and_names_alone() {
        let files: Vec<String> = (0..40).map(|i| format!("{}/{i}.jpg", if i < 30 { "a" } else { "b" })).collect();
        let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let set = Dataset::open(dir.path(), None).unwrap();
        let (kept, off) = set.split(0.2, 5);
        assert_eq!((kept.len(), off.len()), (32, 8));
        assert_eq!(off.iter().filter(|&&i| set.samples[i].class == 1).count(), 2);
        assert_eq!(set.split(0.2, 5), (kept, off.clone()));
        assert_ne!(set.split(0.2, 6).1, off);
    }

    #[test]
    fn a_group_never_falls_on_both_sides() {
        let mut set = Dataset { labels: vec!["a".into()], samples: vec![], ignored: vec![] };
        for i in 0..200 {
            let key = format!("{i}");
            set.samples.push(Sample { path: key.clone().into(), key, class: 0, group: Some(format!("g{}", i % 20)) });
        }
        let (kept, off) = set.split(0.3, 1);
        let groups = |rows: &[usize]| rows.iter().map(|&i| set.samples[i].group.clone()).collect::<BTreeSet<_>>();
        assert!(!off.is_empty() && groups(&kept).is_disjoint(&groups(&off)));
    }
}
