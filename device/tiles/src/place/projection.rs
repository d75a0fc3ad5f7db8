//! Coordinates of maps as positions on the ellipsoid.
//!
//! # Source
//!
//! Karney, *Transverse Mercator with an accuracy of a few nanometers*, arXiv:1002.1417, equations 11 to 17 and 36 (Krüger's series to
//! the fourth order: below a millimetre within a zone); Snyder, *Map Projections*, USGS 1395, pages 44 and 61; EPSG for the codes.

use serde::Serialize;

use super::Position;

/// How coordinates become positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Degrees east and north already.
    Degrees,
    /// A zone of Universal Transverse Mercator.
    Utm {
        /// 1 to 60.
        zone: u16,
        /// Whether it counts from the equator southwards.
        is_south: bool,
    },
    /// The spherical Mercator of web maps.
    Web,
}

impl Projection {
    /// Knows WGS 84 in degrees, UTM and web Mercator, and ETRS89 and NAD83 in UTM, which differ by less than two metres.
    pub fn of_epsg(epsg: u16) -> Option<Self> {
        match epsg {
            4326 | 4258 | 4269 => Some(Self::Degrees),
            32601..=32660 => Some(Self::Utm { zone: epsg - 32600, is_south: false }),
            32701..=32760 => Some(Self::Utm { zone: epsg - 32700, is_south: true }),
            25828..=25838 => Some(Self::Utm { zone: epsg - 25800, is_south: false }),
            26901..=26923 => Some(Self::Utm { zone: epsg - 26900, is_south: false }),
            3857 => Some(Self::Web),
            _ => None,
        }
    }

    /// Returns the position of coordinates; none where they are on no map of this kind.
    pub fn position(self, x: f64, y: f64) -> Option<Position> {
        let (longitude, latitude) = match self {
            Self::Degrees => (x, y),
            Self::Web => ((x / RADIUS).to_degrees(), (y / RADIUS).sinh().atan().to_degrees()),
            Self::Utm { zone, is_south } => utm(zone, x - 500_000.0, if is_south { y - 10_000_000.0 } else { y }),
        };
        let is_on_earth = (-180.0..=180.0).contains(&longitude) && (-90.0..=90.0).contains(&latitude);
        is_on_earth.then_some(Position { longitude, latitude })
    }

    /// Returns how many metres a unit of the coordinates is at a latitude, to the east and to the north.
    pub fn metres(self, latitude: f64) -> (f64, f64) {
        match self {
            Self::Degrees => per_degree(latitude),
            Self::Utm { .. } => (1.0, 1.0),
            Self::Web => {
                let (east, north) = per_degree(latitude);
                let degree = RADIUS.to_radians();
                (east / degree, north * latitude.to_radians().cos() / degree)
            }
        }
    }
}

/// Returns the position some metres to the east and north of another: exact to a centimetre within a kilometre.
pub(super) fn moved(from: Position, east: f64, north: f64) -> Position {
    // The lengths of degrees half of the way.
    let (_, per_north) = per_degree(from.latitude);
    let (_, per_north) = per_degree(from.latitude + north / per_north / 2.0);
    let latitude = from.latitude + north / per_north;
    let (per_east, _) = per_degree(latitude);
    Position { longitude: from.longitude + east / per_east, latitude }
}

/// Returns the metres of a degree of longitude and of latitude.
fn per_degree(latitude: f64) -> (f64, f64) {
    let (sin, cos) = latitude.to_radians().sin_cos();
    let squared = FLATTENING * (2.0 - FLATTENING);
    let root = (1.0 - squared * sin * sin).sqrt();
    let east = RADIUS / root * cos;
    let north = RADIUS * (1.0 - squared) / root.powi(3);
    (east.to_radians(), north.to_radians())
}

/// Returns longitude and latitude of coordinates in a zone, from its middle and the equator.
fn utm(zone: u16, x: f64, y: f64) -> (f64, f64) {
    let n = FLATTENING / (2.0 - FLATTENING);
    let (n2, n3, n4) = (n * n, n.powi(3), n.powi(4));
    let radius = RADIUS / (1.0 + n) * (1.0 + n2 / 4.0 + n4 / 64.0);
    let beta = [
        n / 2.0 - 2.0 / 3.0 * n2 + 37.0 / 96.0 * n3 - n4 / 360.0,
        n2 / 48.0 + n3 / 15.0 - 437.0 / 1440.0 * n4,
        17.0 / 480.0 * n3 - 37.0 / 840.0 * n4,
        4397.0 / 161_280.0 * n4,
    ];
    let (xi, eta) = (y / (SCALE * radius), x / (SCALE * radius));
    let (mut xi_0, mut eta_0) = (xi, eta);
    for (j, b) in (1..).zip(beta) {
        let twice = 2.0 * f64::from(j);
        xi_0 -= b * (twice * xi).sin() * (twice * eta).cosh();
        eta_0 -= b * (twice * xi).cos() * (twice * eta).sinh();
    }
    let longitude = eta_0.sinh().atan2(xi_0.cos());
    // The tangent of the conformal latitude, and by Newton's method that of the latitude.
    let conformal = xi_0.sin() / eta_0.sinh().hypot(xi_0.cos());
    let squared = FLATTENING * (2.0 - FLATTENING);
    let e = squared.sqrt();
    let mut tangent = conformal;
    for _ in 0..5 {
        let root = (1.0 + tangent * tangent).sqrt();
        let sigma = (e * (e * tangent / root).atanh()).sinh();
        let now = tangent * (1.0 + sigma * sigma).sqrt() - sigma * root;
        let slope = (1.0 - squared) * tangent.mul_add(tangent, 1.0) / (1.0 + (1.0 - squared) * tangent * tangent);
        tangent += (conformal - now) / (1.0 + now * now).sqrt() / (slope / root);
    }
    let middle = 6.0 * f64::from(zone) - 183.0;
    (middle + longitude.to_degrees(), tangent.atan().to_degrees())
}

/// Metres from the middle to the equator, and flattening, of WGS 84.
const RADIUS: f64 = 6_378_137.0;
const FLATTENING: f64 = 1.0 / 298.257_223_563;
/// Of the middle of a UTM zone.
const SCALE: f64 = 0.9996;
