//! Tests of rows: held against Pillow and tifffile (`golden/pictures.py`), and against decoding the whole.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader};
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
struct Golden {
    width: u32,
    height: u32,
    fnv1a64: String,
    stripes: Vec<f64>,
    clear: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/pictures")
}

fn golden() -> Vec<(String, Golden)> {
    let text = include_str!("../../golden/pictures.json");
    let all: std::collections::BTreeMap<String, Golden> = serde_json::from_str(text).unwrap();
    assert!(all.len() >= 27, "{}", all.len());
    all.into_iter().collect()
}

/// Reads a picture to its end: its rows, which of its pixels are clear, and how many bands came.
fn all(mut source: Source) -> Result<(Vec<u8>, usize, usize), TilesError> {
    let (mut rgb, mut clear, mut bands) = (vec![], 0, 0);
    let mut band = Band::default();
    loop {
        source.next(&mut band)?;
        if band.rows == 0 {
            return Ok((rgb, clear, bands));
        }
        assert!(band.rows <= source.band_rows(), "{} of {}", band.rows, source.band_rows());
        rgb.extend_from_slice(&band.rgb);
        clear += band.clear.iter().filter(|c| **c).count();
        bands += 1;
    }
}

fn read(bytes: &[u8]) -> Result<(Vec<u8>, usize, usize), TilesError> {
    all(Source::new(Cursor::new(bytes.to_vec()))?)
}

fn fnv(bytes: &[u8]) -> String {
    let digest =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{digest:016x}")
}

#[test]
fn rows_are_those_that_pillow_and_tifffile_read() {
    for (name, golden) in golden() {
        let source = Source::open(&folder().join(&name)).unwrap();
        assert_eq!((source.facts().width, source.facts().height), (golden.width, golden.height), "{name}");
        let (rgb, clear, bands) = all(source).unwrap();
        assert_eq!(clear, golden.clear, "{name}: pixels without data");
        assert!(bands > 1 || golden.height < 257, "{name}: read in one piece");
        if !name.contains(".jpg") && name != "jpeg.tif" {
            assert_eq!(fnv(&rgb), golden.fnv1a64, "{name}");
        }
        // Decoders of JPEG differ by a little; a stripe that is moved or of a wrong colour differs by more.
        let stride = golden.width as usize * 3;
        let (rows, parts) = (golden.height as usize, golden.stripes.len());
        let mut at = 0;
        for (number, expected) in golden.stripes.iter().enumerate() {
            let count = rows / parts + usize::from(number < rows % parts);
            let part = &rgb[at * stride..(at + count) * stride];
            let mean = part.iter().map(|v| f64::from(*v)).sum::<f64>() / part.len() as f64;
            assert!((mean - expected).abs() < 1.0, "{name}, stripe {number}: {mean} instead of {expected}");
            at += count;
        }
    }
}

#[test]
fn rows_of_a_jpeg_are_to_the_bit_those_of_the_whole() {
    for (name, _) in golden().into_iter().filter(|(n, _)| n.ends_with(".jpg")) {
        let bytes = std::fs::read(folder().join(&name)).unwrap();
        let whole = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().unwrap().decode().unwrap().into_rgb8();
        let (rgb, ..) = read(&bytes).unwrap();
        let differ = rgb.iter().zip(whole.as_raw()).position(|(a, b)| a != b);
        assert!(rgb.len() == whole.as_raw().len() && differ.is_none(), "{name}: differs at {differ:?}");
    }
}

#[test]
fn orientation_is_told_and_left_to_who_cuts_tiles() {
    let source = Source::open(&folder().join("turned.jpg")).unwrap();
    assert_eq!(source.facts().orientation, Orientation::Rotate90);
}

