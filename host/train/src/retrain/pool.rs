//! All pictures of a retraining: those the run learnt from, those of the field, and of the latter those that are held out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Sample, Task};
use crate::pictures;
use crate::rng::Rng;
use crate::run::{Added, Run};

/// All pictures of a retraining. None is in it twice, whatever its name.
#[derive(Debug)]
pub struct Pool {
    /// What the head learns from, pictures of the field first.
    pub learn: Dataset,
    /// Pictures that the new head is not shown, and the old one was not.
    pub held_out: Dataset,
    /// How these were chosen.
    pub how: HeldOut,
    /// Pictures that could not be read.
    pub unread: Vec<Ignored>,
    /// Of each picture to learn from: its mark, and which set of the field it is of, if any.
    marks: Vec<(String, Option<usize>)>,
    /// The sets of the field, those that were added before among them.
    sets: Vec<PathBuf>,
}

/// How pictures were held out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeldOut {
    /// How many.
    pub pictures: usize,
    /// The groups of the field that they are; empty where pictures were drawn one by one, or are a set of their own.
    pub groups: Vec<String>,
    /// What is wrong with them as a test.
    pub doubts: Vec<String>,
}

/// Where pictures are, as a person says it.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The run's own pictures, where they are no longer where they were.
    pub data: Option<&'a Path>,
    /// Labelled pictures of the field: a folder of `graft label`, or any data set.
    pub add: &'a [PathBuf],
    /// Labelled pictures to compare on, instead of some of the field.
    pub test: Option<&'a Path>,
    /// Share of the field's new pictures that is held out otherwise.
    pub share: f64,
    /// Seed of what is held out.
    pub seed: u64,
}

/// What `graft label` writes beside the pictures.
const LABELS: &str = "labels.csv";

impl Pool {
    /// Opens all sets and divides them.
    ///
    /// # Errors
    ///
    /// If a set cannot be opened, has no picture, or is of another task than the run; if nothing is left to learn from.
    pub fn open(run: &Run, places: &Places<'_>) -> Result<Self> {
        let record = &run.record;
        let columns = record.columns();
        let open = |path: &Path, split: Option<&str>| {
            let labels = path.join(LABELS);
            Dataset::open_as(if labels.is_file() { &labels } else { path }, split, &columns)
        };
        ensure!(!places.add.is_empty(), "expected pictures of the field, found none");
        let mut all = Gathered::default();
        // The field comes first: where a picture is in two sets, its label there counts.
        let known: HashSet<&String> = record.added.iter().flat_map(|a| &a.learnt).collect();
        for path in places.add {
            let data =
                open(path, None).with_context(|| format!("opening the field's pictures in {}", path.display()))?;
            all.sets.push(path.clone());
            all.take(&data, Origin::Field(all.sets.len() - 1), |mark| Some(known.contains(mark)));
        }
        for added in &record.added {
            let missing: HashSet<&String> = added.learnt.iter().filter(|mark| !all.marks.contains(*mark)).collect();
            if missing.is_empty() {
                continue;
            }
            let path = &added.data;
            let doing = || {
                format!(
                    "opening pictures that the run has learnt from since, {}; give their new place as a further --add",
                    path.display()
                )
            };
            all.sets.push(path.clone());
            let data = open(path, None).with_context(doing)?;
            all.take(&data, Origin::Field(all.sets.len() - 1), |mark| missing.contains(mark).then_some(true));
        }
        let path = places.data.unwrap_or(&record.data);
        let doing = || {
            format!("opening the pictures that the run learnt from, {}; give their new place as --data", path.display())
        };
        let old = open(path, record.split.as_deref().filter(|_| places.data.is_none())).with_context(doing)?;
        all.take(&old, Origin::Old, |_| Some(true));
        let test = places.test.map(|path| open(path, None).with_context(|| format!("opening {}", path.display())));
        all.divide(run, test.transpose()?, places)
    }

    /// Tells whether a picture to learn from is of the field.
    pub(super) fn is_field(&self, row: usize) -> bool {
        self.marks[row].1.is_some()
    }

    /// Returns what a further retraining has to know of those at `rows`.
    pub(super) fn added(&self, rows: &[usize], times: usize) -> Vec<Added> {
        let mut learnt = vec![vec![]; self.sets.len()];
        for (mark, set) in rows.iter().map(|&r| &self.marks[r]) {
            if let Some(set) = set {
                learnt[*set].push(mark.clone());
            }
        }
        let of = |(data, learnt): (&PathBuf, Vec<String>)| Added { data: data.clone(), learnt, times };
        self.sets.iter().zip(learnt).filter(|(_, learnt)| !learnt.is_empty()).map(of).collect()
    }
}

/// Which set a picture is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The pictures of the run itself.
    Old,
    /// A set of the field.
    Field(usize),
}

/// A labelled picture of some set.
struct Found {
    sample: Sample,
    label: String,
    mark: String,
    origin: Origin,
    /// Whether the old head has learnt from it.
    is_known: bool,
}

#[derive(Default)]
struct Gathered {
    found: Vec<Found>,
    marks: HashSet<String>,
    sets: Vec<PathBuf>,
    unread: Vec<Ignored>,
}

impl Gathered {
    /// Takes the pictures of a set that are not there yet and wanted; `wanted` also tells whether the old head knows them.
    fn take(&mut self, data: &Dataset, origin: Origin, wanted: impl Fn(&String) -> Option<bool>) {
        for sample in &data.samples {
            let mark = match mark(sample) {
                Ok(mark) => mark,
                Err(error) => {
                    self.unread.push(Ignored { path: sample.location.path(), reason: format!("{error:#}") });
                    continue;
                }
            };
            let Some(is_known) = wanted(&mark) else { continue };
            if self.marks.insert(mark.clone()) {
                let label = data.labels[sample.class].clone();
                self.found.push(Found { sample: sample.clone(), label, mark, origin, is_known });
            }
        }
    }

