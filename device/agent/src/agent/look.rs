//! What a model says of a picture, while the agent is free for others.

use std::borrow::Cow;
use std::sync::Arc;

use graft_camera::Picture;
use graft_link::messages::RefusalCode;
use graft_runtime::{Model, Prediction as Answer, Standing, picture};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::vote::Scene;

/// What answers a picture: the model that runs, and its bundle's name.
#[derive(Debug, Clone)]
pub struct Job {
    pub(super) model: Arc<Model>,
    pub(super) bundle: String,
}

impl Job {
    /// Returns what answers.
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(&self.model)
    }
}

/// A picture with its answer, which the agent has not heard of yet.
#[derive(Debug)]
pub struct Seen {
    pub(super) job: Job,
    pub(super) name: String,
    pub(super) found: Answer,
    pub(super) scene: Scene,
    pub(super) thumbnail: RgbImage,
}

/// Decodes a picture and answers it, while the agent is free for others.
///
/// # Errors
///
/// The kind of refusal and its reason.
pub fn look(job: &Job, name: &str, picture: &Picture) -> Result<Seen, (RefusalCode, String)> {
    let refused = |reason: String| (RefusalCode::Image, format!("{name}: {reason}"));
    let decoded = match picture {
        Picture::File(bytes) => picture::decode(bytes).map_err(|e| refused(e.to_string()))?,
        Picture::Pixels { width, height, rgb } => RgbImage::from_raw(*width, *height, rgb.clone())
            .ok_or_else(|| refused(format!("expected {width}x{height} pixels, found {} bytes", rgb.len())))?,
        Picture::Unreadable(reason) => return Err(refused(reason.clone())),
    };
    let found = job.model.classify(&decoded).map_err(|e| (RefusalCode::Internal, e.to_string()))?;
    let (width, height) = (THUMBNAIL.min(decoded.width()), THUMBNAIL.min(decoded.height()));
    let thumbnail = image::imageops::thumbnail(&decoded, width, height);
    let scene = Scene::of(&thumbnail);
    Ok(Seen { job: job.clone(), name: name.to_owned(), found, scene, thumbnail })
}

/// Returns the best labels with their probabilities.
pub(super) fn top(model: &Model, found: &Answer) -> Vec<(String, f32)> {
    let mut order: Vec<usize> = (0..found.probabilities.len()).collect();
    order.sort_by(|&a, &b| found.probabilities[b].total_cmp(&found.probabilities[a]));
    order.into_iter().take(TOP).map(|i| (model.label(i), found.probabilities[i])).collect()
}

/// Returns what a picture of this answer is worth to learn from, from 0 to 1: one less the lead of the best label over the second;
/// of an unfamiliar picture at least half, since the model may be sure of it for no reason.
pub(super) fn value(found: &Answer) -> f32 {
    let others = found.probabilities.iter().enumerate().filter(|(i, _)| *i != found.index);
    let second = others.map(|(_, p)| *p).fold(0.0, f32::max);
    let close = (1.0 - (found.probability - second)).clamp(0.0, 1.0);
    if found.standing == Standing::Unfamiliar { close.max(0.5) } else { close }
}

/// Returns the file to be kept of a picture: as it came, or a JPEG where it came as pixels.
pub(super) fn bytes_of(picture: &Picture) -> Option<Cow<'_, [u8]>> {
    match picture {
        Picture::File(bytes) => Some(Cow::Borrowed(bytes)),
        Picture::Pixels { width, height, rgb } => {
            let mut jpeg = vec![];
            let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
            encoder.encode(rgb, *width, *height, image::ExtendedColorType::Rgb8).ok()?;
            Some(Cow::Owned(jpeg))
        }
        Picture::Unreadable(_) => None,
    }
}

/// Labels told besides the best one.
const TOP: usize = 5;

/// Of a JPEG that stands for pixels.
const QUALITY: u8 = 92;
/// Side of the picture on the screen.
const THUMBNAIL: u32 = 104;
