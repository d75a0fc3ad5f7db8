//! Tests of decoding and preprocessing.

use graft_zoo::Preprocessing;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, Rgba, RgbaImage};
use serde::Deserialize;

use super::*;

fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (u64::from(x), u64::from(y));
        let value = |c: u64| x * 7 + y * 13 + c * 31 + (x * y) % 251 + ((x * x + 3 * y * y) >> 4);
        Rgb([0, 1, 2].map(|c| value(c).to_le_bytes()[0]))
    })
}

fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(picture).unwrap();
    bytes
}

/// Puts `segment` right behind the start marker of a JPEG.
fn with_segment(jpeg: &[u8], segment: &[u8]) -> Vec<u8> {
    [&jpeg[..2], segment, &jpeg[2..]].concat()
}

/// Changes the frame header of a baseline JPEG, byte by byte from its precision on.
fn with_frame(mut jpeg: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let at = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap() + 4 + offset;
    jpeg[at..at + bytes.len()].copy_from_slice(bytes);
    jpeg
}

#[derive(Deserialize)]
struct Golden {
    width: u32,
    height: u32,
    resize_shorter: u32,
    crop: u32,
    fnv1a64: String,
    pixels: Option<Vec<u8>>,
}

#[test]
fn preprocess_equals_pillow_in_every_byte() {
    let text = include_str!("../../tests/golden/resize.json");
    let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
    assert!(cases.len() >= 14);
    for case in cases {
        let p = definition(case.resize_shorter, case.crop);
        let found = preprocess(&pattern(case.width, case.height), &p);
        let what = format!("{}x{} to {}", case.width, case.height, case.crop);
        if let Some(pixels) = case.pixels {
            assert_eq!(found, pixels, "{what}");
        }
        let fnv =
            found.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(format!("{fnv:016x}"), case.fnv1a64, "{what}");
    }
}

#[test]
fn preprocess_gives_the_window_of_any_shape() {
    for (w, h) in [(1, 1), (8, 5000), (5000, 8), (8, 9), (300, 8)] {
        for (shorter, crop) in [(8, 8), (9, 8), (4, 8), (256, 224), (1, 1)] {
            let found = preprocess(&pattern(w, h), &definition(shorter, crop));
            assert_eq!(found.len(), (crop * crop * 3) as usize, "{w}x{h} {shorter} {crop}");
        }
    }
    assert!(preprocess(&pattern(8, 8), &definition(0, 0)).is_empty());
}

#[test]
fn decode_returns_the_pixels_of_a_png() {
    let picture = pattern(19, 11);
    assert_eq!(decode(&png(picture.clone())).unwrap(), picture);
}

#[test]
fn decode_returns_nearly_the_pixels_of_a_jpeg() {
    let picture = RgbImage::from_fn(32, 24, |x, y| Rgb([x * 7, y * 9, 128].map(|v| u8::try_from(v).unwrap())));
    let found = decode(&jpeg(&picture)).unwrap();
    assert_eq!(found.dimensions(), (32, 24));
    let worst = found.as_raw().iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst.unwrap() < 24, "{worst:?}");
}

#[test]
fn decode_turns_a_picture_upright() {
    // Orientation 6: the camera's top is on the right, so the picture is turned clockwise.
    let mut exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([6, 0, 0, 0, 0, 0, 0, 0]);
    let picture = RgbImage::from_fn(24, 16, |x, _| Rgb([if x < 12 { 250 } else { 5 }; 3]));
    let found = decode(&with_segment(&jpeg(&picture), &exif)).unwrap();
    assert_eq!(found.dimensions(), (16, 24));
    assert!(found.get_pixel(8, 2).0[0] > 200 && found.get_pixel(8, 21).0[0] < 50);
}

