//! Where a picture's pixels lie on the ground, as far as the file tells or the user says; and why not, where it does not.
//!
//! A map (GeoTIFF) places every pixel. A photograph places its own centre by GPS; with the ground that a pixel covers and the
//! direction of its upper edge also every pixel, as far as the ground is flat and the camera looked straight down.
//!
//! # Source
//!
//! OGC GeoTIFF 1.1 (19-008r4) section 7; RFC 7946 for the order and datum of positions; Exif 2.32 section 4.6.6 (GPS) and the tag
//! FocalLengthIn35mmFilm; for `drone-dji` and `sensefly` what their cameras write.

use serde::Serialize;

mod exif;
mod projection;

pub use projection::Projection;

use crate::source::Facts;

/// A position on the WGS 84 ellipsoid, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Position {
    /// Degrees east.
    pub longitude: f64,
    /// Degrees north.
    pub latitude: f64,
}

/// What a GeoTIFF says of where its pixels lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Geo {
    /// Coordinates of pixel `x`, `y`: `[a, b, c, d, e, f]` for `a + b x + c y` and `d + e x + f y`; whole numbers are corners.
    pub affine: [f64; 6],
    /// What the coordinates are, where that is told.
    pub epsg: Option<u16>,
}

impl Geo {
    /// Makes it of the tags' numbers; none where they do not place the picture.
    pub fn of_tags(scale: &[f64], tie: &[f64], matrix: &[f64], keys: &[u16]) -> Option<Self> {
        let mut affine = match (scale, tie, matrix) {
            (&[across, down, ..], &[column, row, _, x, y, ..], _) => {
                [x - column * across, across, 0.0, y + row * down, 0.0, -down]
            }
            (_, _, &[a, b, _, x, d, e, _, y, ..]) => [x, a, b, y, d, e],
            _ => return None,
        };
        let key = |wanted: u16| {
            let entries = keys.get(4..).unwrap_or_default().chunks_exact(4);
            // Only values that stand in the directory itself.
            entries.filter(|k| k[0] == wanted && k[1] == 0).map(|k| k[3]).find(|v| *v != 0 && *v != USER_DEFINED)
        };
        if key(RASTER_TYPE) == Some(PIXEL_IS_POINT) {
            let [a, b, c, d, e, f] = affine;
            affine = [a - (b + c) / 2.0, b, c, d - (e + f) / 2.0, e, f];
        }
        let epsg = match key(MODEL_TYPE) {
            Some(GEOGRAPHIC) => key(GEOGRAPHIC_CRS),
            _ => key(PROJECTED_CRS),
        };
        let [_, b, c, _, e, f] = affine;
        let is_flat = !affine.iter().all(|v| v.is_finite()) || (b * f - c * e).abs() < f64::MIN_POSITIVE;
        (!is_flat).then_some(Self { affine, epsg })
    }

    fn coordinates(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.affine;
        (a + b * x + c * y, d + e * x + f * y)
    }
}

/// What the user says of a photograph.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Given {
    /// Metres of ground that a pixel covers.
    pub gsd: Option<f64>,
    /// Direction of the picture's upper edge, in degrees clockwise from north.
    pub heading: Option<f64>,
}

/// How pixels of an upright picture are placed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    /// Not at all.
    None {
        /// Why.
        why: String,
    },
    /// All at the picture's own position, for want of what would tell more.
    Picture {
        /// Of the camera.
        at: Position,
        /// Why no more is told.
        why: String,
        /// Metres of ground that a pixel covers, where that is known.
        gsd: Option<f64>,
    },
    /// Each by the picture's centre, the ground that a pixel covers, and a direction.
    Ground {
        /// Of the picture's centre.
        at: Position,
        /// Metres of ground that a pixel covers.
        gsd: f64,
        /// Degrees clockwise from north.
        heading: f64,
        /// Where these numbers come from.
        from: String,
        /// Pixels from the upper left to the centre.
        centre: (f64, f64),
    },
    /// Each by its coordinates on a map.
    Map {
        /// What the file says.
        geo: Geo,
        /// How coordinates become positions; none where that is not known of this kind.
        projection: Option<Projection>,
        /// Where the centre of the picture lies.
        at: Option<Position>,
        /// Metres of ground that a pixel covers, across.
        gsd: Option<f64>,
        /// Square metres of ground that a pixel covers.
        area: Option<f64>,
    },
}

