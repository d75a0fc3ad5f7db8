//! `graft map`: finds hot spots in pictures that are larger than what a network sees.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail, ensure};
use graft_runtime::Standing;
use graft_tiles::Answer;
use graft_tiles::verb::{Arguments, Subject, Teller, map};
use graft_train::dataset::Task;
use image::RgbImage;
use indicatif::ProgressBar;

use super::predict::sigmoid;
use crate::model_file;
use crate::ui::{Ui, moves};

/// Look at large pictures in tiles, and map what is found
///
/// Rows are read as they are needed, and a picture never is in memory as a whole. Tiles overlap, and all of each is looked at; where
/// they overlap, the mean of their answers counts. Cells of a class that are at least as probable as --above, and hang together, are
/// a hot spot. Tiles that a calibrated bundle knows nothing of are counted as unfamiliar and are no spots.
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
    #[command(flatten)]
    arguments: Arguments,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let model = model_file::open(&args.model)?;
    let task = Task::of(model.metadata())?;
    ensure!(task != Task::Values, "expected a model of classes or tags, found one of values, of which none is hot");
    let look = |tile: &RgbImage| {
        let found = model.classify_tile(tile).map_err(|e| e.to_string())?;
        let probabilities = match task {
            Task::Tags => found.logits.iter().map(|z| sigmoid(*z)).collect(),
            _ => found.probabilities,
        };
        Ok(Answer { probabilities, is_unfamiliar: found.standing == Standing::Unfamiliar })
    };
    let subject = Subject {
        labels: model.labels(),
        side: model.preprocessing().crop,
        sure: model.decision().and_then(|d| d.sure).map(|s| s.at_least),
        is_one_of_all: task == Task::Classes,
        look: &look,
    };
    let outcome = map(&args.arguments, &subject, &mut Shown { ui, bar: None })?;
    if args.arguments.json {
        ui.json(&outcome.summary)?;
    }
    match outcome.failure(&args.arguments) {
        Some(failure) => bail!(failure),
        None => Ok(()),
    }
}

/// The terminal, with a bar for the picture that is looked at.
struct Shown<'a> {
    ui: &'a Ui,
    bar: Option<ProgressBar>,
}

impl Teller for Shown<'_> {
    fn progress(&mut self, picture: &str, done: usize, of: usize) -> ControlFlow<()> {
        moves(self.bar.get_or_insert_with(|| self.ui.bar(picture)))(done, of);
        if self.ui.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, text: &str) {
        // A closed pipe has seen enough.
        let _ = self.ui.line(text);
    }

    fn note(&mut self, text: &str) {
        self.ui.note(text);
    }
}
