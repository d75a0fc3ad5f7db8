//! `graft quantize`: writes a run in fewer bits, or says why not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use graft_bundle::SecretKey;
use graft_deploy::Address;
use graft_onnx::quantize::RangeMethod;
use graft_runtime::unsupported_operators;
use graft_train::dataset::{Dataset, Sample};
use graft_train::fit::Schedule;
use graft_train::pictures::OnBad;
use graft_train::qat;
use graft_train::quantize::{
    Candidate, Explanation, Kind, LayerReport, Measured, OnDevice, Pins, Plan, Repair, Report, Stage, Tuning, Verdict,
    quantize,
};
use graft_train::run::{Run, write_atomic};
use serde::Serialize;

use super::flash::{At, Manner};
use super::threads::Threads;
use super::train::{Columns, cache_folder};
use crate::board::{Board, reach};
use crate::model_file;
use crate::ui::{Ui, moves};

/// Write a run in fewer bits, after telling what that costs and saves
///
/// Activations become u8 and weights s8 by channel (QDQ form). Their ranges come from pictures of --data, spread over all
/// classes; of several ways to choose them, and of the repairs, those are kept whose answers are nearest to the float
/// network's. Then both answer the pictures of --test (without it, those of --data that did not show ranges): how many
/// points are lost, which pictures change class, what it takes in time, memory and bytes here, and which layers are to blame. The
/// verdict is to ship int8; or int8 with a few layers in float; or 8-bit weights alone; or float, and then nothing is
/// written and the exit code is 4.
///
/// The backbone's parameters are kept in graft's cache folder and used again for every head on that backbone, so that a
/// device that has the backbone needs the head alone; --afresh chooses them anew.
///
/// With --device each network is also tested and timed on a board over its line: it travels there, stays in memory, and is
/// forgotten; nothing is written there, and what runs goes on. The verdict then goes by the board's milliseconds.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  graft quantize runs/leaves --data photos/train --test photos/test --out leaves.int8.onnx
  graft quantize runs/leaves --data photos/ --budget-drop 1 --budget-ms 3 --json --out leaves.int8.onnx
  graft quantize runs/leaves --data photos/train --test photos/test --device tcp://raspberrypi.local:7878 --key field.key \
    --budget-ms 40 --out leaves.int8.onnx
  graft quantize runs/leaves --data photos/ --numbers half --out leaves.f16.onnx
  graft quantize explain leaves.int8.onnx"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// A run folder
    #[arg(required = true)]
    run: Option<PathBuf>,
    /// Labelled pictures that show the ranges of the activations
    #[arg(long, value_name = "DIR", required = true)]
    data: Option<PathBuf>,
    /// Labelled pictures that tell the price, none of which is in --data
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    /// Use at most this many pictures for the ranges
    #[arg(long, value_name = "N", default_value_t = 200)]
    calibration_pictures: usize,
    /// Points that may be lost, of 100
    #[arg(long, value_name = "POINTS", default_value_t = 0.5)]
    budget_drop: f64,
    /// Milliseconds that a picture may take here, or on the board of --device, on one thread, instead of less than float takes
    #[arg(long, value_name = "MS")]
    budget_ms: Option<f64>,
    /// Choose ranges so instead of trying all: min-max, percentile-99.999, percentile-99.99, percentile-99.9, mse, entropy
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    method: String,
    /// Repairs to try, of equalize, bias and round; none tries none
    #[arg(long, value_name = "REPAIRS", value_delimiter = ',', default_value = "equalize,bias,round")]
    repair: Vec<String>,
    /// Where int8 loses too much, fine-tune the weights for it on the pictures of --data, for this many epochs
    #[arg(long, value_name = "EPOCHS", num_args = 0..=1, default_missing_value = "2", conflicts_with = "numbers")]
    qat: Option<usize>,
    /// Write these numbers whatever the verdict would be
    #[arg(long, value_enum)]
    numbers: Option<Numbers>,
    /// Choose the backbone's parameters anew, even where those of an earlier head on it are kept
    #[arg(long)]
    afresh: bool,
    #[command(flatten)]
    threads: Threads,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// The file to write
    #[arg(long, short, required = true)]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also measure on the device at this address: /dev/ttyUSB0, tcp://host:port, unix:/path
    #[arg(long, value_name = "ADDRESS", requires = "key", help_heading = BOARD)]
    device: Option<Address>,
    /// The key that signs what is measured there, which the device trusts
    #[arg(long, value_name = "KEYFILE", requires = "device", help_heading = BOARD)]
    key: Option<PathBuf>,
    #[command(flatten, next_help_heading = BOARD)]
    manner: Manner,
}

