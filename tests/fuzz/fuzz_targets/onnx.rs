//! ONNX files, most of them sound protocol buffers of unsound graphs: loaded and run as a device does.

#![no_main]

use graft_runtime::{EngineChoice, Model, Network, PREPROCESSING, Picture};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    if let Ok(network) = Network::from_onnx(data, EngineChoice::Best) {
        let len: usize = network.input().iter().product();
        if len <= MOST_NUMBERS {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 251) as u8).collect();
            let floats: Vec<f32> = bytes.iter().map(|b| (f32::from(*b) - 120.0) / 61.0).collect();
            let picture = if network.takes_bytes() { Picture::Bytes(&bytes) } else { Picture::Floats(&floats) };
            let answer = network.run(picture);
            // What graft's own kernels were given was checked, so they have no excuse.
            assert!(answer.is_ok() || network.unrecognised().is_some(), "{answer:?}");
        }
    }
    let has_key = data.windows(PREPROCESSING.len()).any(|text| text == PREPROCESSING.as_bytes());
    if has_key
        && let Ok(model) = Model::from_onnx(data)
        && model.preprocessing().crop <= MOST_SIDE
    {
        let picture = image::RgbImage::from_pixel(9, 11, image::Rgb([200, 9, 1]));
        if model.preprocessing().resize_shorter <= MOST_SIDE {
            let _ = model.classify(&picture);
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if !seed.is_multiple_of(8)
        && let Some(bytes) = graft_fuzz::graph::changed(&data[..size], seed)
        && bytes.len() <= max_size
    {
        data[..bytes.len()].copy_from_slice(&bytes);
        return bytes.len();
    }
    fuzzer_mutate(data, size, max_size)
});

/// Pixels a side, and numbers of a picture, up to which a network is run.
const MOST_SIDE: u32 = 64;
const MOST_NUMBERS: usize = 64 * 64 * 4;

fn seeds() -> Vec<Vec<u8>> {
    let sound = |onnx: &Vec<u8>| Model::from_onnx(onnx).is_ok();
    let mut files = graft_fuzz::models::pictures(2500, &[4, 5, 6, 7, 8, 9, 10, 12, 16]);
    files.retain(sound);
    files.extend(graft_fuzz::models::suite(4000));
    files
}
