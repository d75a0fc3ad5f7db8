//! Pictures for the page: the file itself where a browser shows it well, else a smaller copy.

use std::collections::{HashMap, VecDeque};
use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, ImageReader, RgbImage};

use crate::LabelError;

/// Decodes a JPEG or PNG file to upright RGB, refusing what the trainer would refuse, with the reason.
pub type Decode = Box<dyn Fn(&[u8]) -> Result<RgbImage, String> + Send + Sync>;

/// A picture as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: &'static str,
}

/// Makes what is shown.
pub(crate) struct Shop {
    decode: Decode,
    /// One large picture at a time is in memory as pixels.
    turn: Mutex<()>,
    small: Mutex<Small>,
}

/// Small pictures that were made already; the oldest goes first.
#[derive(Default)]
struct Small {
    kept: HashMap<usize, Shown>,
    order: VecDeque<usize>,
}

impl Shop {
    pub(crate) fn new(decode: Decode) -> Self {
        Self { decode, turn: Mutex::new(()), small: Mutex::default() }
    }

    /// Returns a picture of at most [`LARGE`] pixels a side. A browser turns it upright as its EXIF data says.
    ///
    /// # Errors
    ///
    /// If it cannot be decoded.
    pub(crate) fn large(&self, file: &str, bytes: Vec<u8>) -> Result<Shown, LabelError> {
        let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().ok();
        let kind = reader.as_ref().and_then(ImageReader::format).and_then(media_type);
        let fits = |(w, h): (u32, u32)| w.max(h) <= LARGE && bytes.len() <= MAX_SENT;
        if let (Some(kind), Some(true)) = (kind, reader.and_then(|r| r.into_dimensions().ok()).map(fits)) {
            return Ok(Shown { bytes, kind });
        }
        self.scaled(file, &bytes, LARGE, 88)
    }

    /// Returns a picture of at most [`SMALL`] pixels a side; `read` gives its bytes where it was not made before.
    ///
    /// # Errors
    ///
    /// If it cannot be read or decoded.
    pub(crate) fn small(
        &self,
        index: usize,
        file: &str,
        read: impl FnOnce() -> Result<Vec<u8>, LabelError>,
    ) -> Result<Shown, LabelError> {
        let lock = || self.small.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = lock().kept.get(&index) {
            return Ok(shown.clone());
        }
        let shown = self.scaled(file, &read()?, SMALL, 82)?;
        let mut small = lock();
        if small.kept.insert(index, shown.clone()).is_none() {
            small.order.push_back(index);
        }
        while small.order.len() > MAX_SMALL {
            if let Some(oldest) = small.order.pop_front() {
                small.kept.remove(&oldest);
            }
        }
        Ok(shown)
    }

    fn scaled(&self, file: &str, bytes: &[u8], side: u32, quality: u8) -> Result<Shown, LabelError> {
        let refused = |reason: String| LabelError::Picture { file: file.to_owned(), reason };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let picture = DynamicImage::ImageRgb8((self.decode)(bytes).map_err(refused)?);
        let picture =
            if picture.width().max(picture.height()) > side { picture.thumbnail(side, side) } else { picture };
        let mut out = Vec::new();
        let made = picture.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut out, quality));
        made.map_err(|e| refused(e.to_string()))?;
        Ok(Shown { bytes: out, kind: "image/jpeg" })
    }
}

impl std::fmt::Debug for Shop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shop").finish_non_exhaustive()
    }
}

fn media_type(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("image/jpeg"),
        ImageFormat::Png => Some("image/png"),
        _ => None,
    }
}

/// Longest side of a picture that is looked at, in pixels.
const LARGE: u32 = 2048;
/// Longest file that is sent as it is, in bytes.
const MAX_SENT: usize = 8 << 20;
/// Longest side of a neighbour, in pixels.
const SMALL: u32 = 192;
/// Small pictures that are kept, at about 6 KB each.
const MAX_SMALL: usize = 4000;
