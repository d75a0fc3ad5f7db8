//! `graft train`: fits a new head on a pretrained backbone, and fine-tunes the backbone along with it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use graft_train::augment::{Mix, Preset};
use graft_train::dataset::{self, Dataset, Task};
use graft_train::fit::Resume;
use graft_train::gpu::{Gpu, Precision};
use graft_train::net::{Norm, Recompute};
use graft_train::optimiser::Optimiser;
use graft_train::pictures::OnBad;
use graft_train::pretrained::{Input, Pretrained};
use graft_train::recipe::{Recipe, Settled, Wish};
use graft_train::run::FineTuned;
use graft_train::transfer::{Device, Event, Plan, Trained, clean_up, transfer};
use graft_zoo::catalogue::Source;
use graft_zoo::{Architecture, Catalogue};
use serde_json::json;

use super::model::cached;
use super::threads::Threads;
use crate::ui::Ui;

/// Train on pictures to tell classes, tags or values, by grafting a new head on a pretrained backbone
///
/// Each picture goes through the frozen backbone once, the features are kept on disk by content, and a multinomial head
/// is fitted on them with its penalty chosen by cross-validation. Then stages of the backbone are trained along with the
/// head on varied views of the pictures, as many and as long as the time allows (`--time`, 5 minutes where nothing else
/// is said). A tenth of the pictures is held out, and the last epoch that they do not tell from the best is kept, or the head
/// alone where that is better than all. What was chosen is told, with the reason. The result is a folder that `graft evaluate`, `graft predict`
/// and `graft export` take.
///
/// Ctrl-C is safe: features stay in the cache, and fine-tuning goes on with --resume. While the recipe blocks trains, what
/// the frozen stages made of up to 8 views of each picture lies in the run's folder, 8 GB at most.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft train photos/ --model mobilenet_v2 --weights mobilenet_v2.safetensors --out runs/leaves
  graft train photos/ --model mobilenet_v2 --weights w.safetensors --recipe head --out runs/quick
  graft train photos/ --model mobilenet_v2 --weights w.safetensors --time 20m --out runs/tuned
  graft train photos/ --model resnet18 --recipe scratch --epochs 60 --out runs/scratch
  graft train labels.csv --split train --model mobilenet_v2 --width 0.35 --weights w.safetensors --out runs/small
  graft train plots.csv --target yield --weights w.safetensors --out runs/yield
  graft train leaves.csv --tags rust,miner,phoma --weights w.safetensors --out runs/tags")]