#[test]
fn what_is_not_taken_is_named_with_a_remedy() {
    let cases = [
        ("cmyk.jpg", "CMYK", "convert"),
        ("sixteen.png", "16", "8 bits"),
        ("sixteen.tif", "16", "gdal_translate -ot Byte"),
        ("planes.tif", "plane", "INTERLEAVE=PIXEL"),
        ("palette.tif", "palette", "-expand rgb"),
    ];
    for (name, found, remedy) in cases {
        let error = Source::open(&folder().join(name)).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains(remedy) && error.starts_with("expected"), "{name}: {error}");
    }
    for (bytes, found) in [(&b""[..], "empty"), (b"GIF89a", "47 49 46"), (b"\xff\xd8\xff", "ends in its header")] {
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn a_file_that_ends_early_is_refused() {
    for (name, _) in golden() {
        let bytes = std::fs::read(folder().join(&name)).unwrap();
        // A TIFF may have its tags at its end, and a picture's last bytes may be behind its data.
        for share in [3, 40, 80, 97] {
            let cut = &bytes[..bytes.len() * share / 100];
            let found = read(cut);
            let is_refused = found.is_err();
            let is_all_there = name.ends_with(".tif") && share == 97;
            assert!(is_refused || is_all_there, "{name} cut at {share} %");
        }
    }
}

#[test]
fn a_changed_byte_makes_other_pixels_or_an_error_and_never_a_panic() {
    for (name, golden) in golden() {
        let bytes = std::fs::read(folder().join(&name)).unwrap();
        let step = (bytes.len() / 60).max(1);
        for at in (0..bytes.len().min(200)).chain((0..bytes.len()).step_by(step)) {
            for flip in [0x01, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                // A header may now tell of a million pixels, which takes its time.
                let Ok(source) = Source::new(Cursor::new(bytes)) else { continue };
                if source.facts().width > 4 * golden.width || source.facts().height > 4 * golden.height {
                    continue;
                }
                let _ = all(source);
            }
        }
    }
}

#[test]
fn headers_that_lie_take_no_memory() {
    let jpeg = std::fs::read(folder().join("420.jpg")).unwrap();
    let progressive = std::fs::read(folder().join("progressive.jpg")).unwrap();
    let frame = |bytes: &[u8], marker: u8| bytes.windows(2).position(|w| w == [0xff, marker]).unwrap() + 5;
    let with = |bytes: &[u8], at: usize, new: &[u8]| [&bytes[..at], new, &bytes[at + new.len()..]].concat();
    // 65,535 pixels a side: the data ends in the first rows.
    let error = read(&with(&jpeg, frame(&jpeg, 0xc0), &[0xff; 4])).unwrap_err();
    assert!(matches!(error, TilesError::Truncated { .. } | TilesError::Damaged { .. }), "{error}");
    let error = read(&with(&progressive, frame(&progressive, 0xc2), &[0xff; 4])).unwrap_err();
    assert!(error.to_string().contains("jpegtran"), "{error}");
    let png = std::fs::read(folder().join("rgb.png")).unwrap();
    // The checksum of the header is right.
    let sized = |width: u32, height: u32, interlaced: u8| {
        let mut head = b"IHDR".to_vec();
        head.extend(width.to_be_bytes().iter().chain(&height.to_be_bytes()));
        head.extend([8, 2, 0, 0, interlaced]);
        let sum = crc(&head).to_be_bytes();
        [&png[..12], &head, &sum, &png[33..]].concat()
    };
    for (width, height, interlaced, word) in [
        (0x7fff_ffff, 16, 0, "1000000 pixels a side"),
        (1_000_000, 1_000_000, 0, ""),
        (900_000, 200, 0, ""),
        (60_000, 60_000, 1, "interlac"),
        (7, 7, 0, "at least 8"),
    ] {
        let error = read(&sized(width, height, interlaced)).unwrap_err().to_string();
        assert!(error.contains(word), "{width}x{height}: {error}");
    }
    // A TIFF that names a width of 4 thousand million.
    let tiff = std::fs::read(folder().join("raw.tif")).unwrap();
    let at = tiff.windows(4).position(|w| w == [0, 1, 3, 0] || w == [0, 1, 4, 0]).unwrap();
    let lie = with(&tiff, at + 2, &[4, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    let error = read(&lie).unwrap_err().to_string();
    assert!(error.contains("1000000 pixels a side"), "{error}");
}

/// The checksum of a PNG's chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

#[test]
fn two_frame_headers_do_not_get_round_the_limit() {
    let jpeg = std::fs::read(folder().join("420.jpg")).unwrap();
    let at = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let mut second = jpeg[at..at + 19].to_vec();
    second[5..9].fill(0xff);
    let error = read(&[&jpeg[..at], &second, &jpeg[at..]].concat()).unwrap_err().to_string();
    assert!(error.contains("two frame headers"), "{error}");
}

#[test]
fn a_png_of_the_image_crate_is_read_as_it_was_written() {
    let picture = image::RgbImage::from_fn(70, 130, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let mut file = Cursor::new(vec![]);
    DynamicImage::from(picture.clone()).write_to(&mut file, image::ImageFormat::Png).unwrap();
    assert_eq!(read(file.get_ref()).unwrap(), (picture.into_raw(), 0, 3));
    let decoder = image::codecs::png::PngDecoder::new(Cursor::new(file.get_ref())).unwrap();
    assert_eq!(decoder.dimensions(), (70, 130));
}
