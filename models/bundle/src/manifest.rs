//! The manifest: what a bundle holds, as canonical JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::limits::{
    MAX_CHUNK_LEN, MAX_CHUNKS, MAX_FILES, MAX_GOLDEN, MAX_LABELS, MAX_PAYLOAD_LEN, MAX_STORED_LEN, MAX_TEXT_LEN,
};
use crate::{BundleError, Digest, MODEL_FILE};

/// What a bundle holds. Its JSON has the fields in this order and no white space; another text of the same content is
/// refused, so that a bundle has one digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name for people.
    pub name: String,
    /// Program and version that packed it.
    pub created_by: String,
    /// Class names, in the order of the logits.
    pub labels: Vec<String>,
    /// Whatever else travels with the model.
    pub metadata: BTreeMap<String, String>,
    /// The files.
    pub files: Vec<FileEntry>,
    /// The distinct chunks, in the order in which they are stored.
    pub chunks: Vec<ChunkEntry>,
    /// Pictures with the outputs expected for them.
    pub golden: Vec<Golden>,
    /// Largest allowed difference of a logit.
    pub tolerance: f32,
}

/// One file: its chunks joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative, with `/` between plain parts.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Of the whole file.
    pub digest: Digest,
    /// Places in [`Manifest::chunks`].
    pub chunks: Vec<u32>,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkEntry {
    /// Of the unpacked bytes.
    pub digest: Digest,
    /// Unpacked bytes.
    pub raw_len: u32,
    /// Bytes of the zstd frame.
    pub stored_len: u32,
}

/// A picture with the logits that the host's engine gave for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Path of the picture in the bundle.
    pub file: String,
    /// The true class, for people.
    pub label: String,
    /// One for each label.
    pub logits: Vec<f32>,
}

impl Manifest {
    /// Returns what is said of a file.
    ///
    /// # Errors
    ///
    /// [`BundleError::NoFile`].
    pub fn file(&self, path: &str) -> Result<&FileEntry, BundleError> {
        self.files.iter().find(|f| f.path == path).ok_or_else(|| BundleError::NoFile(path.to_owned()))
    }

    /// Reads a manifest and checks all that can be checked without the chunks.
    ///
    /// # Errors
    ///
    /// [`BundleError::Manifest`] or [`BundleError::Limit`].
    pub(crate) fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let manifest: Self = serde_json::from_slice(json).map_err(|e| BundleError::Manifest(e.to_string()))?;
        if manifest.to_json()? != json {
            return Err(BundleError::Manifest(
                "expected canonical JSON, found another text of the same content".into(),
            ));
        }
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, BundleError> {
        serde_json::to_vec(self).map_err(|e| BundleError::Manifest(e.to_string()))
    }

