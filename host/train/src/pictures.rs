//! Reads a data set's pictures through the device's own decoder and preprocessing, counting those it cannot use.

use anyhow::{Context, Result, bail};
use graft_runtime::picture::{self, decode, preprocess};
use graft_zoo::Preprocessing;
use image::RgbImage;

use crate::dataset::{Ignored, Sample};

/// What to do with a picture that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    /// Leave it out and list it.
    Skip,
    /// Stop with its error.
    Fail,
}

/// A picture as the network takes it.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// `u8 [crop, crop, 3]`.
    pub data: Vec<u8>,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
    /// The picture itself.
    pub picture: RgbImage,
}

/// Reads one picture; `Ok(Err(_))` is a picture to leave out.
pub(crate) fn read(sample: &Sample, preprocessing: &Preprocessing, on_bad: OnBad) -> Result<Result<Pixels, Ignored>> {
    match load(sample) {
        Ok((bytes, rgb)) => {
            let (data, digest) = (preprocess(&rgb, preprocessing), *blake3::hash(&bytes).as_bytes());
            Ok(Ok(Pixels { data, digest, picture: rgb }))
        }
        Err(reason) if on_bad == OnBad::Fail => bail!("{}: {reason}", sample.location),
        Err(reason) => Ok(Err(Ignored { path: sample.location.path(), reason })),
    }
}

/// Reads one picture's bytes, bounded.
///
/// # Errors
///
/// If they cannot be read or are more than [`picture::MAX_FILE_LEN`].
pub fn bytes(sample: &Sample) -> Result<Vec<u8>> {
    sample.location.read(picture::MAX_FILE_LEN as u64)
}

/// Reads and decodes one picture.
///
/// # Errors
///
/// If it cannot be read or is no picture.
pub fn open(sample: &Sample) -> Result<RgbImage> {
    decode(&bytes(sample)?).with_context(|| format!("reading {}", sample.location))
}

/// Says what is wrong with a picture, if anything.
///
/// # Errors
///
/// The reason, as a sentence.
pub fn check(sample: &Sample) -> Result<(u32, u32), String> {
    load(sample).map(|(_, rgb)| rgb.dimensions())
}

fn load(sample: &Sample) -> Result<(Vec<u8>, RgbImage), String> {
    let bytes = bytes(sample).map_err(|e| format!("{e:#}"))?;
    let rgb = decode(&bytes).map_err(|e| e.to_string())?;
    Ok((bytes, rgb))
}
