//! `graft train`: fits a new head on a pretrained backbone.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use graft_train::dataset::Dataset;
use graft_train::fit::{Checkpoint, Resume, Schedule};
use graft_train::net::Norm;
use graft_train::pictures::OnBad;
use graft_train::pretrained::Pretrained;
use graft_train::transfer::{Device, FineTune, Plan, transfer};
use graft_zoo::catalogue::Source;
use graft_zoo::{Architecture, Catalogue};
use serde_json::json;

use super::model::cached;
use crate::ui::Ui;

/// Train a classifier on pictures, by grafting a new head on a pretrained backbone
///
/// The backbone stays frozen: each picture goes through it once, the features are kept on disk by content, and a
/// multinomial head is fitted on them with its penalty chosen by cross-validation. With --unfreeze the last stages of
/// the backbone are then trained along with the head, on varied views of the pictures. The result is a folder that
/// `graft evaluate`, `graft predict` and `graft export` take.
///
/// Ctrl-C is safe: features stay in the cache, and fine-tuning goes on with --resume.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft train photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out runs/leaves
  graft train photos/ --model mobilenet_v2 --weights w.safetensors --unfreeze 3 --epochs 10 --out runs/tuned
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
    /// Fine-tune this many of the last stages along with the head (MobileNetV2 has 9, a ResNet 5)
    #[arg(long, value_name = "N", default_value_t = 0)]
    unfreeze: usize,
    /// Passes over the pictures while fine-tuning
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: usize,
    /// Pictures a step while fine-tuning
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Peak learning rate while fine-tuning (AdamW, cosine)
    #[arg(long, default_value_t = 3e-4)]
    rate: f64,
    /// Statistics that normalise while fine-tuning: the pretrained ones, or those of each batch
    #[arg(long, value_enum, default_value_t = Statistics::Frozen)]
    norm: Statistics,
    /// Share of the pictures that chooses the best epoch; 0 trains on all and takes the last
    #[arg(long, default_value_t = 0.1)]
    validation: f64,
    /// Stop after this many epochs without a better one; 0 never stops early
    #[arg(long, value_name = "N", default_value_t = 4)]
    patience: usize,
    /// Go on with fine-tuning that was stopped; the rest of the command must be the same
    #[arg(long)]
    resume: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
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
enum Place {
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Statistics {
    Frozen,
    Batch,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    check(args, ui)?;
    let device = device(args.device)?;
    let pretrained = pretrained(args)?;
    let dataset = Dataset::open(&args.dir, args.split.as_deref())?;
    let cache = cache_folder()?;
    let checkpoint = args.out.join(CHECKPOINT);
    if args.unfreeze > 0 {
        std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    }
    let plan = Plan {
        data: args.dir.clone(),
        dataset: &dataset,
        pretrained: &pretrained,
        cache: &cache,
        seed: args.seed,
        on_bad: if args.strict { OnBad::Fail } else { OnBad::Skip },
        fine_tune: (args.unfreeze > 0).then(|| fine_tune(args, device, &checkpoint)),
    };
    let start = Instant::now();
    let bars = [ui.bar("features"), ui.bar("head"), ui.bar("fine-tuning")];
    let trained = transfer(&plan, &ui.stop, |stage, done, of| {
        let bar = &bars[stage as usize];
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bars.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    ui.skipped(trained.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    trained.run.save(&args.out)?;
    // The run holds all that is of use now.
    let _ = std::fs::remove_file(&checkpoint);
    let r = &trained.run.record;
    let best = r.cross_validation.iter().map(|t| t.1).fold(0.0, f64::max);
    if args.json {
        return ui.json(&json!({
            "run": args.out, "n": r.pictures, "skipped": r.skipped, "classes": r.labels.len(), "features_seconds": r.features_seconds,
            "features_cached": trained.cached, "head_seconds": r.head_seconds, "seconds": start.elapsed().as_secs_f64(),
            "strength": r.strength, "cross_validated_top1": best, "train_loss": trained.loss,
            "fine_tuned": r.fine_tuned,
        }));
    }
    ui.line(&format!("{} pictures of {} classes, {} left out", r.pictures, r.labels.len(), r.skipped))?;
    ui.line(&format!("features  {:.1} s ({} from the cache)", r.features_seconds, trained.cached))?;
    ui.line(&format!(
        "head      {:.1} s, C = {}, cross-validated top-1 {:.1} %",
        r.head_seconds,
        r.strength,
        100.0 * best
    ))?;
    if let Some(f) = &r.fine_tuned {
        let chosen = f.epochs.get(f.best.saturating_sub(1));
        let top1 =
            chosen.and_then(|e| e.top1).map_or(String::new(), |t| format!(", validation top-1 {:.1} %", 100.0 * t));
        ui.line(&format!("tuning    {:.1} s, epoch {} of {}{top1}", f.seconds, f.best, f.epochs.len()))?;
    }
    ui.line(&format!("run       {}", args.out.display()))
}

fn check(args: &Args, ui: &Ui) -> Result<()> {
    ensure!(args.batch > 0, "expected --batch of at least 1, found 0");
    ensure!(args.rate > 0.0 && args.rate < 1.0, "expected --rate between 0 and 1, found {}", args.rate);
    ensure!((0.0..0.9).contains(&args.validation), "expected --validation of 0 to 0.9, found {}", args.validation);
    if args.unfreeze == 0 && args.device == Place::Cuda {
        ui.note("the frozen backbone runs on the CPU; --device cuda takes effect with --unfreeze");
    }
    Ok(())
}

/// Opens the device, so that a missing GPU is told before any work.
fn device(place: Place) -> Result<Device> {
    match place {
        Place::Cpu => Ok(Device::Cpu),
        Place::Cuda => Device::new_cuda(0).map_err(|e| {
            anyhow!("expected a CUDA GPU and a graft built with `--features cuda`, found {e}; use --device cpu")
        }),
    }
}

fn fine_tune<'a>(args: &Args, device: Device, checkpoint: &'a Path) -> FineTune<'a> {
    FineTune {
        unfrozen: args.unfreeze,
        norm: match args.norm {
            Statistics::Frozen => Norm::Frozen,
            Statistics::Batch => Norm::Batch,
        },
        schedule: Schedule {
            epochs: args.epochs,
            batch: args.batch,
            rate: args.rate,
            decay: DECAY,
            smoothing: SMOOTHING,
            patience: args.patience,
            seed: args.seed,
        },
        validation: args.validation,
        device,
        checkpoint: Some(Checkpoint { path: checkpoint, resume: if args.resume { Resume::Yes } else { Resume::No } }),
    }
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const DECAY: f64 = 0.01;
const SMOOTHING: f32 = 0.1;

/// Finds the backbone by `--model`, `--width` and `--weights`.
fn pretrained(args: &Args) -> Result<Pretrained> {
    let entry = Catalogue::find(&args.model);
    let architecture = match (entry, args.width) {
        (Some(e), None) => e.architecture,
        (_, width) => {
            let id = width.map_or(args.model.clone(), |w| format!("{}:{w}", args.model));
            ensure!(
                width.is_none_or(|w| (0.1..=2.0).contains(&w)),
                "expected a width of 0.1 to 2, found {:?}",
                args.width
            );
            id.parse::<Architecture>().context("reading --model")?
        }
    };
    if let Some(path) = &args.weights {
        return Pretrained::read(path, architecture, args.input);
    }
    let entry = entry.filter(|e| e.architecture == architecture).with_context(|| {
        format!("expected --weights FILE, found none, and the catalogue has no weights of {architecture} under that name; `graft model list` shows what there is")
    })?;
    if entry.source == Source::Embedded {
        return Pretrained::embedded(args.input);
    }
    let path = cached(entry).with_context(|| {
        format!("expected the weights of {0} in the hub's cache, found none; run `graft model fetch {0}` or give --weights FILE", entry.id)
    })?;
    Pretrained::read(&path, architecture, args.input)
}

/// `$GRAFT_CACHE`, else the user's cache folder.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("GRAFT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("graft")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/graft")))
        .or_else(|| set("LOCALAPPDATA").map(|p| p.join("graft")))
        .context("expected GRAFT_CACHE, XDG_CACHE_HOME or HOME to say where features are kept, found none")
}
