//! Tests of the files.

use std::io::Cursor;
use std::ops::ControlFlow;

use image::{DynamicImage, Rgb, RgbImage};

use super::*;
use crate::{Answer, Source, Tiling, survey};

fn labels() -> Vec<String> {
    ["rust", "healthy, \"sound\""].map(str::to_owned).into()
}

fn source(red: std::ops::Range<u32>) -> Source {
    let picture =
        RgbImage::from_fn(320, 240, |x, y| Rgb([if red.contains(&x) && red.contains(&y) { 250 } else { 20 }, 90, 40]));
    let mut bytes = Cursor::new(vec![]);
    DynamicImage::from(picture).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.set_position(0);
    Source::new(bytes).unwrap()
}

fn surveyed(source: &mut Source) -> Survey {
    let look = |tile: &RgbImage| {
        let red = tile.pixels().filter(|p| p.0[0] > 128).count() as f32 / (tile.width() * tile.height()) as f32;
        Ok(Answer { probabilities: vec![red, 1.0 - red], is_unfamiliar: false })
    };
    let tiling = Tiling { side: 40, overlap: 0.0, threads: 1 };
    survey(source, tiling, 2, &look, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn spots_are_listed_with_their_positions_or_without() {
    let folder = tempfile::tempdir().unwrap();
    let choice = Choice::new(&labels(), &["rust".into()], &[], 0.5).unwrap();
    let mut atlas = Atlas::new(folder.path(), choice).unwrap();
    let mut source = source(80..160);
    let survey = surveyed(&mut source);
    let mut facts = source.facts().clone();
    atlas.add(Path::new("a/field.png"), &facts, &survey, Given::default()).unwrap();
    // One on a map, of the same name in another folder.
    let keys = [1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326];
    facts.geo = crate::place::Geo::of_tags(&[1e-5; 3], &[0.0, 0.0, 0.0, 5.0, 52.0, 0.0], &[], &keys);
    atlas.add(Path::new("b/field.png"), &facts, &survey, Given::default()).unwrap();
    let summary = atlas.finish().unwrap();
    assert_eq!(summary["pictures"][1]["spots"], json!({ "rust": 1 }));
    assert_eq!(
        (summary["pictures"][0]["map"].as_str(), summary["pictures"][1]["map"].as_str()),
        (Some("field.png"), Some("field-2.png"))
    );

    let text = fs::read_to_string(folder.path().join("spots.geojson")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["type"], "FeatureCollection");
    let [none, point] = &found["features"].as_array().unwrap()[..] else { panic!("{found}") };
    // RFC 7946: a feature that is not located has a geometry of null.
    assert!(none["geometry"].is_null() && none["properties"]["precision"] == "none", "{none}");
    // The middle of pixels 80 to 160, at a hundred-thousandth of a degree each; longitude first.
    assert_eq!(point["geometry"], json!({ "type": "Point", "coordinates": [5.0012, 51.9988] }));
    let told = &point["properties"];
    assert_eq!(
        (told["x"].as_f64(), told["cells"].as_u64(), told["area_px"].as_u64()),
        (Some(120.0), Some(4), Some(6400))
    );
    // 6400 pixels of 0.6865 m by 1.1125 m, by the lengths of degrees at 52 north.
    assert!((told["area_m2"].as_f64().unwrap() / 4888.4 - 1.0).abs() < 1e-3, "{told}");

    let csv = fs::read_to_string(folder.path().join("spots.csv")).unwrap();
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!(lines.len(), 4, "{csv}");
    assert_eq!(lines[1], "a/field.png,1,rust,1,1,120,120,80,80,160,160,4,6400,,,,none,,,");
    assert!(lines[2].starts_with("b/field.png,1,rust,1,1,120,120,80,80,160,160,4,6400,48"), "{}", lines[2]);
    assert!(lines[2].ends_with(",5.0012,51.9988,pixel,5.0012,51.9988,4326"), "{}", lines[2]);
    let mut names: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(
        names,
        ["field-2.png", "field.png", "spots.csv", "spots.geojson", "summary.json"],
        "and nothing half-written"
    );
}

#[test]
fn a_map_shows_what_is_hot() {
    let folder = tempfile::tempdir().unwrap();
    let mut atlas =
        Atlas::new(folder.path(), Choice::new(&labels(), &[], &["healthy, \"sound\"".into()], 0.5).unwrap()).unwrap();
    let mut source = source(80..160);
    let survey = surveyed(&mut source);
    atlas.add(Path::new("field.png"), source.facts(), &survey, Given::default()).unwrap();
    let map = image::open(folder.path().join("field.png")).unwrap().into_rgb8();
    assert!(map.width() >= 720 && map.height() > 240);
    let [r, g, b] = map.get_pixel(100, 100).0.map(i32::from);
    assert!(r > b + 60 && g > b + 60, "yellow where it is hot: {r} {g} {b}");
    let [r, g, b] = map.get_pixel(250, 30).0.map(i32::from);
    assert!(r.abs_diff(g) < 40 && r < 120 && b < 120, "nearly grey where it is not: {r} {g} {b}");
    let text = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(text, 1, "lists are written at the end");
}

#[test]
fn a_choice_is_of_classes_that_there_are() {
    let chosen = |only: &[&str], except: &[&str]| {
        let [only, except] = [only, except].map(|l| l.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>());
        Choice::new(&["a", "b", "c"].map(str::to_owned), &only, &except, 0.5).map(|c| c.classes)
    };
    assert_eq!(chosen(&[], &[]).unwrap(), [0, 1, 2]);
    assert_eq!(chosen(&["c", "a"], &[]).unwrap(), [0, 2]);
    assert_eq!(chosen(&[], &["b"]).unwrap(), [0, 2]);
    let error = chosen(&["d"], &[]).unwrap_err().to_string();
    assert!(error.contains("a, b, c") && error.contains('d'), "{error}");
    assert!(chosen(&["a"], &["a"]).is_err());
    for above in [0.0, 1.1, f32::NAN] {
        assert!(Choice::new(&labels(), &[], &[], above).is_err());
    }
}

#[test]
fn a_field_of_csv_is_quoted_where_it_must_be_and_is_no_formula() {
    for (text, expected) in
        [("a", "a"), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("=1+1", "'=1+1"), ("-x,y", "\"'-x,y\"")]
    {
        assert_eq!(quoted(text), expected);
    }
}
