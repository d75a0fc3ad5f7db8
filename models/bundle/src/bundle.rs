//! A bundle read back: every byte accounted for.

use std::fs;
use std::path::Path;

use crate::limits::{MAX_CHUNK_LEN, MAX_CHUNKS, MAX_MANIFEST_LEN, MAX_STORED_LEN};
use crate::{BundleError, ChunkEntry, Digest, Head, Manifest};

/// A bundle whose structure, digests and signature are right. Whether to trust its key is [`Head::trust`]'s matter.
#[derive(Debug, Clone)]
pub struct Bundle {
    head: Head,
    payload: Vec<u8>,
    /// Offset of each chunk in the payload.
    offsets: Vec<usize>,
}

impl Bundle {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Any [`BundleError`] but those of trust.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: path.display().to_string(), source };
        let found = fs::metadata(path).map_err(io)?.len();
        let limit = (MAX_MANIFEST_LEN + 1024) as u64 + MAX_CHUNKS as u64 * MAX_STORED_LEN as u64;
        if found > limit {
            return Err(BundleError::Limit { what: "bytes in a bundle", limit, found });
        }
        Self::from_bytes(&fs::read(path).map_err(io)?)
    }

    /// Checks the bytes of a file.
    ///
    /// # Errors
    ///
    /// As [`Bundle::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let (head, payload) = Head::split(bytes)?;
        let front = head.bytes().len() as u64;
        let (expected, found) = (front + head.manifest().stored_len(), bytes.len() as u64);
        if found < expected {
            return Err(BundleError::Truncated { expected, found });
        }
        if found > expected {
            return Err(BundleError::Trailing { expected, found });
        }
        let digest = Digest::of(payload);
        if digest != head.payload_digest() {
            return Err(BundleError::Digest {
                what: "the payload".into(),
                expected: head.payload_digest(),
                found: digest,
            });
        }
        let mut offsets = Vec::with_capacity(head.manifest().chunks.len());
        let mut at = 0;
        for chunk in &head.manifest().chunks {
            offsets.push(at);
            at += chunk.stored_len as usize;
        }
        let bundle = Self { head, payload: payload.to_vec(), offsets };
        for index in 0..bundle.manifest().chunks.len() {
            bundle.chunk(index)?;
        }
        for file in &bundle.manifest().files {
            bundle.file(&file.path)?;
        }
        Ok(bundle)
    }

    /// Returns the head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns what it holds.
    pub fn manifest(&self) -> &Manifest {
        self.head.manifest()
    }

    /// Returns a chunk as stored, which is how it travels; nothing for an index that the manifest has not.
    pub fn stored_chunk(&self, index: usize) -> &[u8] {
        let (Some(&from), Some(chunk)) = (self.offsets.get(index), self.manifest().chunks.get(index)) else {
            return &[];
        };
        self.payload.get(from..from + chunk.stored_len as usize).unwrap_or_default()
    }

    fn chunk(&self, index: usize) -> Result<Vec<u8>, BundleError> {
        match self.manifest().chunks.get(index) {
            Some(entry) => decode_chunk(index, entry, self.stored_chunk(index)),
            None => Err(BundleError::Manifest(format!("expected chunk {index}, found none"))),
        }
    }

    /// Returns a file.
    ///
    /// # Errors
    ///
    /// [`BundleError::NoFile`].
    pub fn file(&self, path: &str) -> Result<Vec<u8>, BundleError> {
        let entry = self.manifest().file(path)?;
        let mut bytes = Vec::with_capacity(usize::try_from(entry.len).unwrap_or(0));
        for &index in &entry.chunks {
            bytes.extend(self.chunk(index as usize)?);
        }
        let found = Digest::of(&bytes);
        if found != entry.digest {
            return Err(BundleError::Digest { what: path.into(), expected: entry.digest, found });
        }
        Ok(bytes)
    }
}

/// Unpacks a chunk as stored, and checks its length and digest.
///
/// # Errors
///
/// [`BundleError::Chunk`] or [`BundleError::Digest`].
pub fn decode_chunk(index: usize, entry: &ChunkEntry, stored: &[u8]) -> Result<Vec<u8>, BundleError> {
    let wrong = || BundleError::Chunk { index, expected: entry.raw_len };
    let len = entry.raw_len as usize;
    if stored.len() != entry.stored_len as usize || len > MAX_CHUNK_LEN {
        return Err(wrong());
    }
    let bytes = zstd::bulk::decompress(stored, len).map_err(|_| wrong())?;
    if bytes.len() != len {
        return Err(wrong());
    }
    let found = Digest::of(&bytes);
    if found != entry.digest {
        return Err(BundleError::Digest { what: format!("chunk {index}"), expected: entry.digest, found });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
