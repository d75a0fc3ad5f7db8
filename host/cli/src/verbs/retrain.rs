//! `graft retrain`: fits a run's head anew, on its old pictures and those that came back from the field.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graft_train::dataset::{Dataset, Task};
use graft_train::pictures::OnBad;
use graft_train::retrain::{Comparison, Places, Plan, Pool, Report, Retrained, Stage, retrain};
use graft_train::run::{Run, write_atomic};
use serde::Serialize;

use super::threads::Threads;
use super::train::cache_folder;
use crate::ui::{Ui, moves};

/// Fit a run's head anew, on its old pictures and on labelled ones from the field
///
/// The backbone stays as it is, so that a device needs the head alone, and the features of the old pictures come from the
/// cache. What a picture of the field counts against an old one, and how strong the penalty is, is chosen by
/// cross-validation on pictures of the field. Of these about --held-out are kept back, whole groups (a site, a day) where
/// there are several, and old and new model answer them in the engine that ships. Where the new one is worse beyond the
/// 95 % interval, nothing is written and the exit code is 4.
///
/// The new run remembers what it has learnt from: a further `graft retrain` of it brings those pictures along, and holds out
/// none of them. In its folder held-out.csv lists the pictures that were held out: the calibration pictures of `graft pack`.
/// Labels that the old head did not have are added behind the old ones.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft retrain runs/leaves --add field/ --out runs/leaves-2
  graft retrain runs/leaves --add field/ --add bought/ --test kept/ --out runs/leaves-2 --json
  graft quantize runs/leaves-2 --data photos/train --out leaves-2.onnx
  graft pack leaves-2.onnx --key field.key --golden photos/test --calibrate runs/leaves-2/held-out.csv --out leaves-2.graft")]
pub(crate) struct Args {
    /// The run to go on from
    run: PathBuf,
    /// Labelled pictures of the field: a folder of `graft label`, or any data set; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    add: Vec<PathBuf>,
    /// The pictures that the run learnt from, where they are no longer where they were
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Labelled pictures of the field to compare old and new on, instead of keeping some of --add back
    #[arg(long, value_name = "DIR", conflicts_with = "held_out")]
    test: Option<PathBuf>,
    /// Labelled pictures of the old kind that were not learnt from, to see what is forgotten
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// How many of 100 new pictures of the field are kept back to compare on
    #[arg(long, value_name = "PERCENT", default_value_t = 30.0)]
    held_out: f64,
    /// Seed of what is kept back
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the run even where it is worse
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    threads: Threads,
    /// Stop at the first picture that cannot be read, instead of leaving it out
    #[arg(long)]
    strict: bool,
    /// Folder of the new run
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The pictures that were held out, in the run's folder.
const HELD_OUT: &str = "held-out.csv";

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    args.threads.start()?;
    ensure!((0.0..=90.0).contains(&args.held_out), "expected --held-out of 0 to 90 percent, found {}", args.held_out);
    let old = Run::open(&args.run)?;
    let places = Places {
        data: args.data.as_deref(),
        add: &args.add,
        test: args.test.as_deref(),
        share: args.held_out / 100.0,
        seed: args.seed,
    };
    let pool = Pool::open(&old, &places)?;
    let columns = old.record.columns();
    let before = args.before.as_deref().map(|path| Dataset::open_as(path, None, &columns)).transpose()?;
    let plan = Plan {
        run: &old,
        pool: &pool,
        before: before.as_ref(),
        cache: &cache_folder()?,
        on_bad: if args.strict { OnBad::Fail } else { OnBad::Skip },
    };
    let bar = ui.bar("features");
    let Retrained { run, report, skipped } = retrain(&plan, &ui.stop, |stage, done, of| {
        bar.set_message(match stage {
            Stage::Features => "features",
            Stage::Head => "head",
            Stage::Comparing => "comparing",
        });
        moves(&bar)(done, of);
    })?;
    bar.finish_and_clear();
    ui.skipped(pool.unread.iter().chain(&skipped).map(|i| (i.path.as_path(), i.reason.as_str())));
    let is_refused = report.is_worse() && !args.force;
    if !is_refused {
        run.save(&args.out)?;
        let path = args.out.join(HELD_OUT);
        write_atomic(&path, &manifest(&pool.held_out)?)?;
    }
    let out = (!is_refused).then_some(&args.out);
    if args.json {
        ui.json(&Told { report: &report, out })?;
    } else {
        tell(ui, &report, old.record.task)?;
        if let Some(out) = out {
            ui.line(&format!("run       {}", out.display()))?;
        }
    }
    ensure!(!is_refused, Worse);
    Ok(())
}

