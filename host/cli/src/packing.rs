//! Puts a model and golden samples into a bundle.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::{Bundle, BundleWriter, MODEL_FILE, Needs, SecretKey, Summary};
use graft_runtime::{Model, picture};
use graft_train::dataset::{Dataset, Task};
use graft_train::decide::{Calibrated, Promise, calibrate};
use graft_train::pictures;
use graft_train::quantize::{CALIBRATION, Explanation};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};

/// What to pack.
pub(crate) struct Packing<'a> {
    /// The ONNX file's bytes.
    pub(crate) onnx: &'a [u8],
    /// Name of the bundle.
    pub(crate) name: &'a str,
    /// Pictures to choose golden samples from.
    pub(crate) golden: &'a Dataset,
    /// How many.
    pub(crate) count: usize,
    /// Largest allowed difference of a logit on the device; chosen by the kind of model where not given.
    pub(crate) tolerance: Option<f32>,
    /// What a device must have.
    pub(crate) needs: Needs,
    /// Pictures to calibrate the answers on, and what is to be promised of them.
    pub(crate) calibrate: Option<(&'a Dataset, Promise)>,
}

/// What was packed.
pub(crate) struct Packed {
    pub(crate) summary: Summary,
    pub(crate) calibrated: Option<Calibrated>,
}

/// Other processors add up in another order.
const FLOAT_TOLERANCE: f32 = 0.01;
/// With int8 activations such a difference may move a value to the next step, and from there through the network.
const INT8_TOLERANCE: f32 = 0.5;
/// What a golden sample is compressed to: it travels with each bundle, and the answer expected is that to the picture as it travels.
const QUALITY: u8 = 75;

/// Writes a bundle and reads it back. `progress` is told of pictures of the calibration.
pub(crate) fn pack(
    packing: &Packing<'_>,
    key: &SecretKey,
    out: &Path,
    progress: impl FnMut(usize, usize),
) -> Result<Packed> {
    let (writer, calibrated) = filled(packing, progress)?;
    let summary = writer.write(out, Some(key))?;
    // What cannot be read back must not leave this machine.
    Bundle::open(out).context("reading the bundle back")?;
    Ok(Packed { summary, calibrated })
}

/// Makes a bundle that is no file.
pub(crate) fn bundle(packing: &Packing<'_>, key: &SecretKey) -> Result<Bundle> {
    let bytes = filled(packing, |_, _| ())?.0.to_bytes(Some(key))?;
    Bundle::from_bytes(&bytes).context("reading the bundle back")
}

fn filled(packing: &Packing<'_>, progress: impl FnMut(usize, usize)) -> Result<(BundleWriter, Option<Calibrated>)> {
    let model = Model::from_onnx(packing.onnx).context("loading the model to pack")?;
    ensure!(
        !model.labels().is_empty(),
        "expected a model with labels (graft.labels), found none; export it with `graft export`"
    );
    let task = Task::of(model.metadata())?;
    ensure!(
        task == Task::Classes,
        "expected a model that tells classes, which is all that a device shows so far, found one of {}; run it with `graft predict`",
        task.name()
    );
    let (samples, tolerance) = golden(packing, &model)?;
    let mut writer = BundleWriter::new(packing.name, concat!("graft ", env!("CARGO_PKG_VERSION")));
    // The report of quantizing is in the model's file, compressed. The manifest travels with each flash as it is.
    let mut metadata = model.metadata().clone();
    metadata.remove(Explanation::KEY);
    packing.needs.put(&mut metadata);
    let mut onnx = Cow::Borrowed(packing.onnx);
    let mut borders = graft_onnx::tensor_borders(packing.onnx)?;
    let calibrated = match &packing.calibrate {
        None => None,
        Some((data, promise)) => {
            let found = calibrate(packing.onnx, data, promise, progress).context("calibrating the answers")?;
            // In a chunk of its own: what is decided changes with each calibration, the network does not.
            borders.push(onnx.len());
            onnx = Cow::Owned(found.apply(packing.onnx));
            Some(found)
        }
    };
    writer.labels(model.labels()).metadata(metadata).tolerance(tolerance);
    writer.add_file(MODEL_FILE, &onnx, &borders)?;
    for (i, sample) in samples.into_iter().enumerate() {
        let file = format!("golden/{i:02}.jpg");
        writer.add_file(&file, &sample.jpeg, &[])?;
        writer.golden(&file, &sample.label, &sample.logits);
    }
    Ok((writer, calibrated))
}

