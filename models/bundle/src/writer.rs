//! Packs a bundle: cuts files into chunks, stores each once, signs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::limits::MAX_CHUNK_LEN;
use crate::{BundleError, ChunkEntry, Digest, FileEntry, Golden, Head, Manifest, SecretKey, write_whole};

/// Collects what a bundle is to hold.
#[derive(Debug, Clone)]
pub struct BundleWriter {
    manifest: Manifest,
    index: HashMap<Digest, u32>,
    /// The zstd frames.
    payload: Vec<u8>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file.
    pub file_len: u64,
    /// Bytes of the head.
    pub head_len: u64,
    /// Bytes of all files in it, unpacked.
    pub payload_len: u64,
    /// Distinct chunks.
    pub chunks: usize,
    /// Digest of the head, which names the bundle.
    pub digest: Digest,
}

/// High enough to matter on a serial line; the device only unpacks.
const LEVEL: i32 = 19;

impl BundleWriter {
    /// Begins a bundle.
    pub fn new(name: &str, created_by: &str) -> Self {
        let manifest = Manifest {
            name: name.into(),
            created_by: created_by.into(),
            labels: vec![],
            metadata: BTreeMap::new(),
            files: vec![],
            chunks: vec![],
            golden: vec![],
            tolerance: 0.0,
        };
        Self { manifest, index: HashMap::new(), payload: vec![] }
    }

    /// Sets the class names.
    pub fn labels(&mut self, labels: &[String]) -> &mut Self {
        self.manifest.labels = labels.to_vec();
        self
    }

    /// Sets what else travels with the model.
    pub fn metadata(&mut self, metadata: BTreeMap<String, String>) -> &mut Self {
        self.manifest.metadata = metadata;
        self
    }

    /// Adds a file. A chunk never crosses one of `borders` (ascending offsets), so a change between two of them leaves
    /// the chunks outside as they are.
    ///
    /// # Errors
    ///
    /// [`BundleError::Manifest`] if zstd fails, which it does only without memory.
    pub fn add_file(&mut self, path: &str, bytes: &[u8], borders: &[usize]) -> Result<&mut Self, BundleError> {
        let mut chunks = Vec::new();
        for part in cut(bytes, borders) {
            let digest = Digest::of(part);
            let index = match self.index.get(&digest) {
                Some(&index) => index,
                None => {
                    let stored = zstd::bulk::compress(part, LEVEL)
                        .map_err(|e| BundleError::Manifest(format!("packing {path}: {e}")))?;
                    let index = u32::try_from(self.manifest.chunks.len()).unwrap_or(u32::MAX);
                    let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                    self.manifest.chunks.push(ChunkEntry {
                        digest,
                        raw_len: len(part.len()),
                        stored_len: len(stored.len()),
                    });
                    self.payload.extend(stored);
                    self.index.insert(digest, index);
                    index
                }
            };
            chunks.push(index);
        }
        self.manifest.files.push(FileEntry {
            path: path.into(),
            len: bytes.len() as u64,
            digest: Digest::of(bytes),
            chunks,
        });
        Ok(self)
    }

    /// Adds a golden sample whose picture is a file of the bundle.
    pub fn golden(&mut self, file: &str, label: &str, logits: &[f32]) -> &mut Self {
        self.manifest.golden.push(Golden { file: file.into(), label: label.into(), logits: logits.to_vec() });
        self
    }

    /// Sets the largest allowed difference of a logit on the device.
    pub fn tolerance(&mut self, tolerance: f32) -> &mut Self {
        self.manifest.tolerance = tolerance;
        self
    }

    /// Returns the file's bytes. The same content and key give the same bytes.
    ///
    /// # Errors
    ///
    /// [`BundleError::Manifest`] or [`BundleError::Limit`] if no device would take it.
    pub fn to_bytes(&self, key: Option<&SecretKey>) -> Result<Vec<u8>, BundleError> {
        self.manifest.check()?;
        let head = Head::make(self.manifest.clone(), Digest::of(&self.payload), key)?;
        Ok([head.bytes(), &self.payload].concat())
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`BundleWriter::to_bytes`], and [`BundleError::Io`].
    pub fn write(&self, path: &Path, key: Option<&SecretKey>) -> Result<Summary, BundleError> {
        let bytes = self.to_bytes(key)?;
        write_whole(path, &bytes).map_err(|source| BundleError::Io { path: path.display().to_string(), source })?;
        let head_len = bytes.len() - self.payload.len();
        Ok(Summary {
            file_len: bytes.len() as u64,
            head_len: head_len as u64,
            payload_len: self.manifest.payload_len(),
            chunks: self.manifest.chunks.len(),
            digest: Digest::of(&bytes[..head_len]),
        })
    }
}

/// Cuts at every border, and between two borders every [`MAX_CHUNK_LEN`] bytes.
fn cut<'a>(bytes: &'a [u8], borders: &[usize]) -> Vec<&'a [u8]> {
    let mut at: BTreeSet<usize> = borders.iter().copied().filter(|&b| b > 0 && b < bytes.len()).collect();
    at.insert(bytes.len());
    let mut parts = Vec::new();
    let mut from = 0;
    for to in at {
        parts.extend(bytes[from..to].chunks(MAX_CHUNK_LEN));
        from = to;
    }
    parts
}