const BOARD: &str = "A board that is to tell its milliseconds";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell how a file was quantized, and what each of its layers loses
    Explain(Explain),
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// A file that `graft quantize` wrote
    onnx: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Numbers {
    /// 8-bit weights and activations
    Int8,
    /// 8-bit weights, computed with in f32
    Weights,
    /// 16-bit weights, computed with in f32
    Half,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    if let Some(Command::Explain(explain)) = &args.command {
        return tell(explain, ui);
    }
    let (Some(folder), Some(data), Some(out)) = (&args.run, &args.data, &args.out) else {
        bail!("expected a run, --data and --out, found not all of them");
    };
    args.threads.start()?;
    let start = Instant::now();
    let at = args.device.clone().map(|device| At { device: Some(device), manner: args.manner.clone() });
    let key = args.key.as_deref().map(SecretKey::load).transpose()?;
    ensure!(
        at.is_some() || (args.manner.expect.is_none() && args.manner.host_key.is_none()),
        "expected --device with --expect and --host-key, found none"
    );
    // An address that is wrong is to be known before the long work.
    let name = at.as_ref().map(|at| reach(at, ui)).transpose()?;
    let sets = Sets::open(args, data)?;
    let (run, cache) = (Run::open(folder)?, cache_folder()?.join("quantized"));
    let repairs = match &args.repair[..] {
        [none] if none == "none" => vec![],
        names => names.iter().map(|n| n.parse::<Repair>()).collect::<Result<_>>()?,
    };
    let stop = Arc::clone(&ui.stop);
    let bar = ui.bar("quantizing");
    let board = at.as_ref().zip(key.as_ref()).map(|(at, key)| Board::new(at, key, &sets.test, ui));
    let measure = board.as_ref().map(|board| |onnx: &[u8]| board.measure(onnx, &bar));
    let plan = Plan {
        run: &run,
        calibration: &sets.calibration,
        test: &sets.test,
        ranges: (args.method != "auto").then(|| args.method.parse::<RangeMethod>()).transpose()?,
        repairs: &repairs,
        kind: args.numbers.map(|n| match n {
            Numbers::Int8 => Kind::Int8,
            Numbers::Weights => Kind::Weights,
            Numbers::Half => Kind::Half,
        }),
        budget: args.budget_drop / 100.0,
        budget_ms: args.budget_ms,
        on_device: measure.as_ref().map(|measure| measure as _),
        pins: Some(if args.afresh { Pins::afresh(&cache) } else { Pins::kept(&cache) }),
        tuning: args.qat.map(|epochs| {
            let usual = qat::Plan::default();
            let plan = qat::Plan { schedule: Schedule { epochs, ..usual.schedule }, ..usual };
            Tuning { pictures: &sets.train, plan, stop: &stop }
        }),
        on_bad: if args.strict { OnBad::Fail } else { OnBad::Skip },
    };
    let outcome = quantize(&plan, |stage, done, of| {
        bar.set_message(match stage {
            Stage::Calibrating => "calibrating",
            Stage::Layers => "layers",
            Stage::Evaluating => "evaluating",
            Stage::Tuning => "fine-tuning",
        });
        moves(&bar)(done, of);
    })?;
    bar.finish_and_clear();
    ui.skipped(outcome.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    if let Some(onnx) = &outcome.onnx {
        let unsupported = unsupported_operators(onnx).context("loading the quantized graph as the device would")?;
        ensure!(unsupported.is_empty(), "expected operators that the device runs, found {}", unsupported.join(", "));
        write_atomic(out, onnx)?;
    }
    if let (Some(name), Some(warning)) = (&name, slowness(&outcome.report)) {
        ui.note(&format!("{name} says \"{warning}\": its milliseconds may be too long"));
    }
    let seconds = start.elapsed().as_secs_f64();
    let written = outcome.onnx.as_ref().map(|_| out);
    if args.json {
        ui.json(&Told { report: &outcome.report, device: name, out: written, seconds })?;
    } else {
        report(ui, &outcome.report, sets.is_one)?;
        if let Some(out) = written {
            ui.line(&format!("{} ({seconds:.0} s)", out.display()))?;
        }
    }
    ensure!(outcome.onnx.is_some(), Refused);
    Ok(())
}

/// Why nothing was written, after the verdict has told the reason.
#[derive(Debug)]
pub(crate) struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("expected fewer bits to serve as well, found that float serves better; ship what `graft export` writes, or give --numbers")
    }
}

