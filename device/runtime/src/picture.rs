//! Pictures: from the bytes of a file to the pixels a network sees.
//!
//! One definition for training, calibration, evaluation and the device. Sizes are read from the file's own
//! structure and checked before anything is decoded; a picture that cannot be used is refused by name.
//!
//! What this does not do: it applies no colour profile, and a JPEG whose entropy-coded data was altered without
//! breaking the structure decodes to what the data now says.

use std::io::Cursor;
use std::panic::catch_unwind;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, Limits, RgbImage};

mod resize;
mod scan;

pub use resize::{Region, preprocess, resize_region};

/// Most pixels a picture may have; above it, it is refused before decoding.
pub const MAX_PIXELS: u64 = 100_000_000;
/// Fewest pixels on either side; below it there is nothing to classify.
pub const MIN_SIDE: u32 = 8;
/// Longest file that is looked at, in bytes.
pub const MAX_FILE_LEN: usize = 256 << 20;

/// Why a picture cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// There are no bytes.
    #[error("expected a JPEG or PNG file, found an empty one; copy it again")]
    Empty,
    /// The file is longer than [`MAX_FILE_LEN`].
    #[error("expected a file of at most {MAX_FILE_LEN} bytes, found {found}; save it smaller")]
    FileTooLong {
        /// Length in bytes.
        found: usize,
    },
    /// The first bytes are of no known picture format.
    #[error("expected a JPEG or PNG file, found one that begins with {found}; convert it to JPEG or PNG")]
    UnknownFormat {
        /// The first bytes in hex.
        found: String,
    },
    /// A picture of a format that is not read.
    #[error("expected a JPEG or PNG file, found {format}; convert it to JPEG or PNG")]
    UnsupportedFormat {
        /// Name of the format.
        format: &'static str,
    },
    /// The file ends too early.
    #[error("expected the {format} file to go on to its end marker, found its end at byte {len}; copy it again")]
    Truncated {
        /// Name of the format.
        format: &'static str,
        /// Length of the file in bytes.
        len: usize,
    },
    /// The structure or the data is damaged.
    #[error("expected a sound {format} file, found a damaged one ({reason}); copy it again")]
    Corrupt {
        /// Name of the format.
        format: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// More than one frame.
    #[error("expected one still picture, found an animated {format}; save one frame of it")]
    Animated {
        /// Name of the format.
        format: &'static str,
    },
    /// Four-colour print data.
    #[error("expected grey or RGB, found a CMYK JPEG; convert it to RGB")]
    Cmyk,
    /// More than eight bits a channel.
    #[error("expected 8 bits a channel, found {bits}; save it with 8 bits a channel")]
    SixteenBit {
        /// Bits a channel.
        bits: u8,
    },
    /// A side is below [`MIN_SIDE`].
    #[error("expected at least {MIN_SIDE} pixels a side, found {width}x{height}; use a larger picture")]
    TooSmall {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// More than [`MAX_PIXELS`].
    #[error("expected at most {MAX_PIXELS} pixels, found {width}x{height}; make the picture smaller")]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
}

impl PictureError {
    /// Returns one word for the reason, to count skipped pictures by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::FileTooLong { .. } => "file-too-long",
            Self::UnknownFormat { .. } => "unknown-format",
            Self::UnsupportedFormat { .. } => "unsupported-format",
            Self::Truncated { .. } => "truncated",
            Self::Corrupt { .. } => "corrupt",
            Self::Animated { .. } => "animated",
            Self::Cmyk => "cmyk",
            Self::SixteenBit { .. } => "16-bit",
            Self::TooSmall { .. } => "too-small",
            Self::TooLarge { .. } => "too-large",
        }
    }
}

/// Decodes a JPEG or PNG file to upright RGB.
///
/// The EXIF orientation is applied, grey becomes RGB, transparency is laid over white.
///
/// # Errors
///
/// One variant of [`PictureError`] for every reason.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    if bytes.len() > MAX_FILE_LEN {
        return Err(PictureError::FileTooLong { found: bytes.len() });
    }
    let facts = scan::scan(bytes)?;
    let format = facts.format.name();
    check_size(facts.width, facts.height)?;
    // The decoders read the header themselves: a file with two of them must not get round the check above.
    let corrupt = |e: image::ImageError| PictureError::Corrupt { format, reason: e.to_string() };
    // A decoder that panics on some file must not take the device's daemon with it.
    let decoded = catch_unwind(|| match facts.format {
        scan::Format::Jpeg => upright(JpegDecoder::new(Cursor::new(bytes)).map_err(corrupt)?, &facts),
        scan::Format::Png => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_ALLOC);
            upright(PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(corrupt)?, &facts)
        }
    });
    decoded.unwrap_or_else(|_| Err(PictureError::Corrupt { format, reason: "the decoder gave up".to_owned() }))
}

/// Whether the bytes of a file go on to its end: what is refused for any other reason is whole.
pub fn is_whole(bytes: &[u8]) -> bool {
    !matches!(scan::scan(bytes), Err(PictureError::Truncated { .. })) && !bytes.is_empty()
}

fn check_size(width: u32, height: u32) -> Result<(), PictureError> {
    if width < MIN_SIDE || height < MIN_SIDE {
        Err(PictureError::TooSmall { width, height })
    } else if u64::from(width) * u64::from(height) > MAX_PIXELS {
        Err(PictureError::TooLarge { width, height })
    } else {
        Ok(())
    }
}

fn upright(mut decoder: impl ImageDecoder, facts: &scan::Facts) -> Result<RgbImage, PictureError> {
    let format = facts.format.name();
    let corrupt = |reason: String| PictureError::Corrupt { format, reason };
    let found = decoder.dimensions();
    if found != (facts.width, facts.height) {
        let (w, h) = (facts.width, facts.height);
        return Err(corrupt(format!("two sizes, {w}x{h} and {}x{}", found.0, found.1)));
    }
    if !matches!(decoder.color_type(), ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return Err(PictureError::SixteenBit { bits: 16 });
    }
    // An EXIF block that cannot be read says nothing about the pixels.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| corrupt(e.to_string()))?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(if picture.color().has_alpha() { over_white(&picture) } else { picture.into_rgb8() })
}

fn over_white(picture: &DynamicImage) -> RgbImage {
    let rgba = picture.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0.map(u32::from);
        let blend = |v: u32| u8::try_from((v * a + 255 * (255 - a) + 127) / 255).unwrap_or(u8::MAX);
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}

/// Most bytes the PNG decoder may take for itself: four bytes for every allowed pixel and room for metadata.
const MAX_ALLOC: u64 = MAX_PIXELS * 4 + (64 << 20);

#[cfg(test)]
mod tests;
