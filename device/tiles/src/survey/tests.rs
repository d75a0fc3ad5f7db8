//! Tests of looking at a whole picture.

use std::io::Cursor;
use std::path::Path;

use image::imageops::crop_imm;
use image::{DynamicImage, ImageFormat, Rgb, Rgba, RgbaImage};

use super::*;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/pictures").join(name)).unwrap()
}

fn png(picture: impl Into<DynamicImage>) -> Source {
    let mut bytes = Cursor::new(vec![]);
    picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.set_position(0);
    Source::new(bytes).unwrap()
}

const TILING: Tiling = Tiling { side: 32, overlap: 0.25, threads: 2 };

fn answer(p: f32) -> Answer {
    Answer { probabilities: vec![p, 1.0 - p], is_unfamiliar: false }
}

fn go_on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn each_tile_is_the_part_of_the_upright_picture_that_it_says() {
    // With an EXIF orientation of 6, and without.
    for (name, turns) in [("turned.jpg", true), ("420.jpg", false), ("deflate.tif", false), ("wide.jpg", false)] {
        let source = || Source::new(Cursor::new(file(name))).unwrap();
        let whole = {
            let (mut source, mut band, mut rgb) = (source(), Band::default(), vec![]);
            let (width, height) = (source.facts().width, source.facts().height);
            while rgb.len() < width as usize * height as usize * 3 {
                source.next(&mut band).unwrap();
                rgb.extend_from_slice(&band.rgb);
            }
            let orientation = source.facts().orientation;
            Upright { orientation, width, height }.turn(RgbImage::from_raw(width, height, rgb).unwrap())
        };
        assert_eq!(turns, whole.width() > whole.height() && name != "wide.jpg", "{name}");
        let seen = Mutex::new(vec![]);
        let look = |tile: &RgbImage| {
            seen.lock().unwrap().push(tile.clone());
            Ok(answer(0.5))
        };
        let found = survey(&mut source(), TILING, 2, &look, &mut go_on).unwrap();
        let grid = Grid::new(whole.width(), whole.height(), 32, 0.25).unwrap();
        let mut expected: Vec<Vec<u8>> =
            grid.tiles().map(|t| crop_imm(&whole, t.x, t.y, 32, 32).to_image().into_raw()).collect();
        let mut seen: Vec<Vec<u8>> = seen.into_inner().unwrap().into_iter().map(RgbImage::into_raw).collect();
        expected.sort_unstable();
        seen.sort_unstable();
        assert!(seen == expected, "{name}: other pixels");
        assert_eq!((found.tiles, found.unfamiliar, found.empty), (grid.len(), 0, 0), "{name}");
        assert_eq!(found.small.dimensions(), whole.dimensions(), "{name}");
        assert!(found.small == whole, "{name}: a small picture is itself");
    }
}

#[test]
fn answers_come_to_the_cells_that_they_are_of() {
    // Red on the left below, in a picture that is stored upright.
    let picture = RgbImage::from_fn(256, 192, |x, y| Rgb([if x < 96 && y >= 96 { 250 } else { 10 }, 0, 0]));
    let look = |tile: &RgbImage| {
        let red = tile.pixels().filter(|p| p.0[0] > 128).count() as f32;
        Ok(answer(red / (tile.width() * tile.height()) as f32))
    };
    let tiling = Tiling { overlap: 0.0, ..TILING };
    let found = survey(&mut png(picture.clone()), tiling, 2, &look, &mut go_on).unwrap();
    for row in 0..6 {
        for column in 0..8 {
            let expected = if column < 3 && row >= 3 { 1.0 } else { 0.0 };
            assert_eq!(found.heat.probability(column, row, 0), expected, "{column}, {row}");
        }
    }
    let spots = crate::spots(&found.heat, &[0], 0.5);
    assert_eq!((spots.len(), spots[0].x, spots[0].y, spots[0].area), (1, 48.0, 144.0, 96 * 96));
    // No number of threads changes a sum.
    let overlapping = |threads| {
        let tiling = Tiling { threads, ..TILING };
        survey(&mut png(picture.clone()), tiling, 2, &look, &mut go_on).unwrap().heat
    };
    assert_eq!(overlapping(1), overlapping(5));
}

#[test]
fn what_is_empty_is_not_looked_at_and_what_is_unfamiliar_is_counted_apart() {
    let picture = RgbaImage::from_fn(128, 64, |x, _| Rgba([200, 200, 200, if x < 64 { 0 } else { 255 }]));
    let looked = AtomicUsize::new(0);
    let look = |_: &RgbImage| {
        let is_unfamiliar = looked.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(Answer { is_unfamiliar, ..answer(0.9) })
    };
    let tiling = Tiling { overlap: 0.0, threads: 1, ..TILING };
    let found = survey(&mut png(picture), tiling, 2, &look, &mut go_on).unwrap();
    assert_eq!((found.tiles, found.empty, found.unfamiliar), (8, 4, 1));
    assert_eq!(looked.into_inner(), 4);
    let known: Vec<_> = (0..4).map(|c| found.heat.known(c, 0)).collect();
    use crate::Known::{Empty, Unfamiliar, Yes};
    assert_eq!(known, [Empty, Empty, Unfamiliar, Yes]);
    assert_eq!(crate::spots(&found.heat, &[0], 0.5)[0].cells, 3, "the unfamiliar one is no spot");
}

#[test]
fn it_stops_when_asked_and_tells_what_failed() {
    let picture = || png(RgbImage::new(256, 256));
    let mut told = vec![];
    let found = survey(&mut picture(), TILING, 2, &|_| Ok(answer(0.1)), &mut |done, of| {
        told.push((done, of));
        if done >= 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(found, Err(TilesError::Stopped)), "{found:?}");
    assert!(told.iter().all(|(_, of)| *of == 121) && told.last().unwrap().0 < 24, "{told:?}");
    let error = survey(&mut picture(), TILING, 2, &|_| Err("no engine".into()), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("no engine") && error.to_string().contains("at 0, 0"), "{error}");
    let error = survey(&mut picture(), TILING, 3, &|_| Ok(answer(0.1)), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("expected 3 probabilities, found 2"), "{error}");
    let mut all = vec![];
    survey(&mut picture(), TILING, 2, &|_| Ok(answer(0.1)), &mut |done, _| {
        all.push(done);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(all.is_sorted() && all.last() == Some(&121), "{all:?}");
}

#[test]
fn a_file_that_ends_in_its_midst_is_no_survey() {
    let bytes = file("420.jpg");
    let mut source = Source::new(Cursor::new(bytes[..bytes.len() * 2 / 3].to_vec())).unwrap();
    let error = survey(&mut source, TILING, 2, &|_| Ok(answer(0.1)), &mut go_on).unwrap_err();
    assert!(matches!(error, TilesError::Truncated { .. }), "{error}");
}

#[test]
fn a_large_picture_is_made_small_by_means() {
    let picture = RgbImage::from_fn(4096, 1024, |x, y| Rgb([(x % 2 * 100) as u8, (y % 2 * 50) as u8, 7]));
    let found =
        survey(&mut png(picture), Tiling { side: 1024, ..TILING }, 2, &|_| Ok(answer(0.1)), &mut go_on).unwrap();
    assert_eq!(found.small.dimensions(), (2048, 512));
    assert!(found.small.pixels().all(|p| p.0 == [50, 25, 7]));
}
