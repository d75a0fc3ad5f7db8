//! What a photograph's EXIF and XMP tell of where it was taken, from what height and in which direction.

use exif::{Exif, In, Reader, Tag, Value};

use super::Position;

/// What was found; of each number also where.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    pub at: Option<Position>,
    /// Metres of ground that a pixel covers.
    pub gsd: Option<(f64, String)>,
    /// Why that is not known.
    pub no_gsd: String,
    pub heading: Option<(f64, String)>,
    /// Degrees off straight down.
    pub tilt: Option<f64>,
}

impl Told {
    /// Reads the TIFF structure of an EXIF block and an XMP packet. What cannot be read tells nothing.
    pub fn of(exif: Option<&[u8]>, xmp: Option<&str>, width: u32, height: u32) -> Self {
        let exif = exif.and_then(|bytes| {
            // One bad entry is no reason to leave out the others.
            let found = Reader::new().continue_on_error(true).read_raw(bytes.to_vec());
            found.or_else(|e| e.distill_partial_result(|_| {})).ok()
        });
        let xmp = xmp.unwrap_or_default();
        let number = |name: &str| xmp_number(xmp, name);
        let height_over_ground = [("drone-dji:RelativeAltitude", "DJI's"), ("sensefly:Height", "senseFly's")]
            .into_iter()
            .find_map(|(name, whose)| Some((number(name).filter(|h| *h > 0.0)?, whose)));
        let (gsd, no_gsd) = gsd(exif.as_ref(), height_over_ground, width, height);
        let heading = [("drone-dji:GimbalYawDegree", "DJI's gimbal"), ("sensefly:Heading", "senseFly's heading")]
            .into_iter()
            .find_map(|(name, whose)| Some((number(name)?, whose.to_owned())));
        let tilt = match (
            number("drone-dji:GimbalPitchDegree"),
            number("sensefly:PitchAngle"),
            number("sensefly:RollAngle"),
        ) {
            (Some(pitch), ..) => Some((pitch + 90.0).abs()),
            (None, Some(pitch), Some(roll)) => Some(pitch.hypot(roll)),
            _ => None,
        };
        Self {
            at: exif.as_ref().and_then(position),
            gsd,
            no_gsd,
            heading: heading.or_else(|| Some((direction(exif.as_ref()?)?, "EXIF's direction".to_owned()))),
            tilt,
        }
    }
}

/// The ground that a pixel covers, by height and the field of view; or why not.
fn gsd(exif: Option<&Exif>, height: Option<(f64, &str)>, across: u32, down: u32) -> (Option<(f64, String)>, String) {
    let Some((height, whose)) = height else {
        return (None, "nothing tells the height above the ground".into());
    };
    let focal =
        exif.and_then(|e| e.get_field(Tag::FocalLengthIn35mmFilm, In::PRIMARY)?.value.get_uint(0)).filter(|f| *f > 0);
    let Some(focal) = focal else {
        return (None, "nothing tells the focal length that 35 mm film would need".into());
    };
    // Equal diagonals, as the tag is defined.
    let gsd = height * DIAGONAL / (f64::from(focal) * f64::from(across).hypot(f64::from(down)));
    (Some((gsd, format!("{whose} height {height:.1} m and {focal} mm"))), String::new())
}

fn position(exif: &Exif) -> Option<Position> {
    let degrees = |value: Tag, reference: Tag, negative: u8| {
        let Value::Rational(parts) = &exif.get_field(value, In::PRIMARY)?.value else { return None };
        let degrees = parts.iter().zip([1.0, 60.0, 3600.0]).map(|(p, unit)| p.to_f64() / unit).sum::<f64>();
        let is_negative = match &exif.get_field(reference, In::PRIMARY)?.value {
            Value::Ascii(text) => text.first()?.first()?.eq_ignore_ascii_case(&negative),
            _ => return None,
        };
        Some(if is_negative { -degrees } else { degrees })
    };
    let latitude = degrees(Tag::GPSLatitude, Tag::GPSLatitudeRef, b'S')?;
    let longitude = degrees(Tag::GPSLongitude, Tag::GPSLongitudeRef, b'W')?;
    // Cameras without reception write zeros.
    let is_there = latitude.abs() <= 90.0 && longitude.abs() <= 180.0 && (latitude != 0.0 || longitude != 0.0);
    is_there.then_some(Position { longitude, latitude })
}

/// The direction of the camera's upper edge from true north. That of the movement (GPSTrack) says nothing of the camera.
fn direction(exif: &Exif) -> Option<f64> {
    let reference = &exif.get_field(Tag::GPSImgDirectionRef, In::PRIMARY)?.value;
    let Value::Ascii(text) = reference else { return None };
    if !text.first()?.first()?.eq_ignore_ascii_case(&b'T') {
        return None;
    }
    match &exif.get_field(Tag::GPSImgDirection, In::PRIMARY)?.value {
        Value::Rational(parts) => parts.first().map(|p| p.to_f64()).filter(|d| (0.0..=360.0).contains(d)),
        _ => None,
    }
}

/// Returns the number of a property, which XMP writes as an attribute or as an element.
fn xmp_number(xmp: &str, name: &str) -> Option<f64> {
    xmp.match_indices(name).find_map(|(at, _)| {
        let rest = xmp.get(at + name.len()..)?.trim_start();
        let rest =
            rest.strip_prefix('=').map(|r| r.trim_start().trim_start_matches(['"', '\''])).or(rest.strip_prefix('>'))?;
        let end = rest.find(['"', '\'', '<']).unwrap_or(0);
        rest[..end].trim().parse::<f64>().ok().filter(|v| v.is_finite())
    })
}

/// Millimetres of the diagonal of 35 mm film.
const DIAGONAL: f64 = 43.266_615_305_567_875;
