//! Pictures that have no rows before their end, progressive JPEG and interlaced PNG: decoded at once, up to a limit.

use std::io::Read;

use image::RgbImage;

use super::{Band, Rows, check_size, damaged};
use crate::TilesError;

/// Most pixels of such a picture: with the coefficients of a progressive JPEG it takes up to 9 bytes a pixel.
pub const MAX_WHOLE: u64 = 50_000_000;
/// Longest file of such a picture.
const MAX_FILE: u64 = 256 << 20;
const BAND: u32 = 256;

/// A picture that is there as a whole.
pub(super) struct Whole {
    picture: RgbImage,
    /// Of each pixel whether it is transparent; none where none is.
    clear: Vec<bool>,
    done: u32,
}

impl Whole {
    /// Takes a decoded picture, and which of its pixels are transparent; an empty list where none is.
    pub fn new(picture: RgbImage, clear: Vec<bool>) -> Self {
        Self { picture, clear, done: 0 }
    }
}

/// Refuses a picture that is too large to be decoded at once.
pub(super) fn check(format: &'static str, width: u32, height: u32) -> Result<(), TilesError> {
    check_size(width, height)?;
    if u64::from(width) * u64::from(height) <= MAX_WHOLE {
        return Ok(());
    }
    let (what, remedy) = match format {
        "JPEG" => ("a progressive JPEG", "save it as baseline: jpegtran in.jpg > out.jpg"),
        _ => ("an interlaced PNG", "save it without interlacing: magick in.png -interlace none out.png"),
    };
    let limit = format!("{} million pixels", MAX_WHOLE / 1_000_000);
    Err(TilesError::TooLarge { what, limit, found: format!("{width}x{height}"), remedy })
}

/// Reads a file to its end.
pub(super) fn read(reader: impl Read) -> Result<Vec<u8>, TilesError> {
    let mut bytes = vec![];
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= MAX_FILE {
        return Ok(bytes);
    }
    Err(TilesError::TooLarge {
        what: "a progressive JPEG",
        limit: format!("{} MB", MAX_FILE >> 20),
        found: "a longer file".into(),
        remedy: "save it as baseline: jpegtran in.jpg > out.jpg",
    })
}

impl Rows for Whole {
    fn band_rows(&self) -> u32 {
        BAND.min(self.picture.height())
    }

    fn next(&mut self, band: &mut Band) -> Result<(), TilesError> {
        let rows = BAND.min(self.picture.height() - self.done);
        let width = self.picture.width() as usize;
        let (first, end) = (self.done as usize * width, (self.done + rows) as usize * width);
        band.opaque(rows, self.picture.as_raw().get(first * 3..end * 3).unwrap_or_default());
        if let Some(clear) = self.clear.get(first..end) {
            band.clear = clear.to_vec();
        }
        self.done += rows;
        Ok(())
    }
}

/// Refuses a JPEG without its end marker, of which the decoder would fill in the rest with grey.
pub(super) fn has_end(bytes: &[u8]) -> Result<(), TilesError> {
    let mut at = 2;
    let mut in_scan = false;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(skip) = rest.iter().position(|b| *b == 0xff) else {
            return Err(damaged("JPEG", "it ends before its end marker"));
        };
        if skip > 0 && !in_scan {
            return Err(damaged("JPEG", "data where a marker should be"));
        }
        at += skip + 1;
        match bytes.get(at) {
            None => return Err(damaged("JPEG", "it ends before its end marker")),
            Some(0xff) => {}
            Some(0xd9) => return Ok(()),
            Some(0 | 0xd0..=0xd8) => at += 1,
            Some(marker) => {
                let len = bytes.get(at + 1..at + 3).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
                in_scan = *marker == 0xda;
                at += 1 + len.max(2);
            }
        }
    }
}
