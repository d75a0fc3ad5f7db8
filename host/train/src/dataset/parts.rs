//! Which parts a set has, such as train and test.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Dataset, MAX_MANIFEST_LEN, Tree, folder, tar, zip};

impl Dataset {
    /// Returns the names that `split` of [`Dataset::open`] may have: those of the folders `train`, `test` and so on, or what
    /// stands in a manifest's column `split`; none where the set has no parts.
    ///
    /// # Errors
    ///
    /// If the set cannot be listed.
    pub fn parts(path: &Path) -> Result<Vec<String>> {
        let meta = fs::metadata(path).with_context(|| format!("opening data set {}", path.display()))?;
        if meta.is_dir() {
            return Ok(folder::parts(&Tree::of_folder(path)?));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let tree = match name.rsplit('.').next().unwrap_or_default() {
            "zip" => zip::tree(path)?.unwrapped(),
            "tar" => tar::tree(path)?.unwrapped(),
            "json" => return Ok(vec![]),
            _ => {
                let file = File::open(path).with_context(|| format!("opening manifest {}", path.display()))?;
                return column(file.take(MAX_MANIFEST_LEN), path);
            }
        };
        match tree.manifest()? {
            Some(name) => {
                let manifest =
                    tree.files.get(&name).with_context(|| format!("expected a member {name}, found none"))?;
                column(&manifest.read(MAX_MANIFEST_LEN)?[..], &manifest.path())
            }
            None => Ok(folder::parts(&tree)),
        }
    }
}

fn column(from: impl Read, path: &Path) -> Result<Vec<String>> {
    let doing = || format!("reading manifest {}", path.display());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(from);
    let header = reader.headers().with_context(doing)?;
    let Some(column) = header.iter().position(|h| h.trim_start_matches('\u{feff}') == "split") else {
        return Ok(vec![]);
    };
    let mut names = BTreeSet::new();
    for record in reader.records() {
        names.insert(record.with_context(doing)?.get(column).unwrap_or_default().to_owned());
        let many = "; is that column a split?";
        ensure!(names.len() <= MOST, "expected at most {MOST} parts in {}, found more{many}", path.display());
    }
    Ok(names.into_iter().collect())
}

/// Most parts of a set.
const MOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn parts_are_folders_or_what_stands_in_the_column() {
        let dir = tree(&["train/a/1.jpg", "test/a/1.jpg", "other/b/1.jpg"]);
        assert_eq!(Dataset::parts(dir.path()).unwrap(), Vec::<String>::new());
        fs::remove_dir_all(dir.path().join("other")).unwrap();
        assert_eq!(Dataset::parts(dir.path()).unwrap(), ["test", "train"]);
        let csv = dir.path().join("set.csv");
        fs::write(&csv, "file,split,label\na,train,x\nb,test,x\nc,train,y\n").unwrap();
        assert_eq!(Dataset::parts(&csv).unwrap(), ["test", "train"]);
        fs::write(&csv, "file,label\na,x\n").unwrap();
        assert_eq!(Dataset::parts(&csv).unwrap(), Vec::<String>::new());
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/manifest.zip");
        assert!(Dataset::parts(&archive).unwrap().contains(&"train".to_owned()));
        assert!(Dataset::parts(&dir.path().join("nowhere")).is_err());
    }
}