    fn divide(self, run: &Run, test: Option<Dataset>, places: &Places<'_>) -> Result<Pool> {
        let Self { found, marks, sets, unread } = self;
        let (off, mut how) = match &test {
            Some(_) => (BTreeSet::new(), HeldOut::default()),
            None => hold_out(&found, places.share, places.seed),
        };
        let (off, kept): (Vec<_>, Vec<_>) = found.into_iter().enumerate().partition(|(i, _)| off.contains(i));
        let mut labels = run.record.labels.clone();
        let task = run.record.task;
        if task == Task::Classes {
            let new: BTreeSet<&String> = kept.iter().map(|(_, f)| &f.label).filter(|l| !labels.contains(l)).collect();
            let new: Vec<String> = new.into_iter().cloned().collect();
            labels.extend(new);
        }
        let set = |samples| Dataset { task, labels: labels.clone(), samples, ignored: vec![] };
        // Of tags and values the set's first label is as good as any: there are no classes.
        let numbered = |mut sample: Sample, label: &String| {
            sample.class = labels.iter().position(|l| l == label)?;
            Some(sample)
        };
        let of_set = |f: Found| {
            let set = if let Origin::Field(set) = f.origin { Some(set) } else { None };
            Some((numbered(f.sample, &f.label)?, (f.mark, set)))
        };
        let (learn, told): (Vec<_>, Vec<_>) = kept.into_iter().filter_map(|(_, f)| of_set(f)).unzip();
        let apart: Vec<(Sample, String)> = match test {
            None => off.into_iter().map(|(_, f)| (f.sample, f.label)).collect(),
            Some(Dataset { samples, labels, .. }) => {
                let is_learnt = |sample: &Sample| mark(sample).is_ok_and(|mark| marks.contains(&mark));
                let (leaks, new): (Vec<_>, Vec<_>) = samples.into_iter().partition(is_learnt);
                if !leaks.is_empty() {
                    how.doubts.push(format!(
                        "{} pictures to compare on are among those to learn from, and were left out",
                        leaks.len()
                    ));
                }
                let labelled = |sample: Sample| {
                    let label = labels[sample.class].clone();
                    (sample, label)
                };
                new.into_iter().map(labelled).collect()
            }
        };
        let mut held_out = vec![];
        let mut strangers = BTreeSet::new();
        for (sample, label) in apart {
            match numbered(sample, &label) {
                Some(sample) => held_out.push(sample),
                None => drop(strangers.insert(label)),
            }
        }
        if !strangers.is_empty() {
            let names: Vec<String> = strangers.into_iter().collect();
            how.doubts.push(format!("no picture to learn from is of {}, so those were left out", names.join(", ")));
        }
        how.pictures = held_out.len();
        ensure!(!learn.is_empty(), "expected pictures to learn from, found none that can be read");
        Ok(Pool { learn: set(learn), held_out: set(held_out), how, unread, marks: told, sets })
    }
}

/// Returns the places of those to hold out.
fn hold_out(found: &[Found], share: f64, seed: u64) -> (BTreeSet<usize>, HeldOut) {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut loose = vec![];
    // A group of which the old head knows a picture would flatter it.
    let known: BTreeSet<&str> = found.iter().filter(|f| f.is_known).filter_map(|f| f.sample.group.as_deref()).collect();
    for (i, f) in found.iter().enumerate().filter(|(_, f)| !f.is_known) {
        match f.sample.group.as_deref() {
            Some(group) if known.contains(group) => (),
            Some(group) => groups.entry(group).or_default().push(i),
            None => loose.push(i),
        }
    }
    let has_more = found.iter().any(|f| f.is_known && f.origin != Origin::Old);
    let new: usize = groups.values().map(Vec::len).sum::<usize>() + loose.len();
    let wanted = (share * new as f64).round() as usize;
    let mut rng = Rng::new(seed ^ 0x4e1d);
    let mut off = BTreeSet::new();
    let mut how = HeldOut::default();
    if groups.len() + usize::from(has_more || !loose.is_empty()) >= 2 && loose.len() <= new / 2 {
        let mut names: Vec<&str> = groups.keys().copied().collect();
        rng.shuffle(&mut names);
        let most = groups.len() - usize::from(!has_more && loose.is_empty());
        for name in names.into_iter().take(most) {
            if off.len() >= wanted {
                break;
            }
            off.extend(&groups[name]);
            how.groups.push(name.to_owned());
        }
        how.groups.sort();
        return (off, how);
    }
    // Of each label alike, as they come: a share of every class, and at least one stays.
    let mut by_label: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for i in groups.into_values().flatten().chain(loose) {
        by_label.entry(&found[i].label).or_default().push(i);
    }
    for rows in by_label.values_mut() {
        rng.shuffle(rows);
        let take = (share * rows.len() as f64).round() as usize;
        off.extend(rows.iter().take(take.min(rows.len().saturating_sub(1))));
    }
    if !off.is_empty() {
        how.doubts.push(
            "the field's new pictures are not of several sites or days, so like pictures may be on both sides; give --test"
                .into(),
        );
    }
    (off, how)
}

/// Returns what tells a picture from all others: the beginning of its content's BLAKE3, in hex.
fn mark(sample: &Sample) -> Result<String> {
    let digest = blake3::hash(&pictures::bytes(sample)?).to_hex();
    Ok(digest[..MARK].to_owned())
}

/// 80 bits: for a million pictures the chance that two share them is below 10^-12.
const MARK: usize = 20;
