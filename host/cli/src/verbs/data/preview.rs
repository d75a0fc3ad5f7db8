//! `graft data preview`: shows what training would see.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use graft_runtime::picture::preprocess;
use graft_train::augment::{Augmentation, Preset};
use graft_train::dataset::{Dataset, Ignored};
use graft_train::pictures;
use graft_train::rng::Rng;
use graft_train::run::write_atomic;
use graft_zoo::Preprocessing;
use serde::Serialize;

use crate::sheet::{Strip, draw, to_png};
use crate::ui::Ui;

/// Draw a sheet of pictures as training would see them
///
/// Each row is one picture, spread over the classes: first as it is after the centre crop, then varied views of it.
/// Look whether what tells the classes apart is still in the views, and whether a new photograph could look like them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Augmentations:
  none    the centre crop, always the same
  light   squares of 65 to 100 % of the shorter side, perhaps mirrored, in slightly other light
  field   for crops and leaves: wide crops, all eight orientations, other light, some blur; hue stays
  strong  RandAugment and random erasing, for many epochs on many pictures

Examples:
  graft data preview photos/ --out sheet.png
  graft data preview photos.zip --augment field --rows 15 --out sheet.png
  graft data preview labels.csv --split train --input 160 --seed 7 --out sheet.png")]
pub(crate) struct Args {
    /// A folder, .zip, .tar, COCO .json, or manifest of CSV or Parquet
    data: PathBuf,
    /// Of a set in parts (folders train and test, or a manifest's column `split`), only this part
    #[arg(long)]
    split: Option<String>,
    /// Augmentation
    #[arg(long, value_name = "PRESET", default_value = "light")]
    augment: Preset,
    /// Pictures
    #[arg(long, value_name = "N", default_value_t = 8)]
    rows: usize,
    /// Pictures across, the first of them unvaried
    #[arg(long, value_name = "N", default_value_t = 8)]
    columns: usize,
    /// Seed of the choice and of the views
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side of the network's input in pixels
    #[arg(long, value_name = "SIDE", default_value_t = 224)]
    input: u32,
    /// The sheet, a PNG file
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a PathBuf,
    augmentation: &'a Augmentation,
    seed: u64,
    input: u32,
    rows: Vec<Row<'a>>,
    skipped: Vec<Ignored>,
}

#[derive(Serialize)]
struct Row<'a> {
    label: &'a str,
    file: &'a str,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    ensure!(args.rows > 0 && args.columns > 0, "expected at least one row and one column, found none");
    ensure!((8..=MAX_INPUT).contains(&args.input), "expected --input of 8 to {MAX_INPUT}, found {}", args.input);
    let cells = args.rows.saturating_mul(args.columns);
    let most = MAX_SHEET / (args.input as usize).pow(2);
    ensure!(cells <= most, "expected at most {most} pictures of this size on a sheet, found {cells}; ask for fewer");
    let data = Dataset::open(&args.data, args.split.as_deref())?;
    let augmentation = Augmentation::from(args.augment);
    let preprocessing = Preprocessing::centre_crop(args.input, Preprocessing::UNIT);
    let mut skipped = Vec::new();
    let chosen = choose(&data, args.rows, args.seed, |index| {
        let sample = &data.samples[index];
        let picture = match pictures::open(sample) {
            Ok(picture) => picture,
            Err(error) => {
                skipped.push(Ignored { path: sample.location.path(), reason: format!("{error:#}") });
                return None;
            }
        };
        let view = |column| match column {
            0 => preprocess(&picture, &preprocessing),
            _ => augmentation.view(&picture, &preprocessing, &mut cell(args.seed, index, column)),
        };
        let caption = caption(&data.labels[sample.class], &sample.key);
        Some(Strip { caption, pictures: (0..args.columns).map(view).collect() })
    });
    ensure!(!chosen.is_empty(), "expected a picture that can be read in {}, found none", args.data.display());
    let (indices, strips): (Vec<usize>, Vec<Strip>) = chosen.into_iter().unzip();
    let sheet = draw(&strips, args.input);
    write_atomic(&args.out, &to_png(&sheet).with_context(|| format!("drawing {}", args.out.display()))?)?;
    let samples = indices.iter().map(|&i| &data.samples[i]);
    let rows = samples.map(|s| Row { label: &data.labels[s.class], file: &s.key }).collect();
    let report =
        Report { out: &args.out, augmentation: &augmentation, seed: args.seed, input: args.input, rows, skipped };
    if args.json {
        return ui.json(&report);
    }
    ui.skipped(report.skipped.iter().map(|i| (i.path.as_path(), i.reason.as_str())));
    for row in &report.rows {
        ui.line(&format!("{:24} {}", row.label, row.file))?;
    }
    ui.line(&format!("wrote {}", args.out.display()))
}

