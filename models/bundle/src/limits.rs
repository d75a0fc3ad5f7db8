//! What a bundle may hold at most; a device refuses more before it allocates.

/// Bytes of the manifest.
pub const MAX_MANIFEST_LEN: usize = 4 << 20;
/// Bytes of all files together, unpacked.
pub const MAX_PAYLOAD_LEN: u64 = 512 << 20;
/// Bytes of one chunk, unpacked.
pub const MAX_CHUNK_LEN: usize = 64 << 10;
/// Bytes of one chunk as stored: zstd adds little where nothing can be saved.
pub const MAX_STORED_LEN: usize = MAX_CHUNK_LEN + 1024;
/// Distinct chunks.
pub const MAX_CHUNKS: usize = 32_768;
/// Files.
pub const MAX_FILES: usize = 256;
/// Golden samples.
pub const MAX_GOLDEN: usize = 64;
/// Labels, and so logits of a golden sample.
pub const MAX_LABELS: usize = 10_000;
/// Bytes of a path, name, label or metadata value.
pub const MAX_TEXT_LEN: usize = 4096;