struct Golden {
    jpeg: Vec<u8>,
    label: String,
    logits: Vec<f32>,
}

/// Chooses pictures, of different classes where it can, whose best class leads clearly, so that rounding cannot close
/// the gate; returns them with the tolerance.
fn golden(packing: &Packing<'_>, model: &Model) -> Result<(Vec<Golden>, f32)> {
    let is_int8 = model.metadata().contains_key(CALIBRATION);
    let wanted = packing.tolerance.unwrap_or(if is_int8 { INT8_TOLERANCE } else { FLOAT_TOLERANCE });
    ensure!(wanted.is_finite() && wanted >= 0.0, "expected a tolerance of 0 or more, found {wanted}");
    ensure!(
        (1..=graft_bundle::limits::MAX_GOLDEN).contains(&packing.count),
        "expected 1 to 64 golden samples, found {}",
        packing.count
    );
    let data = packing.golden.clone().relabel(model.labels()).context("choosing golden samples")?;
    let mut classes: Vec<Vec<usize>> = vec![vec![]; data.labels.len()];
    for (i, sample) in data.samples.iter().enumerate().rev() {
        classes[sample.class].push(i);
    }
    let longest = classes.iter().map(Vec::len).max().unwrap_or(0);
    let count = classes.len();
    let in_turn = (0..longest).flat_map(|_| 0..count);
    let order: Vec<usize> = in_turn.filter_map(|class| classes[class].pop()).take(packing.count * TRIES).collect();
    let (mut found, mut clear) = (Vec::new(), 0);
    for index in order {
        let sample = &data.samples[index];
        let Ok(rgb) = pictures::open(sample) else { continue };
        let jpeg = small_jpeg(&rgb, model.preprocessing().resize_shorter)?;
        // The expected answer is that to the picture as it travels.
        let logits = model.logits(&picture::preprocess(&picture::decode(&jpeg)?, model.preprocessing()))?;
        let lead = margin(&logits);
        clear += usize::from(lead > 2.0 * wanted);
        found.push((lead, Golden { jpeg, label: data.labels[sample.class].clone(), logits }));
        if clear == packing.count {
            break;
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(packing.count);
    if packing.tolerance.is_some() {
        found.retain(|f| f.0 > 2.0 * wanted);
    }
    let Some(least) = found.last().map(|f| f.0).filter(|&lead| lead > 0.0) else {
        bail!(
            "expected a golden picture whose best class leads by more than {}, found none; lower --tolerance",
            2.0 * wanted
        );
    };
    // A model that is never sure has small leads; its rounding differences are small as well.
    Ok((found.into_iter().map(|f| f.1).collect(), wanted.min(least / 2.0)))
}

/// Pictures looked at for one golden sample.
const TRIES: usize = 20;

/// Returns the lead of the best logit.
fn margin(logits: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &v in logits {
        if v > best {
            (best, second) = (v, best);
        } else {
            second = second.max(v);
        }
    }
    best - second
}

fn small_jpeg(picture: &RgbImage, shorter: u32) -> Result<Vec<u8>> {
    let (w, h) = picture.dimensions();
    let scale = f64::from(shorter) / f64::from(w.min(h));
    let side = |n: u32| ((f64::from(n) * scale).round() as u32).clamp(shorter, 4 * shorter);
    let small = if scale < 1.0 { resize(picture, side(w), side(h), FilterType::Triangle) } else { picture.clone() };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&small).context("encoding a golden sample")?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_the_lead_of_the_best() {
        assert_eq!(margin(&[1.0, 4.0, 2.5]), 1.5);
        assert_eq!(margin(&[3.0, 3.0]), 0.0);
    }

    #[test]
    fn golden_pictures_are_small() {
        let large = RgbImage::from_fn(1200, 900, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let back = picture::decode(&small_jpeg(&large, 256).unwrap()).unwrap();
        assert_eq!(back.dimensions(), (341, 256));
    }
}
