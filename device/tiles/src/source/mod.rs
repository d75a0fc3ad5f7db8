//! A picture as rows that come one after the other, so that it never is in memory as a whole.
//!
//! What comes out are the pixels that `graft_runtime::picture::decode` would give: eight bits a channel, grey as RGB, transparency
//! laid over white; but as they are stored, not yet turned upright. Every size is held against a limit before memory is taken.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;

use crate::TilesError;
use crate::place::Geo;

mod entropy;
mod jpeg;
mod png;
#[cfg(test)]
mod tests;
mod tiff;
mod whole;

pub use whole::MAX_WHOLE;

/// Fewest pixels on a side, as of any picture of graft's.
pub const MIN_SIDE: u32 = 8;
/// Most pixels on a side.
pub const MAX_SIDE: u32 = 1_000_000;
/// Most bytes of the rows that are decoded together.
pub const MAX_BAND: u64 = 256 << 20;

/// What a file says of its picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Name of the format.
    pub format: &'static str,
    /// Pixels across, as stored.
    pub width: u32,
    /// Pixels down, as stored.
    pub height: u32,
    /// How to turn it upright.
    pub orientation: Orientation,
    /// The TIFF structure of its EXIF block.
    pub exif: Option<Vec<u8>>,
    /// Its XMP packet.
    pub xmp: Option<String>,
    /// What a GeoTIFF says of where its pixels lie.
    pub geo: Option<Geo>,
}

impl Facts {
    fn of(format: &'static str, width: u32, height: u32) -> Self {
        Self { format, width, height, orientation: Orientation::NoTransforms, exif: None, xmp: None, geo: None }
    }
}

/// Some rows of a picture.
#[derive(Debug, Default)]
pub struct Band {
    /// How many.
    pub rows: u32,
    /// `u8 [rows, width, 3]`.
    pub rgb: Vec<u8>,
    /// Of each pixel whether it is more than half transparent, or has no data; none where none is.
    pub clear: Vec<bool>,
}

impl Band {
    fn begin(&mut self) {
        self.rows = 0;
        self.rgb.clear();
        self.clear.clear();
    }

    /// Leaves out which pixels are transparent where none is.
    fn settle(&mut self) {
        if !self.clear.contains(&true) {
            self.clear.clear();
        }
    }

    fn opaque(&mut self, rows: u32, rgb: &[u8]) {
        self.begin();
        self.rows = rows;
        self.rgb.extend_from_slice(rgb);
    }
}

/// What gives rows.
trait Rows: Send {
    /// The most rows that are decoded together.
    fn band_rows(&self) -> u32;

    /// Gives the next rows, at least one. Not called after the last.
    fn next(&mut self, band: &mut Band) -> Result<(), TilesError>;
}

struct Opened {
    facts: Facts,
    rows: Box<dyn Rows>,
}

/// A picture that is being read.
pub struct Source {
    facts: Facts,
    rows: Box<dyn Rows>,
    read: u32,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("facts", &self.facts).field("read", &self.read).finish_non_exhaustive()
    }
}

impl Source {
    /// Opens a JPEG, PNG or TIFF file.
    ///
    /// # Errors
    ///
    /// Those of [`Source::new`].
    pub fn open(path: &Path) -> Result<Self, TilesError> {
        Self::new(BufReader::with_capacity(1 << 16, File::open(path)?))
    }

