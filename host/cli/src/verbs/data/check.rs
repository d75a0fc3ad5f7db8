//! `graft data check`: reads every picture of a set and says what is wrong with it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use graft_train::audit::{Copies, Counted, Findings, Flaw, Lens, Part, Stage, audit};
use graft_train::dataset::Dataset;
use graft_train::pictures;
use graft_train::run::write_atomic;
use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::sheet::{Strip, draw, to_png};
use crate::ui::{Ui, moves};
use crate::verbs::train::{Backbone, Columns, cache_folder};

/// Say what is in a set, and what is wrong with it
///
/// DATA is a folder with one folder for each class, a .zip or .tar of one (read in place), a manifest of CSV or Parquet with columns
/// file and label, or a COCO .json whose pictures each have annotations of one category. `graft train` takes the same. A set
/// in parts (folders train and test, or a column `split`) is looked at with all its parts, and several sets are compared as
/// parts of one.
///
/// Told are: pictures that cannot be read; the same photograph twice, byte by byte or encoded anew, resized, made lighter,
/// mirrored, turned by 90 degrees or cropped by a tenth or so, and whether it lies in several parts (a leak: what is tested
/// was trained on) or has several labels; pictures that are blurred, dark, overexposed or flat; pictures of which 8 of their
/// 10 nearest neighbours in feature space have one other label; classes of uneven size; groups (column `group`) in several
/// parts. Photographs of one leaf that differ are not the same photograph: only groups can keep those together.
///
/// Neighbours are told by the small backbone inside graft, which is good for crops; for labels a better one by --model and
/// --weights is worth its time. Features are kept in the cache. Nothing of DATA is changed. How all this is found, and how well:
/// docs/data-check.md. About 12 KB of memory are needed for each picture with neighbours, 3 KB without.
///
/// The exit code is 0 whatever was found; with --strict 1 where pictures cannot be used or have several labels, or where
/// pictures or groups lie in several parts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  graft data check photos/
  graft data check photos/train photos/test
  graft data check labels.csv --strict
  graft data check photos.zip --split train --no-neighbours
  graft data check photos/ --model mobilenet_v2 --weights w.safetensors --json
  graft data check photos/ --sheet copies.png")]
