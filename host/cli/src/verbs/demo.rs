//! `graft demo`: the whole job on this machine, with what the program itself holds.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::{Bundle, Needs, SecretKey};
use graft_deploy::{Address, FlashReport, Session};
use graft_leaves::write_leaf_set;
use graft_runtime::{Model, Picture, bench};
use graft_train::dataset::{Dataset, Sample};
use graft_train::evaluate::evaluate;
use graft_train::fit::{Data, Resume, Schedule, fit};
use graft_train::net::{Net, Norm, random};
use graft_train::photos::Photos;
use graft_train::pictures::{self, OnBad};
use graft_train::pretrained::{Input, Pretrained};
use graft_train::quantize::{self, Kind, Outcome, Pins, Repair};
use graft_train::recipe::{PRESET, Recipe, Wish};
use graft_train::run::{Run, write_atomic};
use graft_train::transfer::{Device, Plan, transfer};

use super::flash::{describe, flash};
use crate::packing::{Packing, pack};
use crate::ui::{Ui, moves};

/// Do the whole job here: train, quantize, pack, flash a device on a virtual serial line, classify
///
/// Uses the embedded backbone and generated leaves; needs no network, no data and no board. Everything it makes is left
/// in --out, which a second run makes anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  graft demo --out /tmp/graft-demo")]
pub(crate) struct Args {
    /// The folder to fill
    #[arg(long, default_value = "graft-demo")]
    out: PathBuf,
    /// Pictures of each class to train on
    #[arg(long, default_value_t = 40)]
    per_class: usize,
    /// Pictures of each class to test on
    #[arg(long, default_value_t = 40)]
    test_per_class: usize,
    /// Passes over the pictures, for the pretrained net and for the one from scratch
    #[arg(long, default_value_t = 12)]
    epochs: usize,
    /// Seed of pictures and training
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

const SIDE: u32 = 112;
const RATE: f64 = 2e-3;
const MARK: &str = ".graft-demo";

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let start = Instant::now();
    let out = prepare(&args.out)?;
    let sets = Sets::make(&out, args, ui)?;
    let pretrained = Pretrained::embedded(Input::default())?;
    let tuned = train(&out, args, &sets.train, &pretrained, ui)?;
    let scratch_top1 = scratch(args, &sets, &pretrained, ui)?;
    let models = export(&out, &tuned, &sets, ui)?;
    let key_file = out.join("demo.key");
    let key = SecretKey::generate()?;
    key.save(&key_file)?;
    let bundle = pack_one(&out.join("leaves.graft"), &models.int8, &sets.test, &key)?;
    // The second bundle: the same backbone, a head fitted again with more pictures.
    let again = refit(&out, args, &sets, &tuned, ui)?;
    let second = pack_one(&out.join("leaves-2.graft"), &again, &sets.test, &key)?;
    let device = Daemon::start(&out, &key)?;
    let story = story(&device, &out, &bundle, &second, &sets.test, ui)?;
    drop(device);
    let model = Model::from_onnx(&models.int8)?;
    let side = model.preprocessing().crop as usize;
    let latency = bench(model.network(), Picture::Bytes(&vec![127; side * side * 3]), 1, 1.0)?;
    let summary = Summary {
        out: &out,
        models: &models,
        scratch_top1,
        story: &story,
        latency_ms: latency.median_ms,
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json { ui.json(&summary.json()) } else { summary.print(args, ui) }
}

/// Empties the folder of an earlier demo; any other folder with something in it is left alone.
fn prepare(out: &Path) -> Result<PathBuf> {
    let doing = || format!("preparing {}", out.display());
    if out.exists() {
        let used = fs::read_dir(out).with_context(doing)?.next().is_some();
        if used {
            ensure!(
                out.join(MARK).exists(),
                "expected an empty folder or one of an earlier demo, found {} in use; give --out",
                out.display()
            );
            fs::remove_dir_all(out).with_context(doing)?;
        }
    }
    fs::create_dir_all(out).with_context(doing)?;
    write_atomic(&out.join(MARK), b"made by graft demo; a new demo removes this folder\n")?;
    fs::canonicalize(out).with_context(doing)
}

struct Sets {
    train: Dataset,
    test: Dataset,
    /// A season later: the pictures of `train` and as many again.
    more: Dataset,
}

impl Sets {
    fn make(out: &Path, args: &Args, ui: &Ui) -> Result<Self> {
        let bar = ui.bar("leaves");
        let make = |name: &str, per_class: usize, seed: u64| -> Result<Dataset> {
            let folder = out.join("leaves").join(name);
            write_leaf_set(&folder, per_class, seed, SIDE, moves(&bar))?;
            Dataset::open(&folder, None)
        };
        let train = make("train", args.per_class, args.seed.wrapping_mul(3))?;
        let test = make("test", args.test_per_class, args.seed.wrapping_mul(3).wrapping_add(1))?;
        let mut more = make("more", args.per_class, args.seed.wrapping_mul(3).wrapping_add(2))?;
        for sample in &train.samples {
            more.samples.push(Sample { key: format!("train/{}", sample.key), ..sample.clone() });
        }
        bar.finish_and_clear();
        Ok(Self { train, test, more })
    }
}

fn schedule(args: &Args) -> Schedule {
    Schedule { epochs: args.epochs, rate: RATE, seed: args.seed, ..Schedule::default() }
}

fn train(out: &Path, args: &Args, data: &Dataset, pretrained: &Pretrained, ui: &Ui) -> Result<Run> {
    let wish = Wish {
        recipe: Some(Recipe::Full),
        // As from scratch below: the two runs differ in the weights they begin with, and in nothing else.
        norm: Some(Norm::Batch),
        epochs: Some(args.epochs),
        rate: Some(RATE),
        validation: Some(0.0),
        seed: args.seed,
        ..Wish::default()
    };
    let run = graft(out, data, pretrained, wish, ui)?;
    run.save(&out.join("run"))?;
    Ok(run)
}

fn graft(out: &Path, data: &Dataset, pretrained: &Pretrained, wish: Wish, ui: &Ui) -> Result<Run> {
    let plan = Plan {
        data: out.join("leaves/train"),
        split: None,
        dataset: data,
        pretrained,
        cache: &out.join("cache"),
        on_bad: OnBad::Fail,
        wish,
        device: Device::Cpu,
        folder: None,
        resume: Resume::No,
    };
    let (bars, show) = ui.stages();
    let trained = transfer(&plan, &ui.stop, |event| show(&event))?;
    bars.iter().for_each(indicatif::ProgressBar::finish_and_clear);
    Ok(trained.run)
}

/// Trains the same net from random weights on the same pictures, as often; returns its top-1 in the shipped engine.
fn scratch(args: &Args, sets: &Sets, pretrained: &Pretrained, ui: &Ui) -> Result<f64> {
    let network = &pretrained.network;
    let (backbone, head) = random(network, sets.train.labels.len(), args.seed);
    let mut net =
        Net::new(network, &backbone, &head, &pretrained.preprocessing, network.stages, Norm::Batch, &Device::Cpu)?;
    let photos = Photos::all(&sets.train, &pretrained.preprocessing, PRESET);
    let bar = ui.bar("from scratch");
    fit(&mut net, Data::new(&photos, None), &schedule(args), None, &ui.stop, moves(&bar))?;
    bar.finish_and_clear();
    let (backbone, head) = net.finish()?;
    let like = Pretrained { backbone, ..pretrained.clone() };
    let model = Model::from_onnx(&like.graph(Some(&head), &sets.train.labels)?)?;
    top1(&model, &sets.test, |_, _| ())
}

/// Returns the share of pictures that a model classifies rightly.
fn top1(model: &Model, test: &Dataset, progress: impl FnMut(usize, usize)) -> Result<f64> {
    let found = evaluate(model, test.clone(), &[], OnBad::Fail, progress)?.found;
    Ok(found.classes().context("expected a model that tells classes, found another")?.top1)
}

struct Models {
    float_top1: f64,
    int8_top1: f64,
    float_bytes: usize,
    int8: Vec<u8>,
    calibration: String,
}

fn export(out: &Path, run: &Run, sets: &Sets, ui: &Ui) -> Result<Models> {
    let float = run.float()?;
    write_atomic(&out.join("leaves.onnx"), &float)?;
    let Outcome { onnx, report, .. } = quantized(out, run, sets, ui)?;
    let int8 = onnx.context("expected an int8 network, found none")?;
    write_atomic(&out.join("leaves.int8.onnx"), &int8)?;
    let last = report.evaluation.candidates.last().context("expected an int8 network that was measured, found none")?;
    Ok(Models {
        float_top1: report.evaluation.float.score,
        int8_top1: last.measured.score,
        float_bytes: float.len(),
        int8,
        calibration: report.calibration.method,
    })
}

/// Pictures that show the ranges.
const CALIBRATION: usize = 60;

/// Quantizes a run; the backbone's parameters are pinned in the demo's folder, so that its bytes stay as they are on the
/// device when the head is another.
fn quantized(out: &Path, run: &Run, sets: &Sets, ui: &Ui) -> Result<Outcome> {
    let plan = quantize::Plan {
        run,
        calibration: &Dataset::spread(&sets.train.samples, CALIBRATION),
        test: &sets.test,
        ranges: None,
        repairs: &Repair::ALL,
        kind: Some(Kind::Int8),
        budget: 0.005,
        budget_ms: None,
        on_device: None,
        pins: Some(Pins::kept(&out.join("quantized"))),
        tuning: None,
        on_bad: OnBad::Fail,
    };
    let bar = ui.bar("quantizing");
    let outcome = quantize::quantize(&plan, |_, done, of| moves(&bar)(done, of))?;
    bar.finish_and_clear();
    Ok(outcome)
}

fn pack_one(path: &Path, onnx: &[u8], golden: &Dataset, key: &SecretKey) -> Result<Bundle> {
    let (tolerance, needs, calibrate) = (None, Needs::default(), None);
    let packing = Packing { onnx, name: "leaves", golden, count: 6, tolerance, needs, calibrate };
    pack(&packing, key, path, |_, _| ())?;
    Ok(Bundle::open(path)?)
}

/// Fits the head again on more pictures, on the backbone that is on the device.
fn refit(out: &Path, args: &Args, sets: &Sets, run: &Run, ui: &Ui) -> Result<Vec<u8>> {
    let backbone =
        Pretrained::read(&out.join("run/weights.safetensors"), run.record.weights.architecture, Input::default())?;
    let head = Wish { recipe: Some(Recipe::Head), seed: args.seed, ..Wish::default() };
    let again = graft(out, &sets.more, &backbone, head, ui)?;
    again.save(&out.join("run-2"))?;
    quantized(out, &again, sets, ui)?.onnx.context("expected an int8 network, found none")
}

/// A daemon on a virtual serial line, ended when dropped.
struct Daemon {
    child: Child,
    port: PathBuf,
}

/// Time for the daemon to make its port.
const START: Duration = Duration::from_secs(20);

impl Daemon {
    fn start(out: &Path, key: &SecretKey) -> Result<Self> {
        let folder = out.join("device");
        fs::create_dir_all(&folder)?;
        let config = folder.join("graftd.toml");
        let text = format!(
            "name = \"demo\"\nroot = \"data\"\nlisten = [\"pty:port\"]\ntrusted_keys = [\"{}\"]\ndisplay = \"png:screen.png\"\n",
            key.public()
        );
        write_atomic(&config, text.as_bytes())?;
        let port = folder.join("port");
        let journal = fs::File::create(folder.join("journal.txt"))?;
        let program = std::env::current_exe().context("finding this program")?;
        let child = Command::new(program)
            .arg0("graftd")
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(journal)
            .spawn()
            .context("starting graftd")?;
        let mut daemon = Self { child, port };
        let since = Instant::now();
        while !daemon.port.exists() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!(
                    "expected graftd to serve, found that it ended ({status}); see {}",
                    folder.join("journal.txt").display()
                );
            }
            ensure!(
                since.elapsed() < START,
                "expected graftd to make {}, found nothing after {START:?}",
                daemon.port.display()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is lost: all that the daemon keeps is on disk whole at any moment.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What happened between host and device.
struct Story {
    first: FlashReport,
    second: FlashReport,
    right: usize,
    asked: usize,
    answers: Vec<String>,
    device_ms: f32,
}

fn story(device: &Daemon, out: &Path, bundle: &Bundle, second: &Bundle, test: &Dataset, ui: &Ui) -> Result<Story> {
    let address: Address = device.port.to_string_lossy().parse()?;
    let mut session = Session::connect(&address, START, Some(Arc::clone(&ui.stop)))?;
    let first = flash(&mut session, bundle, ui)?;
    let bar = ui.bar("classifying on the device");
    // One of each class in turn.
    let n = test.samples.len();
    let classes = test.labels.len();
    let each = n / classes.max(1);
    let asked = 24.min(n);
    bar.set_length(asked as u64);
    let (mut right, mut answers, mut device_ms) = (0, vec![], 0.0);
    for i in 0..asked {
        let sample = &test.samples[(i % classes) * each + i / classes];
        let found = session.classify(&sample.key, &pictures::bytes(sample)?)?;
        let truth = &test.labels[sample.class];
        right += usize::from(found.label == *truth);
        device_ms += found.latency_ms / asked as f32;
        if i < classes {
            answers.push(format!("{:24} {:10} {:.0} %", sample.key, found.label, 100.0 * found.probability));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    write_atomic(&out.join("screen.png"), &session.screen()?)?;
    let second = flash(&mut session, second, ui)?;
    Ok(Story { first, second, right, asked, answers, device_ms })
}

struct Summary<'a> {
    out: &'a Path,
    models: &'a Models,
    scratch_top1: f64,
    story: &'a Story,
    latency_ms: f64,
    seconds: f64,
}

impl Summary<'_> {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "out": self.out, "seconds": self.seconds, "top1_float": self.models.float_top1, "top1_int8": self.models.int8_top1,
            "top1_scratch": self.scratch_top1, "float_bytes": self.models.float_bytes, "int8_bytes": self.models.int8.len(),
            "calibration": self.models.calibration, "int8_median_ms": self.latency_ms, "flash": self.story.first,
            "second_flash": self.story.second, "device_right": self.story.right, "device_asked": self.story.asked,
            "device_ms": self.story.device_ms,
        })
    }

