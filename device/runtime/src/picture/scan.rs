//! Walks the structure of a JPEG or PNG file without decoding a pixel.
//!
//! The decoders fill missing data with grey, take four colours for three and keep 16 bits: what must be refused
//! by name is found here, from the markers and chunks alone.
//!
//! # Source
//!
//! ITU-T T.81 annex B (JPEG markers), PNG specification (third edition) section 5 and 11.

use super::PictureError;

/// A format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
        }
    }
}

/// What the structure of a sound file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) format: Format,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// Recognises the format by its first bytes and walks the file to its end marker.
pub(super) fn scan(bytes: &[u8]) -> Result<Facts, PictureError> {
    if bytes.starts_with(&JPEG_MAGIC) {
        return jpeg(bytes);
    }
    if bytes.starts_with(&PNG_MAGIC) {
        return png(bytes);
    }
    // A file cut inside the magic is a truncated one, not an unknown one.
    for (magic, format) in [(&JPEG_MAGIC[..], Format::Jpeg), (&PNG_MAGIC[..], Format::Png)] {
        if magic.starts_with(bytes) {
            return Err(truncated(format, bytes));
        }
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Err(PictureError::UnsupportedFormat { format: "WebP" });
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        let format = if bytes.get(8..11) == Some(b"avi") { "AVIF" } else { "HEIC or a video" };
        return Err(PictureError::UnsupportedFormat { format });
    }
    if let Some((_, format)) = OTHER_MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(PictureError::UnsupportedFormat { format });
    }
    let found: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    Err(PictureError::UnknownFormat { found: found.join(" ") })
}

fn jpeg(bytes: &[u8]) -> Result<Facts, PictureError> {
    let format = Format::Jpeg;
    let mut at = 2;
    let mut size = None;
    let mut in_scan = false;
    loop {
        // Inside a scan everything up to the next marker is data; elsewhere there may be fill bytes.
        let rest = bytes.get(at..).unwrap_or_default();
        let skipped = rest.iter().position(|&b| b == 0xff).ok_or_else(|| truncated(format, bytes))?;
        if skipped != 0 && !in_scan {
            return Err(corrupt(format, format!("expected a marker at byte {at}, found data")));
        }
        at += skipped + 1;
        let marker = *bytes.get(at).ok_or_else(|| truncated(format, bytes))?;
        match marker {
            0xff => continue,
            0x00 | 0xd0..=0xd7 if in_scan => {
                at += 1;
                continue;
            }
            END => break,
            0x00..=0xbf | 0xd0..=0xd8 => {
                return Err(corrupt(format, format!("marker ff {marker:02x} at byte {at}")));
            }
            _ => {}
        }
        at += 1;
        let len = usize::from(u16_at(bytes, at).ok_or_else(|| truncated(format, bytes))?);
        if len < 2 {
            return Err(corrupt(format, format!("a segment of {len} bytes at byte {at}")));
        }
        let segment = bytes.get(at + 2..at + len).ok_or_else(|| truncated(format, bytes))?;
        if is_frame_header(marker) && size.replace(frame(segment)?).is_some() {
            return Err(corrupt(format, "two frame headers".to_owned()));
        }
        in_scan = marker == SCAN;
        at += len;
    }
    let (width, height) = size.ok_or_else(|| corrupt(format, "no frame header".to_owned()))?;
    Ok(Facts { format, width, height })
}

fn is_frame_header(marker: u8) -> bool {
    // C4, C8 and CC are tables and an extension, not frames.
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// Reads width and height of a JPEG frame header.
fn frame(segment: &[u8]) -> Result<(u32, u32), PictureError> {
    let short = || corrupt(Format::Jpeg, format!("a frame header of {} bytes", segment.len()));
    let bits = *segment.first().ok_or_else(short)?;
    let height = u16_at(segment, 1).ok_or_else(short)?;
    let width = u16_at(segment, 3).ok_or_else(short)?;
    let components = *segment.get(5).ok_or_else(short)?;
    if bits != 8 {
        return Err(PictureError::SixteenBit { bits });
    }
    match components {
        1 | 3 => Ok((width.into(), height.into())),
        4 => Err(PictureError::Cmyk),
        n => Err(corrupt(Format::Jpeg, format!("{n} colour components"))),
    }
}

fn png(bytes: &[u8]) -> Result<Facts, PictureError> {
    let format = Format::Png;
    let mut at = PNG_MAGIC.len();
    let mut size = None;
    loop {
        let len = u32_at(bytes, at).ok_or_else(|| truncated(format, bytes))?;
        let len = usize::try_from(len).map_err(|e| corrupt(format, e.to_string()))?;
        let kind = bytes.get(at + 4..at + 8).ok_or_else(|| truncated(format, bytes))?;
        let data_at = at + 8;
        let end = data_at.checked_add(len).and_then(|e| e.checked_add(CHECKSUM_LEN));
        let end = end.filter(|&e| e <= bytes.len()).ok_or_else(|| truncated(format, bytes))?;
        let data = &bytes[data_at..data_at + len];
        match kind {
            b"IHDR" => {
                let short = || corrupt(format, format!("a header of {len} bytes"));
                let width = u32_at(data, 0).ok_or_else(short)?;
                let height = u32_at(data, 4).ok_or_else(short)?;
                let bits = *data.get(8).ok_or_else(short)?;
                if bits > 8 {
                    return Err(PictureError::SixteenBit { bits });
                }
                size = Some((width, height));
            }
            b"acTL" => return Err(PictureError::Animated { format: "PNG" }),
            b"IEND" => break,
            _ if size.is_none() => {
                return Err(corrupt(format, "no header at the beginning".to_owned()));
            }
            _ => {}
        }
        at = end;
    }
    let (width, height) = size.ok_or_else(|| corrupt(format, "no header".to_owned()))?;
    Ok(Facts { format, width, height })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn truncated(format: Format, bytes: &[u8]) -> PictureError {
    PictureError::Truncated { format: format.name(), len: bytes.len() }
}

fn corrupt(format: Format, reason: String) -> PictureError {
    PictureError::Corrupt { format: format.name(), reason }
}

const JPEG_MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];
const PNG_MAGIC: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
const OTHER_MAGICS: [(&[u8], &str); 7] = [
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF or a raw photograph"),
    (b"MM\0*", "TIFF or a raw photograph"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"\0\0\x01\0", "ICO"),
];
const SCAN: u8 = 0xda;
const END: u8 = 0xd9;
const CHECKSUM_LEN: usize = 4;