    /// Reads the header of a JPEG, PNG or TIFF file.
    ///
    /// # Errors
    ///
    /// [`TilesError`] says what is taken, what this is, and what to do.
    pub fn new<R: BufRead + Seek + Send + 'static>(mut reader: R) -> Result<Self, TilesError> {
        let mut magic = vec![];
        reader.by_ref().take(12).read_to_end(&mut magic)?;
        reader.rewind()?;
        let Opened { mut facts, rows } = match &magic[..] {
            [0xff, 0xd8, 0xff, ..] => jpeg::open(reader)?,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png::open(reader)?,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::open(reader)?,
            _ => {
                let found: Vec<String> = magic.iter().take(8).map(|b| format!("{b:02x}")).collect();
                let found = if found.is_empty() {
                    "an empty one".into()
                } else {
                    format!("one that begins with {}", found.join(" "))
                };
                return Err(kind("a JPEG, PNG or TIFF file", found, "convert it to one of these"));
            }
        };
        check_size(facts.width, facts.height)?;
        check_band(facts.width, rows.band_rows())?;
        if let Some(orientation) = facts.exif.as_deref().and_then(Orientation::from_exif_chunk) {
            facts.orientation = orientation;
        }
        Ok(Self { facts, rows, read: 0 })
    }

    /// Returns what the file says of its picture.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the rows that are decoded together, at most.
    pub fn band_rows(&self) -> u32 {
        self.rows.band_rows()
    }

    /// Gives the next rows; none after the last.
    ///
    /// # Errors
    ///
    /// [`TilesError::Read`], [`TilesError::Damaged`] and [`TilesError::Truncated`].
    pub fn next(&mut self, band: &mut Band) -> Result<(), TilesError> {
        let left = self.facts.height - self.read;
        if left == 0 {
            band.begin();
            return Ok(());
        }
        self.rows.next(band)?;
        let (format, width) = (self.facts.format, self.facts.width as usize);
        let pixels = band.rows as usize * width;
        let is_sound = (1..=left).contains(&band.rows)
            && band.rgb.len() == pixels * 3
            && (band.clear.is_empty() || band.clear.len() == pixels);
        if !is_sound {
            return Err(damaged(format, "rows of a wrong length"));
        }
        self.read += band.rows;
        Ok(())
    }
}

fn check_size(width: u32, height: u32) -> Result<(), TilesError> {
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(TilesError::TooSmall { least: MIN_SIDE, width, height });
    }
    if width.max(height) > MAX_SIDE {
        return Err(TilesError::TooLarge {
            what: "a picture",
            limit: format!("{MAX_SIDE} pixels a side"),
            found: format!("{width}x{height}"),
            remedy: "cut it into several",
        });
    }
    Ok(())
}

fn check_band(width: u32, rows: u32) -> Result<(), TilesError> {
    let bytes = u64::from(width) * u64::from(rows) * 3;
    if bytes > MAX_BAND {
        return Err(TilesError::TooLarge {
            what: "rows that are decoded together",
            limit: format!("{} MB", MAX_BAND >> 20),
            found: format!("{width}x{rows} pixels"),
            remedy: "save it as a TIFF with tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif",
        });
    }
    Ok(())
}

/// Adds pixels of some channels to a band: grey, grey with alpha, RGB, or RGB with alpha and whatever else.
///
/// `nodata` is the value of all colours of a pixel that has no data.
fn append(band: &mut Band, pixels: &[u8], channels: usize, alpha: Alpha, nodata: Option<u8>) {
    if (channels, alpha, nodata) == (3, Alpha::Ignored, None) {
        band.rgb.extend_from_slice(pixels);
        return;
    }
    let count = pixels.len() / channels.max(1);
    band.rgb.reserve(count * 3);
    band.clear.reserve(count);
    for pixel in pixels.chunks_exact(channels.max(1)) {
        let (colour, alpha_at) = match *pixel {
            [grey] | [grey, _] => ([grey; 3], 1),
            [r, g, b, ..] => ([r, g, b], 3),
            [] => continue,
        };
        let opacity = if alpha == Alpha::Ignored { 255 } else { pixel.get(alpha_at).copied().unwrap_or(255) };
        let lay = |v: u8| match alpha {
            Alpha::Multiplied => v.saturating_add(255 - opacity),
            _ => over_white(v, opacity),
        };
        band.rgb.extend(if opacity == 255 { colour } else { colour.map(lay) });
        band.clear.push(opacity < 128 || nodata.is_some_and(|n| colour == [n; 3]));
    }
}

/// What a channel behind the colours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpha {
    /// Nothing of transparency.
    Ignored,
    /// How opaque a pixel is.
    Plain,
    /// The same, and the colours are multiplied by it.
    Multiplied,
}

/// Lays a colour over white.
fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    u8::try_from((value * alpha + 255 * (255 - alpha) + 127) / 255).unwrap_or(u8::MAX)
}

/// Turns a panic of a decoder into an error: one file must not end a program that has others to read.
fn guarded<T>(format: &'static str, work: impl FnOnce() -> Result<T, TilesError>) -> Result<T, TilesError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged(format, "the decoder gave up")))
}

fn damaged(format: &'static str, reason: impl Display) -> TilesError {
    TilesError::Damaged { format, reason: reason.to_string() }
}

fn kind(expected: &'static str, found: String, remedy: &'static str) -> TilesError {
    TilesError::Kind { expected, found, remedy }
}
