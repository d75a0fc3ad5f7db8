//! `graft train`: fits a new head on a pretrained backbone.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use graft_train::dataset::Dataset;
use graft_train::pictures::OnBad;
use graft_train::pretrained::Pretrained;
use graft_train::transfer::{Plan, Stage, transfer};
use graft_zoo::{Architecture, Catalogue};
use serde_json::json;

use super::model::cached;
use crate::ui::Ui;

/// Train a classifier on pictures, by grafting a new head on a pretrained backbone
///
/// The backbone stays frozen: each picture goes through it once, the features are kept on disk by content, and a
/// multinomial head is fitted on them with its penalty chosen by cross-validation. The result is a folder that
/// `graft evaluate`, `graft predict` and `graft export` take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft train photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out runs/leaves
  graft train labels.csv --split train --model mobilenet_v2 --width 0.35 --weights w.safetensors --out runs/small")]
pub(crate) struct Args {
    /// A folder with one folder for each class, or a CSV manifest (columns file, label; optional group, split)
    dir: PathBuf,
    /// Architecture, or an id from `graft model list`
    #[arg(long, default_value = "mobilenet_v2")]
    model: String,
    /// Width multiplier of MobileNetV2
    #[arg(long)]
    width: Option<f32>,
    /// Pretrained weights: .safetensors or a PyTorch .pth, under torchvision or timm names
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Side of the network's input in pixels, instead of the weights' own
    #[arg(long)]
    input: Option<u32>,
    /// Of a manifest with a column `split`, only these rows
    #[arg(long)]
    split: Option<String>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Folder of the run
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    if args.device == Device::Cuda {
        bail!("expected a recipe that uses a GPU, found the frozen backbone, which runs on the CPU; leave out --device cuda");
    }
    let (architecture, weights) = resolve(args)?;
    let pretrained = Pretrained::read(&weights, architecture, args.input)?;
    let dataset = Dataset::open(&args.dir, args.split.as_deref())?;
    let cache = cache_folder()?;
    let plan = Plan {
        data: args.dir.clone(),
        dataset: &dataset,
        pretrained: &pretrained,
        cache: &cache,
        seed: args.seed,
        on_bad: if args.strict { OnBad::Fail } else { OnBad::Skip },
    };
    let start = Instant::now();
    let bars = [ui.bar("features"), ui.bar("head")];
    let trained = transfer(&plan, &ui.stop, |stage, done, of| {
        let bar = &bars[usize::from(stage == Stage::Head)];
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bars.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    ui.skipped(trained.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    trained.run.save(&args.out)?;
    let r = &trained.run.record;
    let best = r.cross_validation.iter().map(|t| t.1).fold(0.0, f64::max);
    if args.json {
        return ui.json(&json!({
            "run": args.out, "n": r.pictures, "skipped": r.skipped, "classes": r.labels.len(), "features_seconds": r.features_seconds,
            "features_cached": trained.cached, "head_seconds": r.head_seconds, "seconds": start.elapsed().as_secs_f64(),
            "strength": r.strength, "cross_validated_top1": best, "train_loss": trained.loss,
        }));
    }
    ui.line(&format!("{} pictures of {} classes, {} left out", r.pictures, r.labels.len(), r.skipped))?;
    ui.line(&format!("features  {:.1} s ({} from the cache)", r.features_seconds, trained.cached))?;
    ui.line(&format!("head      {:.1} s, C = {}, cross-validated top-1 {:.1} %", r.head_seconds, r.strength, 100.0 * best))?;
    ui.line(&format!("run       {}", args.out.display()))
}

/// Finds architecture and weights file from `--model`, `--width` and `--weights`.
fn resolve(args: &Args) -> Result<(Architecture, PathBuf)> {
    let entry = Catalogue::find(&args.model);
    let architecture = match (entry, args.width) {
        (Some(e), None) => e.architecture,
        (_, width) => {
            let id = width.map_or(args.model.clone(), |w| format!("{}:{w}", args.model));
            ensure!(width.is_none_or(|w| (0.1..=4.0).contains(&w)), "expected a width of 0.1 to 4, found {:?}", args.width);
            id.parse::<Architecture>().context("reading --model")?
        }
    };
    if let Some(path) = &args.weights {
        return Ok((architecture, path.clone()));
    }
    let entry = entry.filter(|e| e.architecture == architecture).with_context(|| {
        format!("expected --weights FILE, found none, and the catalogue has no weights of {architecture} under that name")
    })?;
    let path = cached(entry).with_context(|| {
        format!("expected the weights of {0} in the hub's cache, found none; run `graft model fetch {0}` or give --weights FILE", entry.id)
    })?;
    Ok((architecture, path))
}

/// `$GRAFT_CACHE`, else the user's cache folder.
fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("GRAFT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("graft")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/graft")))
        .or_else(|| set("LOCALAPPDATA").map(|p| p.join("graft")))
        .context("expected GRAFT_CACHE, XDG_CACHE_HOME or HOME to say where features are kept, found none")
}