    /// Returns the bytes of all files, unpacked.
    pub fn payload_len(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.len))
    }

    /// Returns the bytes of all chunks as stored.
    pub fn stored_len(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.stored_len)).sum()
    }

    pub(crate) fn check(&self) -> Result<(), BundleError> {
        limit("files", MAX_FILES, self.files.len())?;
        limit("chunks", MAX_CHUNKS, self.chunks.len())?;
        limit("golden samples", MAX_GOLDEN, self.golden.len())?;
        limit("labels", MAX_LABELS, self.labels.len())?;
        let texts = [&self.name, &self.created_by].into_iter().chain(&self.labels);
        for text in texts.chain(self.metadata.iter().flat_map(|(k, v)| [k, v])) {
            limit("bytes in a text", MAX_TEXT_LEN * 64, text.len())?;
        }
        for chunk in &self.chunks {
            limit("bytes in a chunk", MAX_CHUNK_LEN, chunk.raw_len as usize)?;
            limit("stored bytes in a chunk", MAX_STORED_LEN, chunk.stored_len as usize)?;
            if chunk.raw_len == 0 {
                return Err(BundleError::Manifest("expected chunks of at least one byte, found an empty one".into()));
            }
        }
        if self.chunks.iter().map(|c| c.digest).collect::<BTreeSet<_>>().len() != self.chunks.len() {
            return Err(BundleError::Manifest("expected every chunk once, found one twice".into()));
        }
        self.check_files()?;
        self.check_golden()
    }

    fn check_files(&self) -> Result<(), BundleError> {
        let mut used = vec![false; self.chunks.len()];
        let mut paths = BTreeSet::new();
        for file in &self.files {
            if !is_plain(&file.path) {
                return Err(BundleError::Manifest(format!("expected a plain relative path, found {:?}", file.path)));
            }
            if !paths.insert(file.path.as_str()) {
                return Err(BundleError::Manifest(format!("expected each path once, found {:?} twice", file.path)));
            }
            let mut len = 0u64;
            for &index in &file.chunks {
                let place = usize::try_from(index).unwrap_or(usize::MAX);
                let (Some(chunk), Some(used)) = (self.chunks.get(place), used.get_mut(place)) else {
                    let count = self.chunks.len();
                    return Err(BundleError::Manifest(format!(
                        "expected chunks below {count}, found {index} in {:?}",
                        file.path
                    )));
                };
                *used = true;
                len += u64::from(chunk.raw_len);
            }
            if len != file.len {
                let (path, wanted) = (&file.path, file.len);
                return Err(BundleError::Manifest(format!(
                    "expected {wanted} bytes in {path:?}, found chunks of {len}"
                )));
            }
        }
        // A path must not be a folder of another one.
        for (a, b) in paths.iter().zip(paths.iter().skip(1)) {
            if b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/')) {
                return Err(BundleError::Manifest(format!("expected files, found {a:?} to be a folder as well")));
            }
        }
        if self.payload_len() > MAX_PAYLOAD_LEN {
            return Err(BundleError::Limit {
                what: "bytes in all files",
                limit: MAX_PAYLOAD_LEN,
                found: self.payload_len(),
            });
        }
        if let Some(index) = used.iter().position(|u| !u) {
            return Err(BundleError::Manifest(format!(
                "expected every chunk to belong to a file, found {index} in none"
            )));
        }
        if !paths.contains(MODEL_FILE) {
            return Err(BundleError::Manifest(format!("expected a file {MODEL_FILE}, found none")));
        }
        Ok(())
    }

    fn check_golden(&self) -> Result<(), BundleError> {
        if !(self.tolerance.is_finite() && self.tolerance >= 0.0) {
            return Err(BundleError::Manifest(format!("expected a tolerance of 0 or more, found {}", self.tolerance)));
        }
        for golden in &self.golden {
            if !self.files.iter().any(|f| f.path == golden.file) {
                return Err(BundleError::Manifest(format!(
                    "expected the golden sample {:?} among the files, found none",
                    golden.file
                )));
            }
            if golden.logits.len() != self.labels.len() || golden.logits.iter().any(|v| !v.is_finite()) {
                let (count, found) = (self.labels.len(), golden.logits.len());
                return Err(BundleError::Manifest(format!(
                    "expected {count} finite logits in {:?}, found {found}",
                    golden.file
                )));
            }
        }
        Ok(())
    }
}

fn limit(what: &'static str, limit: usize, found: usize) -> Result<(), BundleError> {
    if found <= limit {
        return Ok(());
    }
    Err(BundleError::Limit { what, limit: limit as u64, found: found as u64 })
}

/// Whether a path is relative, has no empty, `.` or `..` part, and means the same on every system.
fn is_plain(path: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && part.len() <= 100
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            && !part.starts_with('.')
    };
    path.split('/').count() <= 4 && path.split('/').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_taken() {
        for good in ["model.onnx", "golden/00.jpg", "a/b/c/d"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".x", "C:\\x", "a\\b", "ä", "a b", "a/b/c/d/e", "a\0b"]
        {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
