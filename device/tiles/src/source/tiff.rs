//! TIFF, BigTIFF and GeoTIFF by rows of tiles or strips.
//!
//! # Source
//!
//! TIFF 6.0 sections 15 and 22, OGC GeoTIFF 1.1 (19-008r4) section 7, JFIF 1.02 (YCbCr).

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::metadata::Orientation;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{CompressionMethod, Tag};

use super::{Alpha, Band, Facts, MAX_BAND, Opened, Rows, append, check_band, check_size, damaged, guarded, kind};
use crate::TilesError;
use crate::place::Geo;

const FORMAT: &str = "TIFF";
/// Rows that are read together where strips are lower.
const BAND: u32 = 64;

/// Reads the first picture's tags.
pub(super) fn open<R: BufRead + Seek + Send + 'static>(reader: R) -> Result<Opened, TilesError> {
    guarded(FORMAT, || {
        let mut limits = Limits::default();
        limits.decoding_buffer_size = MAX_BAND as usize;
        limits.intermediate_buffer_size = MAX_BAND as usize;
        limits.ifd_value_size = 64 << 20;
        let mut decoder = Decoder::new(reader).map_err(because)?.with_limits(limits);
        let (width, height) = decoder.dimensions().map_err(because)?;
        check_size(width, height)?;
        let tag = |decoder: &mut Decoder<R>, tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
        if tag(&mut decoder, Tag::PhotometricInterpretation) == Some(3) {
            let remedy = "turn it with: gdal_translate -expand rgb in.tif out.tif";
            return Err(kind("grey or RGB", "a TIFF with a palette".into(), remedy));
        }
        let (channels, is_ycc) = channels(&decoder.colortype().map_err(because)?)?;
        if tag(&mut decoder, Tag::PlanarConfiguration).is_some_and(|p| p != 1) {
            return Err(kind(
                "the colours of a pixel together",
                "a TIFF with a plane for each".into(),
                "turn it with: gdal_translate -co INTERLEAVE=PIXEL -co TILED=YES in.tif out.tif",
            ));
        }
        let extra: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
        let alpha = match extra.first() {
            Some(1) => Alpha::Multiplied,
            Some(2) => Alpha::Plain,
            _ => Alpha::Ignored,
        };
        let nodata = decoder.get_tag_ascii_string(Tag::GdalNodata).ok();
        let nodata = nodata.and_then(|t| t.trim_matches(['\0', ' ']).parse::<f64>().ok());
        let nodata = nodata.filter(|v| v.fract() == 0.0 && (0.0..=255.0).contains(v)).map(|v| v as u8);
        let mut facts = Facts::of(FORMAT, width, height);
        facts.geo = geo(&mut decoder);
        // What lies on a map lies on it as stored.
        if facts.geo.is_none() {
            let told = tag(&mut decoder, Tag::Orientation).and_then(|o| Orientation::from_exif(u8::try_from(o).ok()?));
            facts.orientation = told.unwrap_or(Orientation::NoTransforms);
        }
        let (across, down) = decoder.chunk_dimensions();
        if across == 0 || down == 0 {
            return Err(damaged(FORMAT, format!("pieces of {across}x{down}")));
        }
        let is_raw = tag(&mut decoder, Tag::Compression).is_none_or(|c| c == CompressionMethod::None.to_u16());
        let starts: Option<Vec<u64>> = decoder.find_tag_unsigned_vec(Tag::StripOffsets).ok().flatten();
        let strips =
            starts.filter(|_| is_raw && !is_ycc && tag(&mut decoder, Tag::PhotometricInterpretation) != Some(0));
        let down = down.min(height);
        // A piece is decoded as a whole, whatever of it lies outside of the picture.
        let rows = if strips.is_some() {
            BAND.min(height)
        } else {
            BAND.next_multiple_of(down).max(down).min(height.next_multiple_of(down))
        };
        // What is read and what is made of it, and a piece as it is stored.
        let depth = (channels as u32).div_ceil(3);
        check_band(width.saturating_mul(depth), rows)?;
        check_band(across.saturating_mul(depth), down)?;
        let read =
            Pieces { decoder, width, height, across, down, rows, channels, is_ycc, alpha, nodata, strips, done: 0 };
        Ok(Opened { facts, rows: Box::new(read) })
    })
}

/// Returns the channels of a pixel, and whether they are YCbCr.
fn channels(colour: &ColorType) -> Result<(usize, bool), TilesError> {
    let found = |what: &str| Err(kind("grey or RGB of 8 bits a channel", format!("a TIFF {what}"), TO_RGB));
    match *colour {
        ColorType::CMYK(_) | ColorType::CMYKA(_) => Err(kind("grey or RGB", "a CMYK TIFF".into(), "convert it to RGB")),
        ColorType::Gray(8) => Ok((1, false)),
        ColorType::GrayA(8) => Ok((2, false)),
        ColorType::RGB(8) => Ok((3, false)),
        ColorType::RGBA(8) => Ok((4, false)),
        ColorType::YCbCr(8) => Ok((3, true)),
        ColorType::Multiband { bit_depth: 8, num_samples: 2 } => Ok((2, false)),
        ColorType::Multiband { bit_depth: 8, num_samples } if num_samples >= 3 => Ok((num_samples.into(), false)),
        ref other => found(&format!("of {} bits ({other:?})", other.bit_depth())),
    }
}

