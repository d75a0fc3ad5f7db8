//! Large pictures out of any bytes, by rows: JPEG, PNG and TIFF.

#![no_main]

use std::io::Cursor;
use std::path::Path;

use graft_tiles::Source;
use graft_tiles::source::Band;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    let Ok(mut source) = Source::new(Cursor::new(data.to_vec())) else { return };
    let (width, height) = (source.facts().width, source.facts().height);
    // More takes time alone.
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return;
    }
    let (mut band, mut read) = (Band::default(), 0);
    while source.next(&mut band).is_ok() && band.rows > 0 {
        assert!(band.rows <= source.band_rows(), "{} rows of at most {}", band.rows, source.band_rows());
        assert_eq!(band.rgb.len(), band.rows as usize * width as usize * 3);
        read += band.rows;
        assert!(read <= height, "{read} rows of {height}");
    }
});

const MOST_PIXELS: u64 = 1 << 20;

/// The pictures of the crate's own tests.
fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../device/tiles/golden/pictures");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the pictures").flatten().map(|f| f.path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a picture")).collect()
}