impl std::error::Error for Refused {}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Name of the device that measured, too.
    device: Option<String>,
    out: Option<&'a PathBuf>,
    seconds: f64,
}

/// The pictures, of which those for ranges and those for the price are not the same.
struct Sets {
    calibration: Vec<Sample>,
    /// All that may be learnt from.
    train: Dataset,
    test: Dataset,
    /// Whether both come from one set.
    is_one: bool,
}

impl Sets {
    fn open(args: &Args, data: &Path) -> Result<Self> {
        ensure!(args.calibration_pictures > 0, "expected at least one calibration picture, found 0");
        ensure!(
            (0.0..=100.0).contains(&args.budget_drop),
            "expected --budget-drop of 0 to 100 points, found {}",
            args.budget_drop
        );
        ensure!(
            args.budget_ms.is_none_or(|ms| ms > 0.0 && ms.is_finite()),
            "expected --budget-ms of more than 0 milliseconds, found {}",
            args.budget_ms.unwrap_or_default()
        );
        let columns = args.columns.wanted();
        let data = Dataset::open_as(data, None, &columns)?;
        let n = data.samples.len();
        if let Some(test) = &args.test {
            let calibration = Dataset::spread(&data.samples, args.calibration_pictures);
            return Ok(Self { calibration, train: data, test: Dataset::open_as(test, None, &columns)?, is_one: false });
        }
        // Half of them at most show ranges: the price must be told by others.
        let share = (args.calibration_pictures as f64 / n as f64).min(0.5);
        let (test, calibration) = data.split(share, 0);
        let train = data.part(calibration);
        Ok(Self { calibration: train.samples.clone(), train, test: data.part(test), is_one: true })
    }
}

fn report(ui: &Ui, report: &Report, is_one: bool) -> Result<()> {
    let Report { verdict, calibration: c, evaluation: e, layers } = report;
    for tried in &c.tried {
        let mark = if tried.kept { "*" } else { " " };
        let (noise, same) = (10.0 * tried.noise.log10(), 100.0 * tried.same);
        ui.line(&format!("{mark} {:32} noise {noise:6.1} dB, same answer {same:5.1} %", tried.what))?;
    }
    if let Some(cost) = c.pinned_cost {
        ui.line(&format!("  pinned parameters of this backbone cost {:.1} points against new ones", 100.0 * cost))?;
    }
    ui.line(&format!("  {:24} {}", "float", measured(&e.float)))?;
    for candidate in &e.candidates {
        ui.line(&format!("  {:24} {}{}", name(candidate), measured(&candidate.measured), differs(candidate, e.n)))?;
    }
    if let Some(last) = e.candidates.last() {
        for (label, change) in last.recall.iter().filter(|(_, change)| change.abs() >= 0.005) {
            ui.line(&format!("    {label:40} recall {:+.1} points", 100.0 * change))?;
        }
        for c in last.changed.iter().take(MOST_CHANGED) {
            ui.line(&format!("    {}: {} instead of {} (is {})", c.file, c.quantized, c.float, c.truth))?;
        }
        if last.changed.len() > MOST_CHANGED {
            ui.line(&format!("    and {} more; --json names all", last.changed.len() - MOST_CHANGED))?;
        }
    }
    rows(ui, layers, MOST_LAYERS)?;
    if is_one {
        ui.note("the pictures that tell the price are of the same set as those for the ranges, and perhaps of training; --test names others");
    }
    conclude(ui, verdict)
}

fn name(c: &Candidate) -> String {
    match c.kind {
        Kind::Float => "float".into(),
        Kind::Int8 if c.is_tuned => "int8, fine-tuned".into(),
        Kind::Int8 => "int8".into(),
        Kind::Mixed => format!("int8, {} in float", c.float_layers.len()),
        Kind::Weights => "8-bit weights".into(),
        Kind::Half => "16-bit weights".into(),
    }
}

