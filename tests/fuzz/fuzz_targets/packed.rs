//! A packed model that is whole by its checksum and says anything.
//!
//! An input is the length of the description, 4 bytes, the description, and the weights; the front of the file is made here.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use graft_bundle::Digest;
use graft_runtime::{Cache, Loaded, Model, RuntimeError};
use libfuzzer_sys::fuzz_target;

/// Bytes before the description.
const FRONT: usize = 96;
/// Weights begin on a multiple of so many bytes.
const ALIGNED: usize = 64;
const DIGEST: [u8; 32] = [7; 32];

static BENCH: OnceLock<Bench> = OnceLock::new();

/// Where the file lies, and how one of this build begins.
struct Bench {
    path: PathBuf,
    front: [u8; FRONT],
}

fuzz_target!(init: begin(), |data: &[u8]| {
    let bench = BENCH.get().expect("a target that has begun");
    let Some((len, rest)) = data.split_first_chunk() else { return };
    let len = u32::from_le_bytes(*len) as usize % (rest.len() + 1);
    let (description, numbers) = rest.split_at(len);
    let mut bytes = bench.front.to_vec();
    bytes.extend(description);
    bytes.resize(bytes.len().next_multiple_of(ALIGNED), 0);
    bytes.extend(numbers);
    let whole = (bytes.len() as u64).to_le_bytes();
    bytes[16..24].copy_from_slice(&whole);
    bytes[24..32].copy_from_slice(&(len as u64).to_le_bytes());
    let sum = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    fs::write(&bench.path, bytes).expect("a file in a folder of its own");
    let Ok(model) = open(&bench.path, None) else { return };
    assert_eq!(*model.network().loaded(), Loaded::Cache);
    let side = model.preprocessing().crop as usize;
    // Larger ones are sound too, and take their time.
    if side <= MOST_SIDE {
        model.run(&vec![9; side * side * 3]).expect("a network that was checked runs");
    }
});

/// Pixels a side up to which a network is run.
const MOST_SIDE: usize = 64;

/// The model is not there, or what was wrong with it.
#[derive(Debug)]
struct Missing;

impl From<RuntimeError> for Missing {
    fn from(_: RuntimeError) -> Self {
        Self
    }
}

fn open(path: &Path, onnx: Option<&[u8]>) -> Result<Model, Missing> {
    Model::cached(DIGEST, &Cache::file(path), || onnx.map(<[u8]>::to_vec).ok_or(Missing))
}

fn begin() {
    // Left behind at the end, which is by exit.
    let folder = tempfile::tempdir().expect("a folder").keep();
    let path = folder.join("packed");
    graft_fuzz::begin(|| packed(&path, usize::MAX).iter().map(|file| input(file)).collect());
    let files = packed(&path, 1);
    let front = *files.first().and_then(|file| file.first_chunk()).expect("a packed model");
    let _ = BENCH.set(Bench { path, front });
}

/// Returns packed models, so many at most.
fn packed(path: &Path, most: usize) -> Vec<Vec<u8>> {
    let models = graft_fuzz::models::pictures(4000, &[4, 5, 6, 7, 8, 9, 10, 12, 16]);
    let keep = |onnx: &Vec<u8>| {
        // A digest that is not the model's is not kept, so it is kept under its own and given the other.
        let _ = fs::remove_file(path);
        let kept: Result<Model, Missing> = Model::cached(Digest::of(onnx).0, &Cache::file(path), || Ok(onnx.clone()));
        kept.ok()?;
        let mut bytes = fs::read(path).ok()?;
        bytes[64..FRONT].copy_from_slice(&DIGEST);
        Some(bytes)
    };
    models.iter().filter_map(keep).take(most).collect()
}

/// Returns the input that gives a file.
fn input(file: &[u8]) -> Vec<u8> {
    let len = u64::from_le_bytes(*file[24..].first_chunk().expect("a front")) as usize;
    let numbers = (FRONT + len).next_multiple_of(ALIGNED);
    [&(len as u32).to_le_bytes()[..], &file[FRONT..FRONT + len], &file[numbers..]].concat()
}
