//! Models to begin with: the conformance suite of the runtime, and what has to be added to make a picture's model of one.

use std::fs;

use graft_runtime::{PREPROCESSING, PREPROCESSING_DIGEST};
use graft_zoo::Preprocessing;
use prost::Message;
use tract_onnx::pb::{ModelProto, StringStringEntryProto};

/// Returns the ONNX files of the runtime's conformance suite of at most so many bytes, in the order of their names.
pub fn suite(most: usize) -> Vec<Vec<u8>> {
    let folder = crate::root().join("device/runtime/tests/onnx");
    let entries = fs::read_dir(folder).expect("the conformance suite").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    paths.sort();
    let files = paths.into_iter().map(|path| fs::read(path).expect("a file of the suite"));
    files.filter(|bytes| bytes.len() <= most).collect()
}

/// Returns the file with a preprocessing that makes pictures of so many pixels a side.
pub fn with_preprocessing(onnx: &[u8], side: u32) -> Vec<u8> {
    let mut model = ModelProto::decode(onnx).expect("a file of the suite");
    let p = Preprocessing { resize_shorter: side, crop: side, mean: [0.0; 3], std: [1.0; 3] };
    for (key, value) in [(PREPROCESSING, p.to_json()), (PREPROCESSING_DIGEST, p.digest())] {
        model.metadata_props.push(StringStringEntryProto { key: key.to_owned(), value });
    }
    model.encode_to_vec()
}

/// Returns files that are a picture's model if they are models of `sides` pixels at all.
pub fn pictures(most: usize, sides: &[u32]) -> Vec<Vec<u8>> {
    let suite = suite(most);
    suite.iter().flat_map(|onnx| sides.iter().map(|side| with_preprocessing(onnx, *side))).collect()
}