#[test]
fn decode_makes_grey_rgb_and_lays_alpha_over_white() {
    let grey = decode(&png(GrayImage::from_pixel(9, 9, image::Luma([77])))).unwrap();
    assert_eq!(grey.get_pixel(3, 3), &Rgb([77; 3]));
    let clear = RgbaImage::from_fn(9, 9, |x, _| Rgba([10, 20, 30, [0, 255, 128][(x % 3) as usize]]));
    let found = decode(&png(clear)).unwrap();
    let row: Vec<_> = (0..3).map(|x| found.get_pixel(x, 0).0).collect();
    assert_eq!(row, [[255; 3], [10, 20, 30], [132, 137, 142]]);
}

#[test]
fn decode_names_every_refusal() {
    let good = jpeg(&pattern(16, 16));
    let mut animated = png(pattern(9, 9));
    animated.splice(33..33, *b"\0\0\0\x08acTL\0\0\0\x02\0\0\0\0crc.");
    let sixteen = image::ImageBuffer::from_pixel(9, 9, image::Luma([700_u16]));
    let mut bad_data = png(pattern(9, 9));
    let at = bad_data.windows(4).position(|w| w == b"IDAT").unwrap();
    bad_data[at + 12] ^= 0xff;
    let huge = with_frame(good.clone(), 1, &[0xff, 0xff, 0xff, 0xff]);
    let cases: [(&str, Vec<u8>, &str); 15] = [
        ("empty", vec![], "empty"),
        ("unknown-format", b"hello there".to_vec(), "68 65 6c 6c 6f 20 74 68"),
        ("unsupported-format", b"GIF89a....".to_vec(), "GIF"),
        ("unsupported-format", b"RIFF\0\0\0\0WEBPVP8 ".to_vec(), "WebP"),
        ("unsupported-format", b"\0\0\0\x18ftypheic".to_vec(), "HEIC"),
        ("truncated", good[..good.len() - 2].to_vec(), "JPEG"),
        ("truncated", png(pattern(9, 9))[..60].to_vec(), "PNG"),
        ("corrupt", [&good[..2], b"\xff\xff\xffxx", &good[2..]].concat(), "JPEG"),
        ("corrupt", bad_data, "PNG"),
        ("animated", animated, "PNG"),
        ("cmyk", with_frame(good.clone(), 5, &[4]), "CMYK"),
        ("16-bit", with_frame(good.clone(), 0, &[12]), "12"),
        ("16-bit", png(DynamicImage::ImageLuma16(sixteen)), "16"),
        ("too-small", png(pattern(7, 50)), "7x50"),
        ("too-large", huge, "65535x65535"),
    ];
    for (kind, bytes, word) in cases {
        let error = decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && text.contains("expected") && text.contains(';'), "{text}");
    }
}

#[test]
fn decode_refuses_every_proper_prefix() {
    for whole in [jpeg(&pattern(16, 16)), png(pattern(16, 16))] {
        for len in 1..whole.len() {
            // A PNG's end marker carries no data; without its checksum the file is still cut.
            let kind = decode(&whole[..len]).unwrap_err().kind();
            assert_eq!(kind, "truncated", "{len} of {}", whole.len());
        }
        assert!(decode(&whole).is_ok());
    }
}

#[test]
fn decode_never_panics_on_a_changed_byte() {
    for whole in [jpeg(&pattern(8, 8)), png(pattern(8, 8))] {
        let mut refused = 0;
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                refused += usize::from(decode(&bytes).is_err());
            }
        }
        assert!(refused > 20, "{refused}");
    }
}

fn definition(resize_shorter: u32, crop: u32) -> Preprocessing {
    Preprocessing { resize_shorter, crop, mean: [0.0; 3], std: [1.0; 3] }
}

#[test]
fn a_file_is_whole_at_its_end_marker_and_not_before() {
    for bytes in [jpeg(&pattern(16, 16)), png(pattern(16, 16))] {
        assert!(is_whole(&bytes));
        for len in 0..bytes.len() {
            assert!(!is_whole(&bytes[..len]), "{len} of {}", bytes.len());
        }
    }
    assert!(is_whole(b"hello, world") && !is_whole(b""), "what is no picture becomes none by waiting");
}