/// A TIFF whose pieces are read a row of them at a time.
struct Pieces<R: Read + Seek> {
    decoder: Decoder<R>,
    width: u32,
    height: u32,
    /// Pixels across of a piece.
    across: u32,
    /// Pixels down of a piece.
    down: u32,
    /// Rows that are read together: some rows of pieces.
    rows: u32,
    channels: usize,
    is_ycc: bool,
    alpha: Alpha,
    /// The value that stands for no data.
    nodata: Option<u8>,
    /// Where strips begin that are not compressed, of which any row can be read.
    strips: Option<Vec<u64>>,
    done: u32,
}

impl<R: Read + Seek + Send> Rows for Pieces<R> {
    fn band_rows(&self) -> u32 {
        self.rows
    }

    fn next(&mut self, band: &mut Band) -> Result<(), TilesError> {
        band.begin();
        let rows = self.rows.min(self.height - self.done);
        let mut pixels = vec![0; rows as usize * self.width as usize * self.channels];
        guarded(FORMAT, || if self.strips.is_some() { self.raw(&mut pixels) } else { self.pieces(&mut pixels) })?;
        if self.is_ycc {
            pixels.chunks_exact_mut(3).for_each(to_rgb);
        }
        append(band, &pixels, self.channels, self.alpha, self.nodata);
        band.rows = rows;
        self.done += rows;
        band.settle();
        Ok(())
    }
}

impl<R: Read + Seek> Pieces<R> {
    fn truncated(&self) -> TilesError {
        TilesError::Truncated { format: FORMAT, rows: self.height, found: self.done }
    }

    /// Reads rows of strips that are not compressed.
    fn raw(&mut self, pixels: &mut [u8]) -> Result<(), TilesError> {
        let stride = self.width as usize * self.channels;
        for (row, line) in (self.done..).zip(pixels.chunks_exact_mut(stride)) {
            let start = self.strips.as_ref().and_then(|s| s.get((row / self.down) as usize)).copied();
            let within = u64::from(row % self.down) * stride as u64;
            let at =
                start.and_then(|s| s.checked_add(within)).ok_or_else(|| damaged(FORMAT, "a strip that is missing"))?;
            let reader = self.decoder.inner();
            let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(line));
            match read {
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Decodes rows of pieces.
    fn pieces(&mut self, pixels: &mut [u8]) -> Result<(), TilesError> {
        let stride = self.width as usize * self.channels;
        let in_row = self.width.div_ceil(self.across);
        let mut piece = DecodingResult::U8(vec![]);
        for (number, lines) in (self.done / self.down..).zip(pixels.chunks_mut(stride * self.down as usize)) {
            for column in 0..in_row {
                let index = number.checked_mul(in_row).and_then(|n| n.checked_add(column));
                let index = index.ok_or_else(|| damaged(FORMAT, "too many pieces"))?;
                let (width, height) = self.decoder.chunk_data_dimensions(index);
                let line = width as usize * self.channels;
                self.decoder.read_chunk_to_buffer(&mut piece, index, line).map_err(|e| match e {
                    tiff::TiffError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => self.truncated(),
                    other => because(other),
                })?;
                let DecodingResult::U8(bytes) = &piece else { return Err(damaged(FORMAT, "samples of another kind")) };
                let left = column as usize * self.across as usize * self.channels;
                let wrong = || damaged(FORMAT, "a piece of a wrong size");
                for (to, from) in
                    lines.chunks_exact_mut(stride).zip(bytes.chunks_exact(line.max(1)).take(height as usize))
                {
                    to.get_mut(left..left + line).ok_or_else(wrong)?.copy_from_slice(from);
                }
            }
        }
        Ok(())
    }
}

/// Reads what tells where pixels lie on a map.
fn geo<R: Read + Seek>(decoder: &mut Decoder<R>) -> Option<Geo> {
    let numbers = |decoder: &mut Decoder<R>, tag| decoder.get_tag_f64_vec(tag).unwrap_or_default();
    let scale = numbers(decoder, Tag::ModelPixelScaleTag);
    let tie = numbers(decoder, Tag::ModelTiepointTag);
    let matrix = numbers(decoder, Tag::ModelTransformationTag);
    let keys = decoder.get_tag_u16_vec(Tag::GeoKeyDirectoryTag).unwrap_or_default();
    Geo::of_tags(&scale, &tie, &matrix, &keys)
}

fn to_rgb(pixel: &mut [u8]) {
    if let [y, cb, cr] = pixel {
        let (luma, blue, red) = (f32::from(*y), f32::from(*cb) - 128.0, f32::from(*cr) - 128.0);
        let rgb = [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue];
        // Rust's conversion ends at 0 and 255.
        [*y, *cb, *cr] = rgb.map(|v| v.round() as u8);
    }
}

fn because(error: tiff::TiffError) -> TilesError {
    match error {
        tiff::TiffError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => e.into(),
        tiff::TiffError::UnsupportedError(e) => kind("a TIFF of grey or RGB", e.to_string(), TO_RGB),
        tiff::TiffError::LimitsExceeded => TilesError::TooLarge {
            what: "a piece of a TIFF",
            limit: format!("{} MB", MAX_BAND >> 20),
            found: "a larger one".into(),
            remedy: "save it with tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif",
        },
        other => damaged(FORMAT, other),
    }
}

const TO_RGB: &str = "turn it with: gdal_translate -ot Byte -scale -co TILED=YES -co COMPRESS=DEFLATE in.tif out.tif";
