//! Feature vectors of a frozen backbone, computed once by the shipped engine and kept on disk by content digest.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use graft_runtime::Model;
use rayon::prelude::*;

use crate::augment::Augmentation;
use crate::dataset::{Ignored, Sample};
use crate::pictures::{self, OnBad};
use crate::pretrained::Pretrained;
use crate::rng::Rng;

/// The features of a set's pictures.
#[derive(Debug, Clone)]
pub struct Features {
    /// Indices into the samples, ascending: those whose picture could be read.
    pub rows: Vec<usize>,
    /// `[rows, views, width]`, row-major; the first view is the picture as the device sees it.
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

/// How many views of each picture, and how they are varied.
#[derive(Debug, Clone, PartialEq)]
pub struct Varied {
    /// At least 1: the picture as the device sees it is the first.
    pub views: usize,
    /// How the others are varied.
    pub augmentation: Augmentation,
    /// Seed of the variation.
    pub seed: u64,
}

impl Varied {
    /// The picture as the device sees it, and no other view.
    pub fn plain() -> Self {
        Self { views: 1, augmentation: Augmentation::default(), seed: 0 }
    }

    /// Returns what a view of a picture is kept under, which also is the seed of what varies it.
    fn key(&self, picture: &[u8; 32], view: usize) -> Result<[u8; 32]> {
        if view == 0 {
            return Ok(*picture);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(picture).update(&self.seed.to_le_bytes()).update(&(view as u64).to_le_bytes());
        Ok(*hasher.update(serde_json::to_string(&self.augmentation)?.as_bytes()).finalize().as_bytes())
    }
}

/// Pictures between two writes to the cache.
const CHUNK: usize = 32;

/// Computes the features of `samples`, of as many views of each as `varied` says; vectors already in `cache` are not computed again.
///
/// `stop` ends the work at the next chunk; what was computed stays in the cache.
///
/// # Errors
///
/// If the backbone cannot be run, the cache cannot be written, or, with [`OnBad::Fail`], a picture cannot be read.
pub fn features(
    pretrained: &Pretrained,
    samples: &[Sample],
    varied: &Varied,
    cache: &Path,
    on_bad: OnBad,
    stop: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Features> {
    let onnx = pretrained.graph(None, &[])?;
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
        let done: Vec<Result<Outcome>> =
            chunk.par_iter().map(|s| one(&model, s, varied, known, on_bad, width)).collect();
        let mut fresh = Vec::new();
        for (i, outcome) in done.into_iter().enumerate() {
            let sample = &chunk[i];
            match outcome? {
                Outcome::Skipped(ignored) => out.skipped.push(ignored),
                Outcome::Vectors { picture, vectors, fresh: computed } => {
                    digest
                        .update(sample.key.as_bytes())
                        .update(&[0])
                        .update(&(sample.class as u64).to_le_bytes())
                        .update(&picture);
                    sample.values.iter().for_each(|v| {
                        digest.update(&v.to_le_bytes());
                    });
                    out.rows.push(chunk_index * CHUNK + i);
                    out.data.extend(vectors.concat());
                    out.cached += vectors.len() - computed.len();
                    fresh.extend(computed);
                }
            }
        }
        store.append(fresh)?;
        progress((chunk_index * CHUNK + chunk.len()).min(samples.len()), samples.len());
    }
    out.data_digest = digest.finalize().to_hex().to_string();
    Ok(out)
}

/// What a view is kept under, and its features.
type Kept = ([u8; 32], Vec<f32>);

enum Outcome {
    /// Of every view; `fresh` are those that were not known.
    Vectors {
        picture: [u8; 32],
        vectors: Vec<Vec<f32>>,
        fresh: Vec<Kept>,
    },
    Skipped(Ignored),
}

fn one(
    model: &Model,
    sample: &Sample,
    varied: &Varied,
    known: &HashMap<[u8; 32], Vec<f32>>,
    on_bad: OnBad,
    width: usize,
) -> Result<Outcome> {
    let keys = |picture: &[u8; 32]| (0..varied.views).map(|v| varied.key(picture, v)).collect::<Result<Vec<_>>>();
    // The digest alone is enough for a picture that is known: no need to decode it.
    if let Ok(bytes) = pictures::bytes(sample) {
        let picture = *blake3::hash(&bytes).as_bytes();
        if let Some(vectors) = keys(&picture)?.iter().map(|k| known.get(k).cloned()).collect() {
            return Ok(Outcome::Vectors { picture, vectors, fresh: vec![] });
        }
    }
    let pixels = match pictures::read(sample, model.preprocessing(), on_bad)? {
        Ok(pixels) => pixels,
        Err(ignored) => return Ok(Outcome::Skipped(ignored)),
    };
    let (mut vectors, mut fresh) = (vec![], vec![]);
    for key in keys(&pixels.digest)? {
        if let Some(vector) = known.get(&key) {
            vectors.push(vector.clone());
            continue;
        }
        let view = if key == pixels.digest {
            &pixels.data
        } else {
            let mut rng = Rng::new(u64::from_le_bytes(key[..8].try_into().unwrap_or_default()));
            &varied.augmentation.view(&pixels.picture, model.preprocessing(), &mut rng)
        };
        let mut outputs = model.run(view)?;
        let vector = if outputs.is_empty() { vec![] } else { outputs.swap_remove(0) };
        ensure!(vector.len() == width, "expected {width} features, found {}", vector.len());
        fresh.push((key, vector.clone()));
        vectors.push(vector);
    }
    Ok(Outcome::Vectors { picture: pixels.digest, vectors, fresh })
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

    fn append(&mut self, fresh: Vec<Kept>) -> Result<()> {
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
