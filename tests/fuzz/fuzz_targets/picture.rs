//! Pictures out of any bytes: decoded, turned upright and made into what a network sees.

#![no_main]

use graft_runtime::picture::{MAX_PIXELS, MIN_SIDE, decode, preprocess};
use graft_zoo::Preprocessing;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage, RgbaImage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |data: &[u8]| {
    if says_large(data) {
        return;
    }
    let picture = match decode(data) {
        Ok(picture) => picture,
        Err(error) => {
            let text = error.to_string();
            assert!(!error.kind().is_empty() && text.contains("expected") && text.contains(';'), "{text}");
            return;
        }
    };
    let (width, height) = picture.dimensions();
    assert!(width.min(height) >= MIN_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS);
    for (resize_shorter, crop) in [(8, 8), (20, 16)] {
        let p = Preprocessing { resize_shorter, crop, mean: [0.0; 3], std: [1.0; 3] };
        assert_eq!(preprocess(&picture, &p).len(), (crop * crop * 3) as usize);
    }
});

/// Whether a header names more pixels than there is time for: up to a hundred million are taken, and take a second.
fn says_large(bytes: &[u8]) -> bool {
    let side = |at: usize, len: usize| {
        let side = bytes.get(at..at + len).unwrap_or_default();
        side.iter().fold(0_u64, |side, b| side << 8 | u64::from(*b))
    };
    let is_large = |a: u64, b: u64| a * b > MOST_PIXELS;
    let frames = bytes.windows(2).enumerate().filter(|(_, w)| w[0] == 0xff && (0xc0..=0xcf).contains(&w[1]));
    let mut frames = frames.map(|(at, _)| (side(at + 5, 2), side(at + 7, 2)));
    let headers = bytes.windows(4).enumerate().filter(|(_, w)| w == b"IHDR");
    let mut headers = headers.map(|(at, _)| (side(at + 4, 4), side(at + 8, 4)));
    bytes.starts_with(&[0xff, 0xd8]) && frames.any(|(a, b)| is_large(a, b)) || headers.any(|(a, b)| is_large(a, b))
}

const MOST_PIXELS: u64 = 1 << 20;

fn seeds() -> Vec<Vec<u8>> {
    let rgb = RgbImage::from_fn(19, 11, |x, y| image::Rgb([x * 13, y * 23, x * y].map(|v| v as u8)));
    let grey = GrayImage::from_fn(9, 17, |x, y| image::Luma([(x * 7 + y * 11) as u8]));
    let clear = RgbaImage::from_fn(10, 8, |x, y| image::Rgba([x, y, x + y, x * 25].map(|v| v as u8)));
    let mut files = Vec::new();
    let pictures = [DynamicImage::from(rgb.clone()), grey.into(), clear.into()];
    for picture in &pictures {
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).expect("a picture");
        files.push(file.into_inner());
    }
    for picture in &pictures[..2] {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, 60).encode_image(picture).expect("a picture");
        // As a camera held upright has it.
        let mut exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        files.push([&file[..2], &exif, &file[2..]].concat());
        files.push(file);
    }
    files
}