pub(crate) struct Args {
    #[command(flatten)]
    pictures: Pictures,
    #[command(flatten)]
    backbone: Backbone,
    #[command(flatten)]
    columns: Columns,
    #[command(flatten)]
    choices: Choices,
    /// Go on with fine-tuning that was stopped; the rest of the command must be the same
    #[arg(long)]
    resume: bool,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
    /// With --device cuda: what activations are kept and multiplied in, bf16, tf32 or f32; parameters stay f32
    #[arg(long, default_value = "bf16")]
    precision: Precision,
    #[command(flatten)]
    threads: Threads,
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

/// Which pictures.
#[derive(Debug, clap::Args)]
pub(crate) struct Pictures {
    /// A folder with one folder for each class, a .zip or .tar of one, a COCO .json, or a manifest of CSV or Parquet (columns file,
    /// label; optional group, split)
    dir: PathBuf,
    /// Of a manifest only the rows with this `split`, of a folder only this part, such as train
    #[arg(long)]
    split: Option<String>,
}

impl Pictures {
    pub(crate) fn open(&self, columns: &dataset::Columns) -> Result<Dataset> {
        Dataset::open_as(&self.dir, self.split.as_deref(), columns)
    }
}

/// Which backbone.
#[derive(Debug, clap::Args)]
pub(crate) struct Backbone {
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
    #[arg(long, value_name = "PIXELS")]
    input: Option<u32>,
    /// Share of a picture's shorter side that the network sees, about its centre: 1 is all of it, 0.875 what most weights were
    /// tested with
    #[arg(long, value_name = "SHARE", default_value_t = ALL)]
    crop: f32,
}

/// What is to be told of a picture, other than its class.
#[derive(Debug, clap::Args)]
pub(crate) struct Columns {
    /// Tell tags, of which several may hold: columns of 0 or 1 of the manifest, such as rust,miner
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', conflicts_with = "target")]
    tags: Vec<String>,
    /// Tell values (a regression): columns of numbers of the manifest, such as yield
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    target: Vec<String>,
}

impl Columns {
    pub(crate) fn wanted(&self) -> dataset::Columns {
        match (&self.tags[..], &self.target[..]) {
            ([], []) => dataset::Columns::Label,
            ([], values) => dataset::Columns::Values(values.to_vec()),
            (tags, _) => dataset::Columns::Tags(tags.to_vec()),
        }
    }
}

/// How to train; what is not given is chosen.
#[derive(Debug, clap::Args)]
struct Choices {
    /// head: on the frozen backbone; blocks: its last stages too; full: all of it; scratch: all, from random weights
    #[arg(long, value_enum)]
    recipe: Option<RecipeName>,
    /// Time for fine-tuning, such as 90s, 20m or 2h
    #[arg(long, value_parser = duration)]
    time: Option<f64>,
    /// Fine-tune this many of the last stages (`graft model show` tells how many there are): the recipe blocks
    #[arg(long, value_name = "N")]
    unfreeze: Option<usize>,
    /// Passes over the pictures while fine-tuning
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Pictures that go through the network together
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Batches whose gradients make one step
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// Rule of a step
    #[arg(long, value_enum)]
    optimizer: Option<OptimiserName>,
    /// Peak learning rate while fine-tuning (warm-up, then a cosine); `graft lr-find` looks for one
    #[arg(long)]
    rate: Option<f64>,
    /// Factor of a stage's rate for each stage from the head down to it, such as 0.8
    #[arg(long, value_name = "FACTOR")]
    stage_decay: Option<f64>,
    /// Longest gradient; a longer one is scaled down
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Keep an exponential moving average of the weights, with this much of the past, such as 0.99
    #[arg(long, value_name = "PAST")]
    ema: Option<f64>,
    /// Share of each target that is spread over all classes
    #[arg(long, value_name = "SHARE")]
    smoothing: Option<f32>,
    /// Views of each picture whose features the head learns from: 1 is the picture itself, the others are varied
    #[arg(long, value_name = "K")]
    views: Option<usize>,
    /// How pictures are varied: none, light, field or strong; `graft data preview` shows it
    #[arg(long, value_name = "PRESET")]
    augment: Option<Preset>,
    /// Mix pairs of pictures and their targets, by shares of this Beta distribution, such as 0.2
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0)]
    mixup: f32,
    /// Paste a part of another picture, by shares of this Beta distribution, such as 1
    #[arg(long, value_name = "ALPHA", default_value_t = 0.0)]
    cutmix: f32,
    /// Let the pictures of rare classes count more, so that all classes count the same
    #[arg(long)]
    balance: bool,
    /// Statistics that normalise while fine-tuning: the pretrained ones, or those of each batch
    #[arg(long, value_enum)]
    norm: Option<Statistics>,
    /// Share of the pictures that chooses the epoch to keep; 0 trains on all and takes the last
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,
    /// Stop after this many epochs without a better one; 0 never stops early
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Compute activations again on the way back instead of keeping them (activation checkpointing): less memory, more time, the
    /// same weights; auto does so where a step would not fit into memory
    #[arg(long, value_enum, default_value_t = RecomputeName::Auto)]
    recompute: RecomputeName,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RecomputeName {
    Auto,
    Always,
    Never,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RecipeName {
    Head,
    Blocks,
    Full,
    Scratch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OptimiserName {
    Adamw,
    Sgd,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    args.threads.start()?;
    let wish = args.choices.wish()?;
    if wish.recipe == Some(Recipe::Head) && args.device == Place::Cuda {
        ui.note("the frozen backbone runs on the CPU; --device cuda takes effect with fine-tuning");
    }
    let device = device(args.device, args.precision, ui)?;
    let pretrained = args.backbone.pretrained(wish.recipe, wish.seed)?;
    let dataset = args.pictures.open(&args.columns.wanted())?;
    let cache = cache_folder()?;
    if wish.recipe != Some(Recipe::Head) {
        std::fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    }
    let plan = Plan {
        data: args.pictures.dir.clone(),
        split: args.pictures.split.clone(),
        dataset: &dataset,
        pretrained: &pretrained,
        cache: &cache,
        on_bad: if args.strict { OnBad::Fail } else { OnBad::Skip },
        wish,
        device,
        folder: Some(&args.out),
        resume: if args.resume { Resume::Yes } else { Resume::No },
    };
    let start = Instant::now();
    let (bars, show) = ui.stages();
    let trained = transfer(&plan, &ui.stop, |event| {
        if let (Event::Settled(settled), false) = (&event, args.json) {
            bars[0].suspend(|| eprintln!("{}", told(settled)));
        }
        show(&event);
    })?;
    bars.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    ui.skipped(trained.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    trained.run.save(&args.out)?;
    clean_up(&args.out);
    let seconds = start.elapsed().as_secs_f64();
    if args.json { ui.json(&summary(args, &trained, seconds)) } else { report(ui, &args.out, &trained) }
}

/// Says what is going to be done, and why.
fn told(settled: &Settled) -> String {
    match &settled.tuning {
        None => format!("recipe    head: {}", settled.why),
        Some(t) => format!(
            "recipe    {}, {} epochs at a rate of {}, {} % held out: {}",
            t.recipe,
            t.schedule.epochs,
            t.schedule.rate,
            (100.0 * t.validation).round(),
            settled.why
        ),
    }
}

fn summary(args: &Args, trained: &Trained, seconds: f64) -> serde_json::Value {
    let r = &trained.run.record;
    json!({
        "run": args.out, "n": r.pictures, "skipped": r.skipped, "classes": r.labels.len(), "features_seconds": r.features_seconds,
        "features_cached": trained.cached, "head_seconds": r.head_seconds, "seconds": seconds, "strength": r.strength,
        "recipe": trained.settled.recipe(), "why": trained.settled.why, "task": r.task, "cross_validated_score": cross_validated(trained), "train_loss": trained.loss, "fine_tuned": r.fine_tuned,
    })
}

fn cross_validated(trained: &Trained) -> f64 {
    trained.run.record.cross_validation.iter().map(|t| t.1).fold(f64::NEG_INFINITY, f64::max)
}

/// Names a score as its task does.
fn scored(task: Task, score: f64) -> String {
    match task {
        Task::Classes => format!("top-1 {:.1} %", 100.0 * score),
        Task::Tags => format!("{:.1} % of tags right", 100.0 * score),
        Task::Values => format!("R2 {score:.3}"),
    }
}

fn report(ui: &Ui, out: &Path, trained: &Trained) -> Result<()> {
    let r = &trained.run.record;
    let wanted = match r.task {
        Task::Classes => format!("{} classes", r.labels.len()),
        Task::Tags | Task::Values => r.labels.join(", "),
    };
    ui.line(&format!("{} pictures of {wanted}, {} left out", r.pictures, r.skipped))?;
    ui.line(&format!("features  {:.1} s ({} from the cache)", r.features_seconds, trained.cached))?;
    ui.line(&format!(
        "head      {:.1} s, C = {}, cross-validated {}",
        r.head_seconds,
        r.strength,
        scored(r.task, cross_validated(trained))
    ))?;
    if let Some(f) = &r.fine_tuned {
        let reading = 100.0 * f.reading_seconds / f.seconds.max(1e-9);
        let again = if f.recomputed { ", activations computed again" } else { "" };
        ui.line(&format!(
            "tuning    {:.1} s, {reading:.0} % of it for pictures{again}, {}",
            f.seconds,
            kept(r.task, f)
        ))?;
    }
    ui.line(&format!("run       {}", out.display()))
}

/// Says which epoch was kept.
fn kept(task: Task, f: &FineTuned) -> String {
    let epochs = f.epochs.iter().filter(|e| e.epoch > 0).count();
    if f.best == 0 {
        return format!("none of {epochs} epochs was better than the head alone, which is kept");
    }
    let score = f.epochs.iter().find(|e| e.epoch == f.best).and_then(|e| e.score);
    let score = score.map_or(String::new(), |s| format!(", validation {}", scored(task, s)));
    format!("epoch {} of {epochs}{score}", f.best)
}

impl Choices {
    fn wish(&self) -> Result<Wish> {
        let within = |name: &str, value: Option<f64>, low: f64, high: f64| {
            let fits = value.is_none_or(|v| v > low && v < high);
            ensure!(fits, "expected --{name} between {low} and {high}, found {}", value.unwrap_or_default());
            Ok(())
        };
        ensure!(self.batch != Some(0), "expected --batch of at least 1, found 0");
        ensure!(self.accumulate != Some(0), "expected --accumulate of at least 1, found 0");
        ensure!(
            self.views.is_none_or(|v| (1..=100).contains(&v)),
            "expected --views of 1 to 100, found {}",
            self.views.unwrap_or_default()
        );
        within("rate", self.rate, 0.0, 10.0)?;
        within("stage-decay", self.stage_decay, 0.0, 1.000_001)?;
        within("clip", self.clip, 0.0, f64::INFINITY)?;
        within("ema", self.ema, 0.0, 1.0)?;
        within("smoothing", self.smoothing.map(f64::from), -1e-9, 1.0)?;
        within("mixup", Some(self.mixup.into()), -1e-9, 100.0)?;
        within("cutmix", Some(self.cutmix.into()), -1e-9, 100.0)?;
        within("validation", self.validation, -1e-9, 0.9)?;
        let recipe = self.recipe.map(|r| match r {
            RecipeName::Head => Recipe::Head,
            RecipeName::Blocks => Recipe::Blocks,
            RecipeName::Full => Recipe::Full,
            RecipeName::Scratch => Recipe::Scratch,
        });
        ensure!(
            self.unfreeze.is_none() || matches!(recipe, None | Some(Recipe::Blocks)),
            "expected --unfreeze with --recipe blocks or none, found --recipe {}",
            recipe.map_or(String::new(), |r| r.to_string())
        );
        Ok(Wish {
            recipe,
            unfrozen: self.unfreeze,
            seconds: self.time,
            epochs: self.epochs,
            batch: self.batch,
            accumulate: self.accumulate,
            optimiser: self.optimizer.map(|o| match o {
                OptimiserName::Adamw => Optimiser::Adamw,
                OptimiserName::Sgd => Optimiser::Sgd,
            }),
            rate: self.rate,
            stage_decay: self.stage_decay,
            clip: self.clip,
            average: self.ema,
            smoothing: self.smoothing,
            views: self.views,
            augment: self.augment,
            mix: Mix { mixup: self.mixup, cutmix: self.cutmix },
            balance: self.balance,
            norm: self.norm.map(|n| match n {
                Statistics::Frozen => Norm::Frozen,
                Statistics::Batch => Norm::Batch,
            }),
            validation: self.validation,
            patience: self.patience,
            recompute: match self.recompute {
                RecomputeName::Auto => Recompute::Auto,
                RecomputeName::Always => Recompute::Always,
                RecomputeName::Never => Recompute::Never,
            },
            seed: self.seed,
        })
    }
}

/// Reads a time such as `90s`, `20m` or `2h` as seconds.
fn duration(text: &str) -> Result<f64, String> {
    let unit = [('s', 1.0), ('m', 60.0), ('h', 3600.0)].into_iter().find(|(u, _)| text.ends_with(*u));
    let seconds = unit.and_then(|(u, each)| Some(text.strip_suffix(u)?.parse::<f64>().ok()? * each));
    seconds
        .filter(|s| (1.0..=30.0 * 86400.0).contains(s))
        .ok_or_else(|| format!("expected a time of a second to 720 hours such as 90s, 20m or 2h, found {text:?}"))
}

/// Opens the device, so that a missing GPU is told before any work.
fn device(place: Place, precision: Precision, ui: &mut Ui) -> Result<Device> {
    if place == Place::Cpu {
        return Ok(Device::Cpu);
    }
    let gpu = Gpu::open(precision)?;
    ui.note(&format!("training on {}", gpu.name()));
    Ok(Device::Gpu(gpu))
}

impl Backbone {
    /// Takes a backbone as `--model` and `--weights` name it.
    pub(crate) fn named(model: &str, weights: Option<PathBuf>) -> Self {
        Self { model: model.to_owned(), width: None, weights, input: None, crop: ALL }
    }

    /// Finds the backbone by `--model`, `--width` and `--weights`, or makes random numbers of `seed` for it.
    pub(crate) fn pretrained(&self, recipe: Option<Recipe>, seed: u64) -> Result<Pretrained> {
        let (entry, input) = (Catalogue::find(&self.model), Input { side: self.input, share: Some(self.crop) });
        let architecture = match (entry, self.width) {
            (Some(e), None) => e.architecture,
            (_, width) => {
                let id = width.map_or(self.model.clone(), |w| format!("{}:{w}", self.model));
                ensure!(
                    width.is_none_or(|w| (0.1..=2.0).contains(&w)),
                    "expected a width of 0.1 to 2, found {:?}",
                    self.width
                );
                id.parse::<Architecture>().context("reading --model")?
            }
        };
        if recipe == Some(Recipe::Scratch) {
            ensure!(
                self.weights.is_none(),
                "expected no --weights with --recipe scratch, which begins with random ones; use --recipe full to go on from them"
            );
            return Pretrained::random(architecture, input, seed);
        }
        if let Some(path) = &self.weights {
            return Pretrained::read(path, architecture, input);
        }
        let entry = entry.filter(|e| e.architecture == architecture).with_context(|| {
            format!("expected --weights FILE, found none, and the catalogue has no weights of {architecture} under that name; `graft model list` shows what there is, and --recipe scratch needs none")
        })?;
        if entry.source == Source::Embedded {
            return Pretrained::embedded(input);
        }
        let path = cached(entry).with_context(|| {
            format!("expected the weights of {0} in the hub's cache, found none; run `graft model fetch {0}` or give --weights FILE", entry.id)
        })?;
        Pretrained::read(&path, architecture, input)
    }
}

/// Photos of leaves are mostly framed by those who took them: of three sets the head told as many or up to 5 % more right
/// (`docs/performance.md`).
const ALL: f32 = 1.0;

/// `$GRAFT_CACHE`, else the user's cache folder.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("GRAFT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("graft")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/graft")))
        .or_else(|| set("LOCALAPPDATA").map(|p| p.join("graft")))
        .context("expected GRAFT_CACHE, XDG_CACHE_HOME or HOME to say where features are kept, found none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_strangers_refused() {
        assert_eq!([duration("90s"), duration("20m"), duration("1.5h")], [Ok(90.0), Ok(1200.0), Ok(5400.0)]);
        for text in ["", "5", "m", "-1m", "0s", "nans", "1d", "99999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