fn measured(m: &Measured) -> String {
    let score = match m.interval {
        Some([low, high]) => format!("{:.1} % ({:.1} to {:.1})", 100.0 * m.score, 100.0 * low, 100.0 * high),
        None => format!("{:.3}", m.score),
    };
    let ece = m.ece.map_or(String::new(), |e| format!(", calibration error {:.1} %", 100.0 * e));
    let memory = m.memory.map_or(String::new(), |bytes| format!(", {:.1} MB of memory", bytes as f64 / 1e6));
    let board = match (&m.device, &m.refused) {
        (Some(d), _) => format!(" here, {} on the board", on_board(d)),
        (None, Some(_)) => " here, refused by the board".to_owned(),
        (None, None) => String::new(),
    };
    format!("{score}{ece}, {} bytes{memory}, {:.2} ms{board}", m.bytes, m.ms)
}

fn on_board(d: &OnDevice) -> String {
    let memory = d.memory.map_or(String::new(), |bytes| format!(" and {:.1} MB", bytes as f64 / 1e6));
    format!("{:.2} ms{memory}", d.ms)
}

/// Returns why the board may have been slower than it could be, if it said so.
fn slowness(report: &Report) -> Option<&str> {
    let e = &report.evaluation;
    let all = std::iter::once(&e.float).chain(e.candidates.iter().map(|c| &c.measured));
    all.filter_map(|m| m.device.as_ref()?.warning.as_deref()).next_back()
}

fn differs(c: &Candidate, n: usize) -> String {
    c.p_value.map_or(String::new(), |p| format!(", {} of {n} change class, p {p:.2}", c.changed.len()))
}

fn rows(ui: &Ui, layers: &[LayerReport], most: usize) -> Result<()> {
    ui.line(&format!(
        "  {:18} {:>18} {:>8} {:>8} {:>7} {:>8} {:>7} {:>7}",
        "layer, worst first", "reads", "weights", "largest", "share", "SNR", "ms", "ms int8"
    ))?;
    for l in layers.iter().take(most) {
        let range = format!("{:.2} to {:.2}", l.range[0], l.range[1]);
        let snr = l.snr_db.map_or("exact".into(), |s| format!("{s:.1} dB"));
        let [float, bytes] = l.ms.map_or([const { String::new() }; 2], |ms| ms.map(|ms| format!("{ms:.3}")));
        let mark = if l.is_float { ", float" } else { "" };
        ui.line(&format!(
            "  {:18} {range:>18} {:>8} {:>8.3} {:>5.1} % {snr:>8} {float:>7} {bytes:>7}",
            format!("{}{mark}", l.name),
            l.weights,
            l.largest_weight,
            100.0 * l.share
        ))?;
    }
    if layers.len() > most {
        ui.line(&format!("  and {} more; `graft quantize explain` shows all", layers.len() - most))?;
    }
    Ok(())
}

fn conclude(ui: &Ui, verdict: &Verdict) -> Result<()> {
    let ship = match verdict.ship {
        Kind::Float => "do not quantize",
        Kind::Int8 => "ship int8",
        Kind::Mixed => "ship mixed",
        Kind::Weights => "ship 8-bit weights",
        Kind::Half => "ship 16-bit weights",
    };
    ui.line(&format!("verdict   {ship}: {}", verdict.why))
}

fn tell(args: &Explain, ui: &Ui) -> Result<()> {
    let model = model_file::open(&args.onnx)?;
    let told = Explanation::of(model.metadata())?.with_context(|| {
        format!("expected a file that `graft quantize` wrote, found none of its marks in {}", args.onnx.display())
    })?;
    if args.json {
        return ui.json(&told);
    }
    let repairs: Vec<&str> = told.repairs.iter().map(|r| r.name()).collect();
    let repairs = if repairs.is_empty() { "none".to_owned() } else { repairs.join(", ") };
    ui.line(&format!("ranges    {}, repairs: {repairs}", told.method))?;
    if let Some(d) = &told.on_device {
        let (written, float, engine) = (on_board(&d.written), d.float.ms, &d.written.engine);
        ui.line(&format!("board     {written}, float {float:.2} ms ({engine})"))?;
    }
    rows(ui, &told.layers, usize::MAX)?;
    conclude(ui, &told.verdict)
}

/// Pictures that are named on a screen.
const MOST_CHANGED: usize = 12;
/// Layers that are told on a screen.
const MOST_LAYERS: usize = 8;