    fn print(&self, args: &Args, ui: &Ui) -> Result<()> {
        let (m, s) = (self.models, self.story);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        ui.line(&format!(
            "graft demo: six kinds of generated leaves, {} pictures of each, {} epochs, {:.0} s\n",
            args.per_class, args.epochs, self.seconds
        ))?;
        ui.line(&format!("accuracy   top-1 on {} other leaves, in the engine of the device", 6 * args.test_per_class))?;
        ui.line(&format!("  pretrained backbone   {} float, {} int8", percent(m.float_top1), percent(m.int8_top1)))?;
        ui.line(&format!("  the same from scratch {} float, same pictures and epochs", percent(self.scratch_top1)))?;
        ui.line(&format!("size       {} bytes float, {} bytes int8 ({})", m.float_bytes, m.int8.len(), m.calibration))?;
        ui.line(&format!("latency    {:.1} ms a picture here, one thread, int8", self.latency_ms))?;
        ui.line(&format!("first flash   {}", describe(&s.first)))?;
        ui.line(&format!("second flash  {}", describe(&s.second)))?;
        ui.line(&format!("on the device {} of {} right, {:.1} ms each", s.right, s.asked, s.device_ms))?;
        for answer in &s.answers {
            ui.line(&format!("  {answer}"))?;
        }
        ui.line(&format!("\nfiles in {}", self.out.display()))?;
        for (file, what) in FILES {
            ui.line(&format!("  {file:22} {what}"))?;
        }
        Ok(())
    }
}

const FILES: [(&str, &str); 9] = [
    ("leaves/", "the pictures"),
    ("run/", "the trained weights, run.json and metrics.jsonl"),
    ("leaves.onnx", "f32"),
    ("leaves.int8.onnx", "int8 (QDQ)"),
    ("leaves.graft", "the signed bundle"),
    ("leaves-2.graft", "the bundle with the head fitted again on twice the pictures"),
    ("demo.key", "the key that signed both"),
    ("screen.png", "what the device shows"),
    ("device/", "the device: its configuration, journal and disk"),
];
