//! Stripes of three kinds on a backbone that is embedded: fine dark ones on white in the lab, broad ones at dusk in the field.

use std::fs;
use std::path::PathBuf;

use image::{Rgb, RgbImage};

use super::*;
use crate::pretrained::{Input, Pretrained};
use crate::recipe::{Recipe, Wish};
use crate::rng::Rng;
use crate::transfer::{self, Device};

const KINDS: [&str; 3] = ["across", "both", "down"];

/// A picture's kind, its number, and the day it was taken.
type Taken = (usize, u64, &'static str);

/// Draws stripes so wide, of one colour on another.
fn stripes(kind: usize, seed: u64, width: u32, colours: [[u8; 3]; 2]) -> RgbImage {
    let mut rng = Rng::new(seed);
    let shift = rng.below(20) as u32;
    RgbImage::from_fn(96, 96, |x, y| {
        let [across, down] = [y, x].map(|v| ((v + shift) / width).is_multiple_of(2));
        let is_on = [across, across != down, down][kind];
        let noise = rng.below(40) as u8;
        Rgb(colours[usize::from(is_on)].map(|c| c.saturating_add(noise)))
    })
}

fn in_lab(kind: usize, seed: u64) -> RgbImage {
    stripes(kind, seed, 4, [[220, 220, 220], [40, 120, 40]])
}

fn in_field(kind: usize, seed: u64) -> RgbImage {
    stripes(kind, 1000 + seed, 12, [[20, 25, 60], [90, 50, 20]])
}

/// Writes pictures of the field with their labels, as `graft label` does.
fn field(folder: &Path, taken: &[Taken], label: impl Fn(usize) -> &'static str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let mut rows = "file,label,group\n".to_owned();
    for (i, &(kind, seed, day)) in taken.iter().enumerate() {
        in_field(kind, seed).save(folder.join(format!("{i}.png"))).unwrap();
        rows += &format!("{i}.png,{},north/{day}\n", label(kind));
    }
    fs::write(folder.join("labels.csv"), rows).unwrap();
    folder.to_owned()
}

fn days(each: u64, days: &[&'static str]) -> Vec<Taken> {
    let all = |(d, day): (usize, &&'static str)| {
        let day = *day;
        (0..KINDS.len()).flat_map(move |kind| (0..each).map(move |n| (kind, 100 * d as u64 + n, day)))
    };
    days.iter().enumerate().flat_map(all).collect()
}

struct Bench {
    dir: tempfile::TempDir,
    run: Run,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("lab");
        for (kind, name) in KINDS.into_iter().enumerate() {
            fs::create_dir_all(data.join(name)).unwrap();
            for n in 0..8 {
                in_lab(kind, n).save(data.join(format!("{name}/{n}.png"))).unwrap();
            }
        }
        let plan = transfer::Plan {
            data: data.clone(),
            split: None,
            dataset: &Dataset::open(&data, None).unwrap(),
            pretrained: &Pretrained::embedded(Input { side: Some(96), share: None }).unwrap(),
            cache: &dir.path().join("cache"),
            on_bad: OnBad::Fail,
            wish: Wish { recipe: Some(Recipe::Head), ..Wish::default() },
            device: Device::Cpu,
            folder: None,
            resume: crate::fit::Resume::No,
        };
        let run = transfer::transfer(&plan, &AtomicBool::new(false), |_| ()).unwrap().run;
        Self { dir, run }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pool(&self, run: &Run, add: &[PathBuf]) -> Result<Pool> {
        Pool::open(run, &Places { data: None, add, test: None, share: 0.3, seed: 1 })
    }

    fn retrain(&self, run: &Run, pool: &Pool) -> Retrained {
        let plan = Plan { run, pool, before: None, cache: &self.path("cache"), on_bad: OnBad::Fail };
        retrain(&plan, &AtomicBool::new(false), |_, _, _| ()).unwrap()
    }
}

#[test]
fn labels_of_the_field_mend_what_dusk_broke() {
    let bench = Bench::new();
    let lab = bench.run.record.pictures;
    let set = field(&bench.path("field"), &days(4, &["01", "02", "03", "04"]), |kind| KINDS[kind]);
    let pool = bench.pool(&bench.run, std::slice::from_ref(&set)).unwrap();
    let Retrained { run, report, skipped } = bench.retrain(&bench.run, &pool);
    let compared = report.compared.as_ref().unwrap();
    assert!(compared.new.score > compared.old.score + 0.2, "{compared:?}");
    assert!(!report.is_worse() && skipped.is_empty());
    assert_eq!((report.old, report.cached, report.new_labels.len()), (lab, lab, 0), "old features are in the cache");
    assert_eq!(run.backbone_digest().unwrap(), bench.run.backbone_digest().unwrap());
    assert_eq!(report.held_out.groups.len(), 2, "{:?}", report.held_out);
    assert!(report.held_out.doubts.is_empty());
    let held: Vec<_> = pool.held_out.samples.iter().filter_map(|s| s.group.clone()).collect();
    assert!(pool.learn.samples.iter().all(|s| s.group.as_ref().is_none_or(|g| !held.contains(g))));

    // The same again is the very same head, and what it learnt from comes along, whatever else is added.
    let again = bench.retrain(&bench.run, &pool);
    assert_eq!(again.run.head, run.head);
    let later = field(&bench.path("later"), &days(3, &["05", "06", "07"]), |kind| KINDS[kind]);
    let pool = bench.pool(&run, std::slice::from_ref(&later)).unwrap();
    let all: Vec<usize> = (0..pool.learn.samples.len()).collect();
    let learnt: Vec<String> = pool.added(&all, 1).into_iter().flat_map(|a| a.learnt).collect();
    assert!(run.record.added[0].learnt.iter().all(|mark| learnt.contains(mark)));
    assert!(pool.held_out.samples.iter().all(|s| s.location.to_string().contains("later")));
    // A folder that has grown: days that the old head has learnt from are no test of it.
    let pool = bench.pool(&run, &[set.clone(), later]).unwrap();
    let known = known_groups(&run, &set);
    assert!(!known.is_empty() && !pool.held_out.samples.is_empty());
    assert!(pool.held_out.samples.iter().all(|s| s.group.as_ref().is_none_or(|g| !known.contains(g))));
    fs::remove_dir_all(&set).unwrap();
    let error = format!("{:#}", bench.pool(&run, &[bench.path("later")]).unwrap_err());
    assert!(error.contains("--add"), "{error}");
}

/// The groups that a run has learnt from.
fn known_groups(run: &Run, set: &Path) -> Vec<String> {
    let data = Dataset::open(&set.join("labels.csv"), None).unwrap();
    let is_learnt = |s: &&crate::dataset::Sample| {
        let digest = blake3::hash(&crate::pictures::bytes(s).unwrap()).to_hex().to_string();
        run.record.added[0].learnt.iter().any(|mark| digest.starts_with(mark))
    };
    data.samples.iter().filter(is_learnt).filter_map(|s| s.group.clone()).collect()
}

#[test]
fn new_labels_come_behind_the_old_and_pictures_count_once() {
    let bench = Bench::new();
    // A class that the old head does not have, and a picture of the lab that came back under another name and label.
    let set = field(&bench.path("field"), &days(4, &["01"]), |kind| if kind == 0 { "aphids" } else { KINDS[kind] });
    let lab = bench.path("lab").join(KINDS[1]).join("0.png");
    fs::copy(lab, set.join("back.png")).unwrap();
    let rows = fs::read_to_string(set.join("labels.csv")).unwrap() + "back.png,aphids,north/01\n";
    fs::write(set.join("labels.csv"), rows).unwrap();
    let pool = bench.pool(&bench.run, &[set]).unwrap();
    let n = bench.run.record.labels.len();
    assert_eq!(pool.learn.labels[..n], bench.run.record.labels[..]);
    assert_eq!(pool.learn.labels[n..], ["aphids"]);
    let all = pool.learn.samples.len() + pool.held_out.samples.len();
    assert_eq!(all, bench.run.record.pictures + 4 * KINDS.len(), "the copy counts once");
    assert!(pool.how.doubts.iter().any(|d| d.contains("--test")), "one day alone: {:?}", pool.how);
    let report = bench.retrain(&bench.run, &pool).report;
    assert_eq!(report.new_labels, ["aphids"]);
    assert!(report.compared.unwrap().n > 0);
}

#[test]
fn a_test_set_may_not_have_what_is_learnt() {
    let bench = Bench::new();
    let set = field(&bench.path("field"), &days(2, &["01"]), |kind| KINDS[kind]);
    let mut taken = days(2, &["01"]);
    taken.extend([0, 1, 2].map(|kind| (kind, 70, "02")));
    let test = field(&bench.path("test"), &taken, |kind| KINDS[kind]);
    let add = [set];
    let places = Places { data: None, add: &add, test: Some(&test), share: 0.3, seed: 1 };
    let pool = Pool::open(&bench.run, &places).unwrap();
    assert_eq!(pool.held_out.samples.len(), KINDS.len());
    assert!(pool.how.doubts[0].starts_with(&format!("{} pictures", 2 * KINDS.len())), "{:?}", pool.how);
    let gone = Places { data: Some(Path::new("nowhere")), ..places };
    let error = format!("{:#}", Pool::open(&bench.run, &gone).unwrap_err());
    assert!(error.contains("--data") && error.contains("nowhere"), "{error}");
}
