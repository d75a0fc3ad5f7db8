//! Tests of places, held against PROJ (`golden/places.py`).

use serde::Deserialize;

use super::*;
use crate::Source;

#[derive(Deserialize)]
struct Golden {
    projected: Vec<Projected>,
    photographs: Vec<Photograph>,
}

#[derive(Deserialize)]
struct Projected {
    epsg: u16,
    x: f64,
    y: f64,
    longitude: f64,
    latitude: f64,
    east: f64,
    north: f64,
}

#[derive(Deserialize)]
struct Photograph {
    name: String,
    width: u32,
    height: u32,
    exif: String,
    xmp: Option<String>,
    latitude: f64,
    longitude: f64,
    gsd: f64,
    heading: f64,
    given: Numbers,
    points: Vec<Point>,
}

#[derive(Deserialize)]
struct Numbers {
    gsd: Option<f64>,
    heading: Option<f64>,
}

#[derive(Deserialize)]
struct Point {
    x: f64,
    y: f64,
    longitude: f64,
    latitude: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/places.json")).unwrap()
}

fn facts(exif: Option<Vec<u8>>, xmp: Option<String>) -> Facts {
    let orientation = image::metadata::Orientation::NoTransforms;
    Facts { format: "JPEG", width: 4000, height: 3000, orientation, exif, xmp, geo: None }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Returns the metres between two positions that are near each other.
fn metres(a: Position, longitude: f64, latitude: f64) -> f64 {
    let north = (a.latitude - latitude) * 111_300.0;
    let east = (a.longitude - longitude) * 111_320.0 * latitude.to_radians().cos();
    north.hypot(east)
}

#[test]
fn coordinates_become_the_positions_of_proj() {
    let golden = golden().projected;
    assert!(golden.len() >= 11);
    for case in golden {
        let projection = Projection::of_epsg(case.epsg).unwrap();
        let found = projection.position(case.x, case.y).unwrap();
        let off = metres(found, case.longitude, case.latitude);
        assert!(off < 0.001, "EPSG:{}: {off} m off", case.epsg);
        let (east, north) = projection.metres(case.latitude);
        // The scale of a zone of UTM differs from 1 by a thousandth at its edges; that of a step, by what a step is.
        assert!((east / case.east - 1.0).abs() < 2e-3, "EPSG:{}: {east} instead of {}", case.epsg, case.east);
        assert!((north / case.north - 1.0).abs() < 2e-3, "EPSG:{}: {north} instead of {}", case.epsg, case.north);
    }
}

#[test]
fn pixels_of_photographs_lie_where_proj_puts_them() {
    let golden = golden().photographs;
    assert!(golden.len() >= 4);
    for case in golden {
        let given = Given { gsd: case.given.gsd, heading: case.given.heading };
        let place = Place::of(&facts(Some(unhex(&case.exif)), case.xmp), case.width, case.height, given);
        let Place::Ground { at, gsd, heading, .. } = &place else { panic!("{}: {}", case.name, place.told()) };
        assert!(metres(*at, case.longitude, case.latitude) < 0.01, "{}: {at:?}", case.name);
        assert!(
            (gsd / case.gsd - 1.0).abs() < 1e-6 && (heading - case.heading).abs() < 1e-6,
            "{}: {}",
            case.name,
            place.told()
        );
        for point in case.points {
            let found = place.position(point.x, point.y).unwrap();
            let off = metres(found, point.longitude, point.latitude);
            assert!(off < 0.02, "{} at {}, {}: {off} m off", case.name, point.x, point.y);
        }
        assert!((place.area().unwrap() / (case.gsd * case.gsd) - 1.0).abs() < 1e-6);
        assert_eq!(place.precision(), "pixel");
    }
}

#[test]
fn what_is_not_known_is_said_and_not_guessed() {
    let golden = golden().photographs;
    let of = |number: usize, xmp: Option<String>, given: Given| {
        Place::of(&facts(Some(unhex(&golden[number].exif)), xmp), 4000, 3000, given)
    };
    let none = Given::default();
    // No height, no direction, a tilted camera.
    let case = of(0, None, none);
    assert_eq!(case.precision(), "picture");
    assert!(case.told().contains("--gsd and --heading"), "{}", case.told());
    let tilted = golden[0].xmp.clone().unwrap().replace("-90.00", "-60.00");
    let case = of(0, Some(tilted.clone()), none);
    assert!(
        matches!(case, Place::Picture { gsd: None, .. }) && case.told().contains("tilted by 30"),
        "{}",
        case.told()
    );
    assert_eq!(of(0, Some(tilted), Given { gsd: Some(0.02), heading: None }).precision(), "pixel");
    let case = of(2, None, Given { gsd: Some(0.02), heading: None });
    assert!(
        matches!(case, Place::Picture { gsd: Some(_), .. }) && case.told().contains("--heading"),
        "{}",
        case.told()
    );
    // Every spot then has the picture's own position.
    let at = case.position(17.0, 2000.0).unwrap();
    assert!(metres(at, 5.6, 52.2) < 0.01);
    let nowhere = Place::of(&facts(None, None), 4000, 3000, Given { gsd: Some(0.02), heading: Some(3.0) });
    assert_eq!((nowhere.precision(), nowhere.position(1.0, 1.0)), ("none", None));
    assert!(nowhere.told().contains("no GPS position"));
    // Bytes that are no EXIF.
    assert_eq!(Place::of(&facts(Some(b"Exif?".to_vec()), None), 9, 9, none).precision(), "none");
}

#[test]
fn xmp_is_read_as_attributes_and_as_elements() {
    let text = "<sensefly:Height>72.614308</sensefly:Height><sensefly:Heading>54.9</sensefly:Heading>
        <sensefly:PitchAngle>3</sensefly:PitchAngle><sensefly:RollAngle>-4.0</sensefly:RollAngle>";
    let told = super::exif::Told::of(None, Some(text), 4000, 3000);
    assert_eq!((told.heading.unwrap().0, told.tilt), (54.9, Some(5.0)));
    assert!(told.no_gsd.contains("focal length"), "{}", told.no_gsd);
    for broken in [
        "drone-dji:GimbalYawDegree=",
        "drone-dji:GimbalYawDegree=\"\"",
        "drone-dji:GimbalYawDegree=\"north\"",
        "drone-dji:GimbalYawDegree>",
    ] {
        assert_eq!(super::exif::Told::of(None, Some(broken), 4000, 3000).heading, None, "{broken}");
    }
}

#[test]
fn tags_of_a_geotiff_place_its_pixels() {
    let utm = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32617];
    let geo = Geo::of_tags(&[0.05, 0.05, 0.0], &[0.0, 0.0, 0.0, 306_000.0, 4_545_000.0, 0.0], &[], &utm).unwrap();
    assert_eq!((geo.coordinates(100.0, 40.0), geo.epsg), ((306_005.0, 4_544_998.0), Some(32617)));
    // The same by a matrix, and with coordinates of the middles of pixels.
    let matrix = [0.05, 0.0, 0.0, 306_000.0, 0.0, -0.05, 0.0, 4_545_000.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
    assert_eq!(Geo::of_tags(&[], &[], &matrix, &utm), Some(geo));
    let mut point = utm;
    point[11] = 2;
    let middle = Geo::of_tags(&[0.05, 0.05, 0.0], &[0.0, 0.0, 0.0, 306_000.0, 4_545_000.0, 0.0], &[], &point).unwrap();
    let (x, y) = middle.coordinates(0.5, 0.5);
    assert!((x - 306_000.0).abs() < 1e-6 && (y - 4_545_000.0).abs() < 1e-6);
    let degrees = [1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326];
    let place = Place::on_map(
        Geo::of_tags(&[1e-6; 3], &[0.0, 0.0, 0.0, 36.8, -1.2, 0.0], &[], &degrees).unwrap(),
        (500.0, 500.0),
    );
    let Place::Map { gsd: Some(gsd), at: Some(at), .. } = place else { panic!("{}", place.told()) };
    assert!((gsd - 0.1113).abs() < 1e-4 && (at.latitude + 1.2005).abs() < 1e-9, "{gsd} {at:?}");
    // A system that is not known has coordinates and no positions.
    let mut other = utm;
    other[15] = 2180;
    let place =
        Place::on_map(Geo::of_tags(&[0.05; 3], &[0.0, 0.0, 0.0, 1.0, 2.0, 0.0], &[], &other).unwrap(), (5.0, 5.0));
    assert_eq!((place.position(1.0, 1.0), place.precision()), (None, "none"));
    assert!(place.coordinates(1.0, 1.0).is_some() && place.told().contains("EPSG:2180"), "{}", place.told());
    for (scale, tie) in [(&[][..], &[][..]), (&[0.0; 3], &[0.0; 6]), (&[f64::NAN; 3], &[0.0; 6])] {
        assert_eq!(Geo::of_tags(scale, tie, &[], &utm), None);
    }
}

#[test]
fn a_drones_photograph_tells_where_it_was_taken() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/drone-seneca/IMG_0466.jpg");
    let Ok(source) = Source::open(&file) else {
        eprintln!("skipped: {} is not there", file.display());
        return;
    };
    // By Pillow: 41 2' 10.364'' N, 83 18' 16.190'' W, and 54.9 degrees by its XMP.
    let told = super::exif::Told::of(source.facts().exif.as_deref(), source.facts().xmp.as_deref(), 3600, 2700);
    assert!(metres(told.at.unwrap(), -83.304_497_269, 41.036_212_300) < 0.01);
    assert!((told.heading.unwrap().0 - 54.907_457_983).abs() < 1e-6 && (told.tilt.unwrap() - 11.08).abs() < 0.01);
}
