//! PNG by rows. Interlaced files have no rows before their end: see [`super::whole`].

use std::io::{BufRead, Seek};

use image::RgbImage;
use png::{BitDepth, Decoder, DecodingError, Limits, Reader, Transformations};

use super::{
    Alpha, Band, Facts, MAX_BAND, Opened, Rows, append, check_band, check_size, damaged, guarded, kind, whole,
};
use crate::TilesError;

const FORMAT: &str = "PNG";
const BAND: u32 = 64;

/// Reads up to the data.
pub(super) fn open<R: BufRead + Seek + Send + 'static>(reader: R) -> Result<Opened, TilesError> {
    let mut decoder = Decoder::new_with_limits(reader, Limits { bytes: MAX_BAND as usize });
    // As the decoder of whole pictures has it: palettes and few bits become 8, a transparent colour becomes a channel.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(because)?;
    let (width, height, is_interlaced) = (header.width, header.height, header.interlaced);
    if header.bit_depth == BitDepth::Sixteen {
        return Err(kind("8 bits a channel", "a PNG of 16".into(), "save it with 8 bits a channel"));
    }
    check_size(width, height)?;
    // Four channels and the rows that filters look back to.
    check_band(width, BAND.max(4))?;
    if is_interlaced {
        whole::check(FORMAT, width, height)?;
    }
    let mut reader = guarded(FORMAT, || decoder.read_info().map_err(because))?;
    if reader.info().animation_control.is_some() {
        return Err(kind("one still picture", "an animated PNG".into(), "save one frame of it"));
    }
    let mut facts = Facts::of(FORMAT, width, height);
    facts.exif = reader.info().exif_metadata.as_deref().map(<[u8]>::to_vec);
    let channels = reader.output_color_type().0.samples();
    if is_interlaced {
        let mut all = Band::default();
        let len = width as usize * height as usize * channels;
        let mut pixels = vec![0; len];
        guarded(FORMAT, || {
            reader.next_frame(&mut pixels).map_err(because)?;
            reader.finish().map_err(because)
        })?;
        append(&mut all, &pixels, channels, alpha(channels), None);
        let picture = RgbImage::from_raw(width, height, all.rgb).ok_or_else(|| damaged(FORMAT, "two sizes"))?;
        return Ok(Opened { facts, rows: Box::new(whole::Whole::new(picture, all.clear)) });
    }
    let line = vec![0; width as usize * channels];
    Ok(Opened { facts, rows: Box::new(Plain { reader, line, channels, height, done: 0 }) })
}

/// A PNG whose rows are read one after the other.
struct Plain<R: BufRead + Seek> {
    reader: Reader<R>,
    line: Vec<u8>,
    channels: usize,
    height: u32,
    done: u32,
}

impl<R: BufRead + Seek + Send> Rows for Plain<R> {
    fn band_rows(&self) -> u32 {
        BAND.min(self.height)
    }

    fn next(&mut self, band: &mut Band) -> Result<(), TilesError> {
        band.begin();
        let (height, done) = (self.height, self.done);
        let rows = BAND.min(height - done);
        let (reader, line, channels) = (&mut self.reader, &mut self.line, self.channels);
        guarded(FORMAT, || {
            for row in 0..rows {
                let found = done + row;
                match reader.read_row(line) {
                    Ok(Some(_)) => append(band, line, channels, alpha(channels), None),
                    Ok(None) => return Err(TilesError::Truncated { format: FORMAT, rows: height, found }),
                    Err(error) => return Err(at_row(error, height, found)),
                }
            }
            if done + rows == height {
                reader.finish().map_err(|e| at_row(e, height, height))?;
            }
            Ok(())
        })?;
        band.rows = rows;
        self.done += rows;
        band.settle();
        Ok(())
    }
}

fn alpha(channels: usize) -> Alpha {
    if channels.is_multiple_of(2) { Alpha::Plain } else { Alpha::Ignored }
}

fn at_row(error: DecodingError, rows: u32, found: u32) -> TilesError {
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            TilesError::Truncated { format: FORMAT, rows, found }
        }
        other => because(other),
    }
}

fn because(error: DecodingError) -> TilesError {
    match error {
        DecodingError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => e.into(),
        other => damaged(FORMAT, other),
    }
}