/// Why nothing was written.
#[derive(Debug)]
pub(crate) struct Worse;

impl std::fmt::Display for Worse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("expected a head that is no worse than the old one on the field's pictures, found one that is; look at the labels (`graft data check`), or give --force")
    }
}

impl std::error::Error for Worse {}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    out: Option<&'a PathBuf>,
}

/// Writes the CSV manifest of a set, with absolute paths.
fn manifest(data: &Dataset) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(vec![]);
    let columns: Vec<&str> = match data.task {
        Task::Classes => vec!["label"],
        Task::Tags | Task::Values => data.labels.iter().map(String::as_str).collect(),
    };
    writer.write_record(["file", "group"].into_iter().chain(columns))?;
    for sample in &data.samples {
        let path = std::path::absolute(sample.location.path()).context("finding the working folder")?;
        let path = path.to_str().with_context(|| format!("expected a path in UTF-8, found {}", path.display()))?;
        let told = match data.task {
            Task::Classes => vec![data.labels[sample.class].clone()],
            Task::Tags | Task::Values => sample.values.iter().map(f32::to_string).collect(),
        };
        let group = sample.group.clone().unwrap_or_default();
        writer.write_record([path.to_owned(), group].into_iter().chain(told))?;
    }
    writer.into_inner().map_err(|e| anyhow::anyhow!("writing {HELD_OUT}: {e}"))
}

fn tell(ui: &Ui, report: &Report, task: Task) -> Result<()> {
    let r = report;
    ui.line(&format!(
        "learnt    {} pictures of the field, {} old ones ({} features from the cache, {:.1} s)",
        r.field, r.old, r.cached, r.features_seconds
    ))?;
    if !r.new_labels.is_empty() {
        ui.line(&format!("new       {}", r.new_labels.join(", ")))?;
    }
    let why = match r.tried.iter().find(|t| t.times == r.times && t.strength == r.strength) {
        Some(t) => format!("cross-validated on the field {}", scored(task, t.score)),
        None => "too few pictures of the field to choose by".to_owned(),
    };
    ui.line(&format!(
        "head      {:.1} s, C = {}, a picture of the field counts as {}; {why}",
        r.head_seconds, r.strength, r.times
    ))?;
    let groups =
        if r.held_out.groups.is_empty() { String::new() } else { format!(": {}", r.held_out.groups.join(", ")) };
    if let Some(compared) = &r.compared {
        ui.line(&format!("held out  {}, of {} pictures{groups}", difference(task, compared), compared.n))?;
    } else {
        ui.note("no picture of the field was held out, so nothing tells whether the new head is better");
    }
    for doubt in &r.held_out.doubts {
        ui.note(&format!("note: {doubt}"));
    }
    if let Some(before) = &r.before {
        ui.line(&format!("before    {}, of {} pictures of the old kind", difference(task, before), before.n))?;
    }
    Ok(())
}

fn scored(task: Task, score: f64) -> String {
    match task {
        Task::Classes => format!("{:.1} % right", 100.0 * score),
        Task::Tags => format!("{score:.3}"),
        Task::Values => format!("R2 {score:.3}"),
    }
}

/// Says how old and new differ.
fn difference(task: Task, c: &Comparison) -> String {
    let (old, new) = (scored(task, c.old.score), scored(task, c.new.score));
    let [low, high] = c.interval;
    let error = match task {
        // More wrong answers are fewer right ones.
        Task::Classes => {
            format!("{:+.1} points (95 % {:+.1} to {:+.1})", -100.0 * c.more_error, -100.0 * high, -100.0 * low)
        }
        Task::Tags => {
            format!("wrong tags {:+.1} % (95 % {:+.1} to {:+.1})", 100.0 * c.more_error, 100.0 * low, 100.0 * high)
        }
        Task::Values => format!("error {:+.3} (95 % {low:+.3} to {high:+.3})", c.more_error),
    };
    let p = c.p_value.map_or(String::new(), |p| format!(", p {p:.2}"));
    format!("{new} instead of {old}, {error}{p}")
}
