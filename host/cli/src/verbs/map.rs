//! `graft map`: finds hot spots in pictures that are larger than what a network sees.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use graft_runtime::{Model, Standing};
use graft_tiles::{Answer, Atlas, Chart, Choice, Given, Source, Survey, TilesError, Tiling, survey};
use graft_train::dataset::Task;
use image::RgbImage;

use crate::model_file;
use crate::ui::{Ui, moves};

/// Look at large pictures in tiles, and map what is found
///
/// Takes photographs and maps (JPEG, PNG, TIFF, BigTIFF, GeoTIFF) of any height: rows are read as they are needed, and a picture
/// never is in memory as a whole. Tiles overlap, and all of each is looked at; where tiles overlap, the mean of their answers
/// counts. Cells of a class that are at least as probable as --above, and hang together, are a hot spot. Tiles that the model knows
/// nothing of (calibrated bundles) are counted as unfamiliar and are no spots.
///
/// DIR gets a map for each picture (NAME.png), and of all of them spots.geojson, spots.csv and summary.json. Positions are those of a
/// GeoTIFF (degrees, UTM, web Mercator), or of a photograph's GPS: of each spot by height, focal length and direction where a drone
/// has written these, or by --gsd and --heading; else all spots of a photograph have its position, and that is said.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft map leaves.graft field/*.JPG --out maps --class rust
  graft map runs/weeds orthophoto.tif --out maps --tile 448 --except crop --except soil
  graft map leaves.onnx DJI_0042.JPG --out maps --above 0.8 --gsd 0.012 --heading 95 --json")]
pub(crate) struct Args {
    /// A run folder, an .onnx file or a bundle
    model: PathBuf,
    /// Pictures
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Folder for the maps and lists
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of a tile in pixels of the picture [default: what the network sees, pixel for pixel]
    #[arg(long, value_name = "PX")]
    tile: Option<u32>,
    /// Share of a tile's side by which it overlaps the next, 0 to 0.9
    #[arg(long, default_value_t = 0.25, value_name = "SHARE")]
    overlap: f64,
    /// A class to look for; may be repeated [default: all]
    #[arg(long, value_name = "LABEL")]
    class: Vec<String>,
    /// A class to leave out; may be repeated
    #[arg(long, value_name = "LABEL")]
    except: Vec<String>,
    /// From which probability on a cell is hot [default: where the bundle is sure of its answer, else 0.5]
    #[arg(long, value_name = "P")]
    above: Option<f32>,
    /// Metres of ground that a pixel of a photograph covers
    #[arg(long, value_name = "METRES", value_parser = positive)]
    gsd: Option<f64>,
    /// Direction of a photograph's upper edge, clockwise from north
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true, value_parser = finite)]
    heading: Option<f64>,
    /// Tiles that are looked at at the same time [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let task = Task::of(model.metadata())?;
    ensure!(task != Task::Values, "expected a model of classes or tags, found one of values, of which none is hot");
    ensure!(!model.labels().is_empty(), "expected a model with a classifier, found one without labels");
    let sure = model.decision().and_then(|d| d.sure).map(|s| s.at_least);
    let above = args.above.or(sure).unwrap_or(0.5);
    let choice = Choice::new(model.labels(), &args.class, &args.except, above)?;
    if args.class.is_empty() && args.except.is_empty() && task == Task::Classes {
        ui.note("looking for every class; --class and --except choose");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tiling = Tiling {
        side: args.tile.unwrap_or(model.preprocessing().crop),
        overlap: args.overlap,
        threads: args.threads.unwrap_or(cores).max(1),
    };
    let mut atlas = Atlas::new(&args.out, choice)?;
    let mut bad = 0;
    for path in &args.pictures {
        match one(&model, task, tiling, path, ui) {
            Ok((source, found)) => {
                let given = Given { gsd: args.gsd, heading: args.heading };
                let chart = atlas.add(path, source.facts(), &found, given)?;
                if !args.json {
                    told(chart, model.labels(), &args.out, ui)?;
                }
            }
            Err(TilesError::Stopped) => break,
            Err(error) => {
                bad += 1;
                ui.note(&format!("{}: {:#}", path.display(), anyhow::Error::from(error)));
            }
        }
    }
    let summary = atlas.finish()?;
    if args.json {
        ui.json(&summary)?;
    }
    let (done, of) = (atlas.charts().len(), args.pictures.len());
    if ui.stop.load(Ordering::Relaxed) {
        bail!("stopped; {} has the {done} of {of} pictures that were done", args.out.display());
    }
    ensure!(bad == 0, "expected {of} pictures that can be read, found {bad} that cannot");
    Ok(())
}

fn one(model: &Model, task: Task, tiling: Tiling, path: &Path, ui: &Ui) -> Result<(Source, Survey), TilesError> {
    let mut source = Source::open(path)?;
    let look = |tile: &RgbImage| {
        let found = model.classify_tile(tile).map_err(|e| e.to_string())?;
        let probabilities = match task {
            Task::Tags => found.logits.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
            _ => found.probabilities,
        };
        Ok(Answer { probabilities, is_unfamiliar: found.standing == Standing::Unfamiliar })
    };
    let bar = ui.bar(&path.file_name().unwrap_or_default().to_string_lossy());
    let moves = moves(&bar);
    let found = survey(&mut source, tiling, model.labels().len(), &look, &mut |done, of| {
        moves(done, of);
        if ui.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    found.map(|found| (source, found))
}

/// Tells of a picture.
fn told(chart: &Chart, labels: &[String], out: &Path, ui: &Ui) -> Result<()> {
    let count = |class: usize| chart.spots.iter().filter(|s| s.class == class).count();
    let each: Vec<String> = (0..labels.len())
        .filter(|class| count(*class) > 0)
        .map(|class| format!("{} {}", count(class), labels[class]))
        .collect();
    let spots = match chart.spots.len() {
        0 => "no hot spot".to_owned(),
        1 => format!("1 hot spot: {}", each.join(", ")),
        n => format!("{n} hot spots: {}", each.join(", ")),
    };
    let apart = match (chart.unfamiliar, chart.empty) {
        (0, 0) => String::new(),
        (unfamiliar, empty) => format!(" ({unfamiliar} unfamiliar, {empty} empty)"),
    };
    let Chart { picture, width, height, tiles, tile, seconds, .. } = chart;
    ui.line(&format!("{}  {width}x{height}, {tiles} tiles of {tile}{apart}, {seconds:.1} s", picture.display()))?;
    ui.line(&format!("  {spots}"))?;
    ui.line(&format!("  {}", chart.place.told()))?;
    ui.line(&format!("  {}", out.join(&chart.map).display()))
}

fn positive(text: &str) -> Result<f64, String> {
    finite(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("expected metres above 0".into()) })
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).context("expected a number").map_err(|e| e.to_string())
}