impl Place {
    /// Finds out how the pixels of a picture are placed. `width` and `height` are those of the upright picture.
    pub fn of(facts: &Facts, width: u32, height: u32, given: Given) -> Self {
        let centre = (f64::from(width) / 2.0, f64::from(height) / 2.0);
        if let Some(geo) = facts.geo {
            return Self::on_map(geo, centre);
        }
        let found = exif::Told::of(facts.exif.as_deref(), facts.xmp.as_deref(), width, height);
        let gsd = given.gsd.map(|g| (g, "--gsd".to_owned())).or(found.gsd);
        let heading = given.heading.map(|h| (h, "--heading".to_owned())).or(found.heading);
        let Some(at) = found.at else {
            return Self::None { why: "the file has no GPS position".into() };
        };
        match (gsd, heading) {
            (Some(gsd), Some(heading)) if found.tilt.is_none_or(|t| t <= MOST_TILT) || given.gsd.is_some() => {
                let from = format!("{}, {}", gsd.1, heading.1);
                Self::Ground { at, gsd: gsd.0, heading: heading.0, from, centre }
            }
            (gsd, heading) => {
                let tilt = found.tilt.filter(|t| *t > MOST_TILT);
                let why = match (&gsd, &heading, tilt) {
                    (Some(_), Some(_), Some(tilt)) => {
                        format!("the camera was tilted by {tilt:.0} degrees; give --gsd where that does no harm")
                    }
                    (None, None, _) => {
                        format!("{}, and nothing tells the direction; give --gsd and --heading", found.no_gsd)
                    }
                    (None, ..) => format!("{}; give --gsd", found.no_gsd),
                    _ => "nothing tells the direction of its upper edge; give --heading".into(),
                };
                Self::Picture { at, why, gsd: gsd.filter(|_| tilt.is_none()).map(|g| g.0) }
            }
        }
    }

    fn on_map(geo: Geo, centre: (f64, f64)) -> Self {
        let projection = geo.epsg.and_then(Projection::of_epsg);
        let (x, y) = geo.coordinates(centre.0, centre.1);
        let at = projection.and_then(|p| p.position(x, y));
        // Metres of a unit of the coordinates there, to the east and to the north.
        let unit = match (projection, at) {
            (Some(projection), Some(at)) => Some(projection.metres(at.latitude)),
            _ => None,
        };
        let [_, b, c, _, e, f] = geo.affine;
        let gsd = unit.map(|(east, north)| (b * east).hypot(e * north));
        let area = unit.map(|(east, north)| ((b * f - c * e) * east * north).abs());
        Self::Map { geo, projection, at, gsd, area }
    }

    /// Returns where a point of the upright picture lies, and whether that is more than where the picture is.
    pub fn position(&self, x: f64, y: f64) -> Option<Position> {
        match self {
            Self::None { .. } => None,
            Self::Picture { at, .. } => Some(*at),
            Self::Ground { at, gsd, heading, centre, .. } => {
                let (right, up) = ((x - centre.0) * gsd, (centre.1 - y) * gsd);
                let (sin, cos) = heading.to_radians().sin_cos();
                Some(projection::moved(*at, right * cos + up * sin, up * cos - right * sin))
            }
            Self::Map { geo, projection, .. } => {
                let (x, y) = geo.coordinates(x, y);
                projection.and_then(|p| p.position(x, y))
            }
        }
    }

    /// Returns the coordinates of a point on the map, in its own system.
    pub fn coordinates(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        match self {
            Self::Map { geo, .. } => Some(geo.coordinates(x, y)),
            _ => None,
        }
    }

    /// Returns the square metres that a pixel covers.
    pub fn area(&self) -> Option<f64> {
        match self {
            Self::None { .. } => None,
            Self::Picture { gsd, .. } => gsd.map(|g| g * g),
            Self::Ground { gsd, .. } => Some(gsd * gsd),
            Self::Map { area, .. } => *area,
        }
    }

    /// Returns what a position of it is: `pixel`, `picture` or `none`.
    pub fn precision(&self) -> &'static str {
        match self {
            Self::Picture { .. } => "picture",
            Self::Ground { .. } | Self::Map { projection: Some(_), .. } => "pixel",
            Self::None { .. } | Self::Map { .. } => "none",
        }
    }

    /// Tells a person how pixels are placed.
    pub fn told(&self) -> String {
        match self {
            Self::None { why } => format!("no positions: {why}"),
            Self::Picture { why, .. } => format!("each spot has the picture's own position: {why}"),
            Self::Ground { gsd, heading, from, .. } => {
                format!("positions by {:.1} cm a pixel, heading {heading:.0} degrees ({from})", gsd * 100.0)
            }
            Self::Map { geo, projection: Some(_), gsd, .. } => {
                let gsd = gsd.map_or(String::new(), |g| format!(", {:.1} cm a pixel", g * 100.0));
                format!("positions of the map, EPSG:{}{gsd}", geo.epsg.unwrap_or_default())
            }
            Self::Map { geo: Geo { epsg: Some(epsg), .. }, .. } => {
                format!(
                    "coordinates of EPSG:{epsg} alone, which are not turned into degrees here; reproject with: {WARP}"
                )
            }
            Self::Map { .. } => {
                format!("coordinates alone, of a kind that the file does not tell; assign it with: {WARP}")
            }
        }
    }
}

const WARP: &str = "gdalwarp -t_srs EPSG:4326 in.tif out.tif";
/// Degrees off straight down beyond which a photograph is no map of the ground.
const MOST_TILT: f64 = 10.0;
// Keys and values of a GeoTIFF's directory.
const MODEL_TYPE: u16 = 1024;
const RASTER_TYPE: u16 = 1025;
const GEOGRAPHIC_CRS: u16 = 2048;
const PROJECTED_CRS: u16 = 3072;
const GEOGRAPHIC: u16 = 2;
const PIXEL_IS_POINT: u16 = 2;
const USER_DEFINED: u16 = 32767;

#[cfg(test)]
mod tests;
