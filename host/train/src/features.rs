//! Feature vectors of a frozen backbone, computed once by the shipped engine and kept on disk by content digest.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use graft_onnx::{Export, Metadata, Outputs};
use graft_runtime::{Model, PREPROCESSING, PREPROCESSING_DIGEST};
use rayon::prelude::*;

use crate::dataset::{Ignored, Sample};
use crate::pictures::{self, OnBad};
use crate::pretrained::Pretrained;

/// The features of a set's pictures.
#[derive(Debug, Clone)]
pub struct Features {
    /// Indices into the samples, ascending: those whose picture could be read.
    pub rows: Vec<usize>,
    /// `[rows, width]`, row-major.
    pub data: Vec<f32>,
    /// Length of a vector.
    pub width: usize,
    /// Pictures left out.
    pub skipped: Vec<Ignored>,
    /// How many vectors came from the cache.
    pub cached: usize,
    /// BLAKE3 over every used picture's key, class and content, in hex.
    pub data_digest: String,
}

/// Pictures between two writes to the cache.
const CHUNK: usize = 32;

/// Computes the features of `samples`; vectors already in `cache` are not computed again.
///
/// `stop` ends the work at the next chunk; what was computed stays in the cache.
///
/// # Errors
///
/// If the backbone cannot be run, the cache cannot be written, or, with [`OnBad::Fail`], a picture cannot be read.
pub fn features(
    pretrained: &Pretrained,
    samples: &[Sample],
    cache: &Path,
    on_bad: OnBad,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Features> {
    let export = Export {
        network: &pretrained.network,
        weights: &pretrained.backbone,
        head: None,
        preprocessing: &pretrained.preprocessing,
    };
    let metadata = Metadata::from([
        (PREPROCESSING.to_owned(), pretrained.preprocessing.to_json()),
        (PREPROCESSING_DIGEST.to_owned(), pretrained.preprocessing.digest()),
    ]);
    let onnx = export.float(Outputs::Last, &metadata)?;
    let model = Model::from_onnx(&onnx).context("loading the backbone")?;
    let width = pretrained.network.features;
    let mut store = Store::open(cache, blake3::hash(&onnx).to_hex().as_str(), width)?;
    let mut out =
        Features { rows: vec![], data: vec![], width, skipped: vec![], cached: 0, data_digest: String::new() };
    let mut digest = blake3::Hasher::new();
    for (chunk_index, chunk) in samples.chunks(CHUNK).enumerate() {
        if stop.load(Ordering::Relaxed) {
            bail!(
                "stopped after {} of {} pictures; the same command goes on from there",
                chunk_index * CHUNK,
                samples.len()
            );
        }
        let known = &store.known;
        let done: Vec<Result<Outcome>> = chunk.par_iter().map(|s| one(&model, s, known, on_bad, width)).collect();
        let mut fresh = Vec::new();
        for (i, outcome) in done.into_iter().enumerate() {
            let sample = &chunk[i];
            match outcome? {
                Outcome::Skipped(ignored) => out.skipped.push(ignored),
                Outcome::Vector { picture, vector, cached } => {
                    digest
                        .update(sample.key.as_bytes())
                        .update(&[0])
                        .update(&(sample.class as u64).to_le_bytes())
                        .update(&picture);
                    out.rows.push(chunk_index * CHUNK + i);
                    out.data.extend_from_slice(&vector);
                    out.cached += usize::from(cached);
                    if !cached {
                        fresh.push((picture, vector));
                    }
                }
            }
        }
        store.append(fresh)?;
        progress((chunk_index * CHUNK + chunk.len()).min(samples.len()), samples.len());
    }
    out.data_digest = digest.finalize().to_hex().to_string();
    Ok(out)
}

enum Outcome {
    Vector { picture: [u8; 32], vector: Vec<f32>, cached: bool },
    Skipped(Ignored),
}

fn one(
    model: &Model,
    sample: &Sample,
    known: &HashMap<[u8; 32], Vec<f32>>,
    on_bad: OnBad,
    width: usize,
) -> Result<Outcome> {
    // The digest alone is enough for a picture that is known: no need to decode it.
    if let Ok(bytes) = pictures::bytes(sample) {
        let picture = *blake3::hash(&bytes).as_bytes();
        if let Some(vector) = known.get(&picture) {
            return Ok(Outcome::Vector { picture, vector: vector.clone(), cached: true });
        }
    }
    let pixels = match pictures::read(sample, model.preprocessing(), on_bad)? {
        Ok(pixels) => pixels,
        Err(ignored) => return Ok(Outcome::Skipped(ignored)),
    };
    let mut outputs = model.run(&pixels.data)?;
    let vector = if outputs.is_empty() { vec![] } else { outputs.swap_remove(0) };
    ensure!(vector.len() == width, "expected {width} features, found {}", vector.len());
    Ok(Outcome::Vector { picture: pixels.digest, vector, cached: false })
}

/// A file of fixed-length records: digest of the picture (32), vector (4 * width), check (8, BLAKE3 of the rest).
///
/// A record torn by a power cut fails its check and ends the file there.
struct Store {
    file: File,
    path: PathBuf,
    known: HashMap<[u8; 32], Vec<f32>>,
}

impl Store {
    fn open(cache: &Path, backbone: &str, width: usize) -> Result<Self> {
        let folder = cache.join("features");
        fs::create_dir_all(&folder).with_context(|| format!("making the cache folder {}", folder.display()))?;
        let path = folder.join(format!("{}.bin", &backbone[..32]));
        let doing = || format!("opening the feature cache {}", path.display());
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(doing)?;
        // One run at a time adds to a cache; a second waits here.
        file.lock().with_context(doing)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(doing)?;
        let mut known = HashMap::new();
        let mut good = 0u64;
        for record in bytes.chunks_exact(40 + 4 * width) {
            let (body, check) = record.split_at(record.len() - 8);
            if check != &blake3::hash(body).as_bytes()[..8] {
                break;
            }
            let vector = body[32..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let mut key = [0; 32];
            key.copy_from_slice(&body[..32]);
            known.insert(key, vector);
            good += record.len() as u64;
        }
        file.set_len(good).with_context(doing)?;
        file.seek(SeekFrom::Start(good)).with_context(doing)?;
        Ok(Self { file, path, known })
    }

    fn append(&mut self, fresh: Vec<([u8; 32], Vec<f32>)>) -> Result<()> {
        let mut bytes = Vec::new();
        for (key, vector) in fresh {
            let start = bytes.len();
            bytes.extend_from_slice(&key);
            bytes.extend(vector.iter().flat_map(|v| v.to_le_bytes()));
            let check = blake3::hash(&bytes[start..]);
            bytes.extend_from_slice(&check.as_bytes()[..8]);
            self.known.insert(key, vector);
        }
        self.file.write_all(&bytes).with_context(|| format!("writing the feature cache {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_survives_a_torn_record_and_a_flipped_bit() {
        let dir = tempfile::tempdir().unwrap();
        let name = "0123456789abcdef0123456789abcdef0123";
        let mut store = Store::open(dir.path(), name, 3).unwrap();
        store.append((0..4u8).map(|i| ([i; 32], vec![f32::from(i); 3])).collect()).unwrap();
        let path = store.path.clone();
        drop(store);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 1);
        bytes[2 * 52 + 33] ^= 1;
        fs::write(&path, bytes).unwrap();
        let mut store = Store::open(dir.path(), name, 3).unwrap();
        assert_eq!(store.known.len(), 2);
        store.append(vec![([9; 32], vec![9.0; 3])]).unwrap();
        drop(store);
        assert_eq!(Store::open(dir.path(), name, 3).unwrap().known[&[9; 32]], [9.0; 3]);
    }
}