pub(crate) struct Args {
    /// Folders, .zip, .tar, COCO .json, or manifests of CSV or Parquet
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Of a set in parts (folders train and test, or a manifest's column `split`), only this part
    #[arg(long)]
    split: Option<String>,
    #[command(flatten)]
    columns: Columns,
    /// Backbone that tells neighbours: architecture, or an id from `graft model list` [default: graft-tiny]
    #[arg(long)]
    model: Option<String>,
    /// Pretrained weights of it: .safetensors or a PyTorch .pth
    #[arg(long, requires = "model")]
    weights: Option<PathBuf>,
    /// Look for no neighbours: faster, but crops and doubtful labels are not found
    #[arg(long, conflicts_with_all = ["model", "weights"])]
    no_neighbours: bool,
    /// Draw what is there several times on a sheet, a PNG file
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Exit with 1 if the set is not to be trained on as it is
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let parts = parts(args)?;
    let backbone = Backbone::named(args.model.as_deref().unwrap_or("graft-tiny"), args.weights.clone());
    let pretrained = (!args.no_neighbours).then(|| backbone.pretrained(None, 0)).transpose()?;
    let cache = cache_folder()?;
    let lens = pretrained.as_ref().map(|pretrained| Lens { pretrained, cache: &cache });
    let bar = ui.bar("reading pictures");
    let found = audit(&parts, lens, &ui.stop, &|stage, done, of| {
        bar.set_message(match stage {
            Stage::Reading => "reading pictures",
            Stage::Features => "features",
            Stage::Comparing => "comparing",
            Stage::Verifying => "verifying copies",
        });
        moves(&bar)(done, of);
    })?;
    bar.finish_and_clear();
    if let Some(path) = &args.sheet {
        draw_copies(path, &found, &parts)?;
    }
    if args.json {
        ui.json(&found)?;
    } else {
        report(ui, &found)?;
    }
    let faults = found.faults();
    if args.strict && !faults.is_empty() {
        bail!("expected a set to be trained on as it is, found {}", faults.join(", "));
    }
    Ok(())
}

/// Opens the sets, each in its parts.
fn parts(args: &Args) -> Result<Vec<Part>> {
    let columns = args.columns.wanted();
    let mut parts = Vec::new();
    for (path, short) in args.data.iter().zip(short_names(&args.data)) {
        let several = args.data.len() > 1;
        let mut add = |split: Option<&str>| -> Result<()> {
            let data = Dataset::open_as(path, split, &columns)?;
            let name = match split {
                Some(split) if several => format!("{short}/{split}"),
                Some(split) => split.to_owned(),
                None => short.clone(),
            };
            parts.push(Part { name, data });
            Ok(())
        };
        match &args.split {
            Some(split) => add(Some(split))?,
            None => {
                let splits = Dataset::parts(path)?;
                match &splits[..] {
                    [] => add(None)?,
                    splits => splits.iter().try_for_each(|s| add(Some(s)))?,
                }
            }
        }
    }
    let tasks = parts.iter().all(|p| p.data.task == parts[0].data.task);
    ensure!(tasks, "expected sets of one kind, found several");
    Ok(parts)
}

/// Names each path by its end, as far as that tells it from the others.
fn short_names(paths: &[PathBuf]) -> Vec<String> {
    let end = |path: &Path, count: usize| {
        let names: Vec<String> = path.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        names[names.len().saturating_sub(count)..].join("/")
    };
    let one = |path: &PathBuf| {
        let others = || paths.iter().filter(|other| *other != path);
        let count = (1..=path.components().count()).find(|&n| others().all(|other| end(other, n) != end(path, n)));
        end(path, count.unwrap_or(usize::MAX))
    };
    paths.iter().map(one).collect()
}

/// Tells whether copies are of a kind.
type IsSuch = fn(&Copies) -> bool;

fn report(ui: &Ui, found: &Findings) -> Result<()> {
    counts(ui, &found.parts)?;
    ui.line(&format!("{:6} pictures, {} usable", found.n, found.usable))?;
    for i in found.unusable.iter().chain(&found.ignored) {
        ui.line(&format!("left out {}: {}", i.path.display(), i.reason))?;
    }
    let kinds: [(&str, IsSuch); 4] = [
        ("in several parts (leaks)", |c| c.is_leak),
        ("with several labels", |c| c.is_contradictory && !c.is_leak),
        ("there several times, byte by byte", |c| c.is_exact && !c.is_contradictory && !c.is_leak),
        ("there several times, not byte by byte", |c| !c.is_exact && !c.is_contradictory && !c.is_leak),
    ];
    for (what, is_such) in kinds {
        let such: Vec<&Copies> = found.copies.iter().filter(|c| is_such(c)).collect();
        if such.is_empty() {
            continue;
        }
        ui.line(&format!("{:6} photographs {what}", such.len()))?;
        for copies in such.iter().take(MOST) {
            copy(ui, copies)?;
        }
        more(ui, such.len())?;
    }
    for (flaw, what) in [
        (Flaw::Blurred, "blurred"),
        (Flaw::Dark, "dark"),
        (Flaw::Overexposed, "overexposed"),
        (Flaw::Flat, "flat: nearly one grey all over"),
    ] {
        let such: Vec<_> = found.flawed.iter().filter(|f| f.flaws.contains(&flaw)).collect();
        if such.is_empty() {
            continue;
        }
        ui.line(&format!("{:6} pictures {what}", such.len()))?;
        for f in such.iter().take(MOST) {
            let blur = f.quality.blur.map_or(String::new(), |b| format!("blur {b:.2}, "));
            let (low, high) = (f.quality.darkest, f.quality.lightest);
            ui.line(&format!("         {} ({blur}grey {low:.0} to {high:.0})", f.picture.file.display()))?;
        }
        more(ui, such.len())?;
    }
    if !found.doubtful.is_empty() {
        ui.line(&format!(
            "{:6} labels that neighbours contradict: look at them, they may well be right",
            found.doubtful.len()
        ))?;
        for d in found.doubtful.iter().take(MOST) {
            let label = d.picture.label.as_deref().unwrap_or_default();
            let (file, votes, of, other) = (d.picture.file.display(), d.votes, d.of, &d.neighbours);
            ui.line(&format!("         {file} is {label}; {votes} of {of} neighbours are {other}"))?;
        }
        more(ui, found.doubtful.len())?;
    }
    if !found.divided.is_empty() {
        ui.line(&format!("{:6} groups in several parts (leaks)", found.divided.len()))?;
        for d in found.divided.iter().take(MOST) {
            let parts: Vec<String> = d.parts.iter().map(|(part, n)| format!("{n} in {part}")).collect();
            ui.line(&format!("         {}: {}", d.group, parts.join(", ")))?;
        }
        more(ui, found.divided.len())?;
    }
    for why in &found.left_out {
        ui.note(&format!("not looked for: {why}"));
    }
    Ok(())
}

/// Pictures of each class, a column a part.
fn counts(ui: &Ui, parts: &[Counted]) -> Result<()> {
    if parts.len() > 1 {
        let names: String = parts.iter().map(|p| format!("{:>8.8}", p.name)).collect();
        ui.line(&format!("{names} class"))?;
    }
    let mut labels: Vec<&str> = parts.iter().flat_map(|p| &p.classes).map(|c| c.label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    let width = if parts.len() > 1 { 8 } else { 6 };
    for label in labels {
        let count = |p: &Counted| p.classes.iter().find(|c| c.label == label).map_or(0, |c| c.n);
        let counts: String = parts.iter().map(|p| format!("{:>width$}", count(p))).collect();
        ui.line(&format!("{counts} {label}"))?;
    }
    for part in parts {
        let Some(imbalance) = part.imbalance.filter(|i| *i > UNEVEN) else { continue };
        ui.line(&format!("       {}: the largest class has {imbalance:.1} times the pictures of the smallest; `graft train --balance` weighs them alike", part.name))?;
    }
    Ok(())
}

fn copy(ui: &Ui, copies: &Copies) -> Result<()> {
    let likeness = if copies.is_exact { "same bytes".to_owned() } else { format!("alike {:.2}", copies.likeness) };
    let (first, rest) = copies.pictures.split_first().context("expected a picture that is there several times")?;
    ui.line(&format!("         {likeness:>10}  {}", first.file.display()))?;
    for picture in rest.iter().take(MOST) {
        ui.line(&format!("         {:>10}  {}", "", picture.file.display()))?;
    }
    if rest.len() > MOST {
        ui.line(&format!("         {:>10}  and {} more", "", rest.len() - MOST))?;
    }
    Ok(())
}

fn more(ui: &Ui, n: usize) -> Result<()> {
    if n > MOST { ui.line(&format!("         and {} more; --json names all", n - MOST)) } else { Ok(()) }
}

/// Draws each photograph that is there several times in a row.
fn draw_copies(path: &Path, found: &Findings, parts: &[Part]) -> Result<()> {
    ensure!(!found.copies.is_empty(), "expected pictures that are there several times, found none to draw on a sheet");
    let samples = || parts.iter().flat_map(|p| &p.data.samples);
    let strip = |copies: &Copies| {
        let picture = |file: &Path| {
            let sample = samples().find(|s| s.location.path() == file)?;
            Some(squared(&pictures::open(sample).ok()?))
        };
        let named = copies.pictures.iter().take(ACROSS);
        let names: Vec<String> = named.clone().map(|p| p.file.display().to_string()).collect();
        let caption = format!("{:.2}  {}", copies.likeness, names.join("  "));
        Strip { caption, pictures: named.filter_map(|p| picture(&p.file)).collect() }
    };
    let strips: Vec<Strip> = found.copies.iter().take(ROWS).map(strip).collect();
    write_atomic(path, &to_png(&draw(&strips, TILE)).with_context(|| format!("drawing {}", path.display()))?)
}

/// Fits a whole picture into a square.
fn squared(picture: &RgbImage) -> Vec<u8> {
    let scale = f64::from(TILE) / f64::from(picture.width().max(picture.height()));
    let side = |of: u32| ((f64::from(of) * scale).round() as u32).clamp(1, TILE);
    let (width, height) = (side(picture.width()), side(picture.height()));
    let mut tile = RgbImage::from_pixel(TILE, TILE, image::Rgb([224; 3]));
    let small = imageops::resize(picture, width, height, FilterType::Triangle);
    imageops::replace(&mut tile, &small, i64::from((TILE - width) / 2), i64::from((TILE - height) / 2));
    tile.into_raw()
}

/// Lines of a kind on a screen.
const MOST: usize = 12;
/// Classes that are more uneven than this are pointed out.
const UNEVEN: f64 = 3.0;
/// Of the sheet: pictures in a row, rows, and the side of a picture.
const ACROSS: usize = 5;
const ROWS: usize = 40;
const TILE: u32 = 192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_by_what_tells_them_apart() {
        let names = |paths: &[&str]| short_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["photos/train", "photos/test"]), ["train", "test"]);
        assert_eq!(names(&["a/train", "b/train"]), ["a/train", "b/train"]);
        assert_eq!(names(&["photos"]), ["photos"]);
        assert_eq!(names(&["x", "x"]), ["x", "x"]);
    }

    #[test]
    fn a_picture_is_shown_whole() {
        let wide = RgbImage::from_pixel(400, 100, image::Rgb([9; 3]));
        let tile = squared(&wide);
        let at = |x: u32, y: u32| tile[((y * TILE + x) * 3) as usize];
        assert_eq!((at(0, 96), at(191, 96), at(96, 10), at(96, 180)), (9, 9, 224, 224));
    }
}
