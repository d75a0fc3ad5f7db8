//! The command that maps pictures, of `graft` and `graftd` alike: its arguments, and what is done with them.
//!
//! Knows no engine and no terminal: what looks at tiles is a [`Subject`], what a person sees goes to a [`Teller`].

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use crate::survey::Survey;
use crate::{Answer, Atlas, Chart, Choice, Given, Source, TilesError, Tiling, survey};

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Pictures: JPEG, PNG, TIFF, BigTIFF, GeoTIFF
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
    /// Folder for the maps and lists
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Side of a tile in pixels of the picture [default: what the network sees, pixel for pixel]
    #[arg(long, value_name = "PX")]
    pub tile: Option<u32>,
    /// Share of a tile's side by which it overlaps the next, 0 to 0.9
    #[arg(long, default_value_t = 0.25, value_name = "SHARE")]
    pub overlap: f64,
    /// A class to look for; may be repeated [default: all]
    #[arg(long, value_name = "LABEL")]
    pub class: Vec<String>,
    /// A class to leave out; may be repeated
    #[arg(long, value_name = "LABEL")]
    pub except: Vec<String>,
    /// From which probability on a cell is hot [default: where the bundle is sure of its answer, else 0.5]
    #[arg(long, value_name = "P")]
    pub above: Option<f32>,
    /// Metres of ground that a pixel of a photograph covers
    #[arg(long, value_name = "METRES", value_parser = positive)]
    pub gsd: Option<f64>,
    /// Direction of a photograph's upper edge, clockwise from north
    #[arg(long, value_name = "DEGREES", allow_negative_numbers = true, value_parser = finite)]
    pub heading: Option<f64>,
    /// Tiles that are looked at at the same time [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// What looks at tiles.
pub struct Subject<'a> {
    /// Labels of its classes.
    pub labels: &'a [String],
    /// Pixels of a side of what it sees.
    pub side: u32,
    /// From which probability on it is sure, where it was calibrated.
    pub sure: Option<f32>,
    /// Whether a picture has one class, so that of all some class is always probable.
    pub is_one_of_all: bool,
    /// Tells what a tile is.
    pub look: &'a (dyn Fn(&RgbImage) -> Result<Answer, String> + Sync),
}

/// What a person sees.
pub trait Teller {
    /// Tiles of a picture are done; may end all.
    fn progress(&mut self, picture: &str, done: usize, of: usize) -> ControlFlow<()>;
    /// A picture is at its end.
    fn end(&mut self);
    /// A line of the result.
    fn line(&mut self, text: &str);
    /// Something to know besides.
    fn note(&mut self, text: &str);
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What `summary.json` has.
    pub summary: Value,
    /// Pictures that were done.
    pub done: usize,
    /// Pictures that could not be.
    pub bad: usize,
    /// Whether it was asked to stop.
    pub is_stopped: bool,
}

impl Outcome {
    /// Says what is to be said of pictures that are not done; none where all are.
    pub fn failure(&self, arguments: &Arguments) -> Option<String> {
        let of = arguments.pictures.len();
        match (self.is_stopped, self.bad) {
            (true, _) => {
                Some(format!("stopped; {} has the {} of {of} that were done", arguments.out.display(), self.done))
            }
            (false, 0) => None,
            (false, bad) => Some(format!("expected {of} pictures that can be read, found {bad} that cannot")),
        }
    }
}

/// Maps pictures. One that cannot be read is told of, and the others go on.
///
/// # Errors
///
/// Those of [`Choice::new`], and [`TilesError::Write`].
pub fn map(arguments: &Arguments, subject: &Subject<'_>, teller: &mut dyn Teller) -> Result<Outcome, TilesError> {
    if subject.labels.is_empty() {
        let (expected, found) = ("a model with a classifier".into(), "one without labels".into());
        return Err(TilesError::Setting { expected, found });
    }
    let above = arguments.above.or(subject.sure).unwrap_or(0.5);
    let choice = Choice::new(subject.labels, &arguments.class, &arguments.except, above)?;
    if subject.is_one_of_all && choice.classes.len() == subject.labels.len() {
        teller.note("looking for every class; --class and --except choose");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tiling = Tiling {
        side: arguments.tile.unwrap_or(subject.side),
        overlap: arguments.overlap,
        threads: arguments.threads.unwrap_or(cores).max(1),
    };
    let given = Given { gsd: arguments.gsd, heading: arguments.heading };
    let mut atlas = Atlas::new(&arguments.out, choice)?;
    let (mut bad, mut is_stopped) = (0, false);
    for path in &arguments.pictures {
        match one(path, tiling, subject, teller) {
            Ok((source, found)) => {
                let chart = atlas.add(path, source.facts(), &found, given)?;
                if !arguments.json {
                    tell(chart, subject.labels, &arguments.out, teller);
                }
            }
            Err(TilesError::Stopped) => {
                is_stopped = true;
                break;
            }
            Err(error) => {
                bad += 1;
                let cause = std::error::Error::source(&error).map_or(String::new(), |c| format!(": {c}"));
                teller.note(&format!("{}: {error}{cause}", path.display()));
            }
        }
    }
    Ok(Outcome { summary: atlas.finish()?, done: atlas.charts().len(), bad, is_stopped })
}

fn one(
    path: &Path,
    tiling: Tiling,
    subject: &Subject<'_>,
    teller: &mut dyn Teller,
) -> Result<(Source, Survey), TilesError> {
    let mut source = Source::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let classes = subject.labels.len();
    let found = survey(&mut source, tiling, classes, subject.look, &mut |done, of| teller.progress(&name, done, of));
    teller.end();
    found.map(|found| (source, found))
}

/// Tells of a picture.
fn tell(chart: &Chart, labels: &[String], out: &Path, teller: &mut dyn Teller) {
    let count = |class: usize| chart.spots.iter().filter(|s| s.class == class).count();
    let each = labels.iter().enumerate().map(|(class, label)| (count(class), label)).filter(|(count, _)| *count > 0);
    let each: Vec<String> = each.map(|(count, label)| format!("{count} {label}")).collect();
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
    teller.line(&format!("{}  {width}x{height}, {tiles} tiles of {tile}{apart}, {seconds:.1} s", picture.display()));
    teller.line(&format!("  {spots}"));
    teller.line(&format!("  {}", chart.place.told()));
    teller.line(&format!("  {}", out.join(&chart.map).display()));
}

fn positive(text: &str) -> Result<f64, String> {
    finite(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("expected metres above 0".into()) })
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).ok_or_else(|| "expected a number".into())
}

#[cfg(test)]
mod tests;