/// Names the class and the file; in an image folder the file's path does both.
fn caption(label: &str, key: &str) -> String {
    if key.strip_prefix(label).is_some_and(|k| k.starts_with('/')) {
        key.to_owned()
    } else {
        format!("{label} - {key}")
    }
}

/// Chooses up to `rows` pictures, as evenly over the classes as they allow, by seed and set alone; returns those of
/// which `take` makes something, in the order of their classes.
fn choose<T>(data: &Dataset, rows: usize, seed: u64, mut take: impl FnMut(usize) -> Option<T>) -> Vec<(usize, T)> {
    let mut classes: Vec<Vec<usize>> = vec![vec![]; data.labels.len()];
    for (index, sample) in data.samples.iter().enumerate() {
        classes[sample.class].push(index);
    }
    let mut rng = Rng::new(seed);
    classes.iter_mut().for_each(|c| rng.shuffle(c));
    classes.retain(|c| !c.is_empty());
    let mut chosen = Vec::new();
    while chosen.len() < rows && !classes.is_empty() {
        // With fewer rows left than classes, every so-manieth class is asked.
        let count = classes.len();
        let turn = count.min(rows - chosen.len());
        for place in 0..turn {
            if let Some((index, made)) = classes[place * count / turn].pop().and_then(|i| Some((i, take(i)?))) {
                chosen.push((index, made));
            }
        }
        classes.retain(|c| !c.is_empty());
    }
    chosen.sort_by_key(|(index, _)| (data.samples[*index].class, *index));
    chosen
}

/// Returns the generator of one view: another one in each cell, the same at each call.
fn cell(seed: u64, index: usize, column: usize) -> Rng {
    Rng::new(seed ^ (column as u64).rotate_left(40) ^ (index as u64).rotate_left(8))
}

const MAX_INPUT: u32 = 1024;
/// Most pixels of a sheet.
const MAX_SHEET: usize = 40_000_000;

#[cfg(test)]
mod tests {
    use graft_train::dataset::{Location, Sample, Task};

    use super::*;

    fn set(counts: &[usize]) -> Dataset {
        let labels = (0..counts.len()).map(|c| format!("{c:02}")).collect();
        let samples = counts.iter().enumerate().flat_map(|(class, &n)| {
            (0..n).map(move |i| {
                let key = format!("{class:02}/{i:03}.png");
                Sample { location: Location::File(key.clone().into()), key, class, values: vec![], group: None }
            })
        });
        Dataset { task: Task::Classes, labels, samples: samples.collect(), ignored: vec![] }
    }

    fn classes(data: &Dataset, rows: usize, seed: u64) -> Vec<usize> {
        choose(data, rows, seed, Some).iter().map(|(i, _)| data.samples[*i].class).collect()
    }

    #[test]
    fn rows_are_spread_over_the_classes() {
        assert_eq!(classes(&set(&[9; 3]), 7, 0).len(), 7);
        assert_eq!(classes(&set(&[9; 3]), 6, 0), [0, 0, 1, 1, 2, 2]);
        assert_eq!(classes(&set(&[9; 9]), 3, 0), [0, 3, 6]);
        assert_eq!(classes(&set(&[1, 9]), 4, 0), [0, 1, 1, 1]);
        assert_eq!(classes(&set(&[1, 1]), 40, 0), [0, 1]);
    }

    #[test]
    fn the_choice_follows_from_the_seed_and_passes_over_what_cannot_be_read() {
        let data = set(&[20; 4]);
        let names =
            |seed| choose(&data, 8, seed, |i| (i != 3).then_some(i)).into_iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
        assert!((0..50).all(|seed| names(seed).len() == 8 && !names(seed).contains(&3)));
    }
}
