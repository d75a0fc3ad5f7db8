//! `graft predict`: classifies pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use graft_runtime::picture;
use graft_train::run::write_atomic;
use graft_zoo::Preprocessing;
use image::RgbImage;
use serde_json::json;

use crate::model_file;
use crate::ui::Ui;

/// Classify pictures, as the device would
///
/// A picture that cannot be read is reported and the others go on; the exit code is then 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  graft predict leaves.onnx leaf.jpg\n  graft predict runs/leaves photos/*.jpg --json"
)]
pub(crate) struct Args {
    /// A run folder or an .onnx file
    model: PathBuf,
    /// Pictures
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Save what the network sees of each picture in this folder, as 0000.png, 0001.png and so on
    #[arg(long, value_name = "DIR")]
    crops: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let (mut rows, mut bad) = (vec![], 0usize);
    for (index, path) in args.images.iter().enumerate() {
        let answer = std::fs::read(path).context("reading the file").and_then(|bytes| {
            let rgb = picture::decode(&bytes)?;
            if let Some(folder) = &args.crops {
                save_crop(&folder.join(format!("{index:04}.png")), &rgb, model.preprocessing())?;
            }
            Ok(model.classify(&rgb)?)
        });
        match answer {
            Ok(p) => {
                let ms = p.latency.as_secs_f64() * 1e3;
                if args.json {
                    rows.push(json!({ "image": path, "label": p.label, "probability": p.probability, "latency_ms": ms, "logits": p.logits }));
                } else {
                    ui.line(&format!("{}  {}  {:.1} %  {ms:.1} ms", path.display(), p.label, 100.0 * p.probability))?;
                }
            }
            Err(error) => {
                bad += 1;
                if args.json {
                    rows.push(json!({ "image": path, "error": format!("{error:#}") }));
                }
                ui.note(&format!("{}: {error:#}", path.display()));
            }
        }
    }
    if args.json {
        ui.json(&rows)?;
    }
    if bad > 0 {
        bail!("expected {} pictures that can be read, found {bad} that cannot", args.images.len());
    }
    Ok(())
}

fn save_crop(path: &Path, rgb: &RgbImage, preprocessing: &Preprocessing) -> Result<()> {
    let side = preprocessing.crop;
    let seen = RgbImage::from_raw(side, side, picture::preprocess(rgb, preprocessing)).context("cropping")?;
    let mut png = std::io::Cursor::new(Vec::new());
    seen.write_to(&mut png, image::ImageFormat::Png)?;
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    write_atomic(path, &png.into_inner())
}
