//! Looks a set over before anybody trains on it: copies, leaks between its parts, blurred and badly lit pictures, labels that
//! neighbours contradict.
//!
//! Every picture is decoded once and forgotten; about 2 KB of it stay, and its features where neighbours are asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use graft_runtime::picture;
use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Dataset, Ignored, Sample, Task};
use crate::features::{Varied, features};
use crate::pictures::{self, OnBad};
use crate::pretrained::Pretrained;

mod alike;
mod gray;
mod neighbours;
mod quality;

use alike::{HASH_REACH, SAME, Trace, likeness};
use gray::{Gray, ORIENTATIONS};
use neighbours::{ASKED, Neighbours, contradicted, keep};
pub use quality::{Flaw, Quality};

/// A part of a set, such as `train` or `test`.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its pictures.
    pub data: Dataset,
}

/// What tells which pictures look alike beyond their pixels.
#[derive(Debug, Clone, Copy)]
pub struct Lens<'a> {
    /// The backbone.
    pub pretrained: &'a Pretrained,
    /// Where features are kept.
    pub cache: &'a Path,
}

/// What takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Every picture is read.
    Reading,
    /// The backbone looks at every picture.
    Features,
    /// Pictures are compared.
    Comparing,
    /// Candidates are laid upon each other.
    Verifying,
}

/// What was found in a set.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// Pictures.
    pub n: usize,
    /// Pictures that can be read.
    pub usable: usize,
    /// Each part.
    pub parts: Vec<Counted>,
    /// Pictures that cannot be read.
    pub unusable: Vec<Ignored>,
    /// Files that were passed over.
    pub ignored: Vec<Ignored>,
    /// Pictures that are there several times.
    pub copies: Vec<Copies>,
    /// Pictures of which something is wrong, the worst first.
    pub flawed: Vec<Flawed>,
    /// Labels that neighbours contradict; those most alone first.
    pub doubtful: Vec<Doubtful>,
    /// Groups with pictures in several parts.
    pub divided: Vec<Divided>,
    /// What could not be looked for, and why.
    pub left_out: Vec<String>,
}

/// A part and its classes.
#[derive(Debug, Clone, Serialize)]
pub struct Counted {
    /// Its name.
    pub name: String,
    /// Its pictures.
    pub n: usize,
    /// Pictures of each class; of tags those that have it.
    pub classes: Vec<Class>,
    /// Pictures of the largest class for each of the smallest; none where there are no classes.
    pub imbalance: Option<f64>,
}

/// A class.
#[derive(Debug, Clone, Serialize)]
pub struct Class {
    /// Its label.
    pub label: String,
    /// Its pictures.
    pub n: usize,
}

/// A picture that is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// Its part.
    pub part: String,
    /// Its file.
    pub file: PathBuf,
    /// Its label; none where the set has no classes.
    pub label: Option<String>,
}

/// One photograph that is there several times.
#[derive(Debug, Clone, Serialize)]
pub struct Copies {
    /// Whether all of them have the very same bytes.
    pub is_exact: bool,
    /// How alike the least alike pair that was compared is, 1 at most.
    pub likeness: f32,
    /// Whether several parts have it: what is tested was trained on.
    pub is_leak: bool,
    /// Whether it has several labels.
    pub is_contradictory: bool,
    /// Where it is.
    pub pictures: Vec<Named>,
}

/// A picture with something wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Flawed {
    /// Which.
    #[serde(flatten)]
    pub picture: Named,
    /// What.
    pub flaws: Vec<Flaw>,
    /// The numbers.
    pub quality: Quality,
}

/// A label that neighbours contradict.
#[derive(Debug, Clone, Serialize)]
pub struct Doubtful {
    /// Which.
    #[serde(flatten)]
    pub picture: Named,
    /// What they have.
    pub neighbours: String,
    /// How many of them.
    pub votes: usize,
    /// How many were asked.
    pub of: usize,
    /// The nearest of them that has it.
    pub nearest: PathBuf,
}

/// A group with pictures in several parts.
#[derive(Debug, Clone, Serialize)]
pub struct Divided {
    /// The group.
    pub group: String,
    /// Pictures of each part that has some.
    pub parts: BTreeMap<String, usize>,
}

impl Findings {
    /// Returns why this set is not to be trained on as it is: pictures or groups in several parts, photographs with two
    /// labels, pictures that cannot be read.
    pub fn faults(&self) -> Vec<String> {
        let leaks = self.copies.iter().filter(|c| c.is_leak).count();
        let contradictory = self.copies.iter().filter(|c| c.is_contradictory).count();
        let counts = [
            (self.unusable.len(), "that cannot be used"),
            (leaks, "that lie in several parts"),
            (contradictory, "with several labels"),
        ];
        let mut faults: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} pictures {what}")).collect();
        if !self.divided.is_empty() {
            faults.push(format!("{} groups in several parts", self.divided.len()));
        }
        faults
    }
}

/// Looks a set over. Classes are compared by their names, whatever their numbers in each part.
///
/// # Errors
///
/// If `stop` is raised, or the backbone cannot be run. Pictures that cannot be read are listed.
pub fn audit(
    parts: &[Part],
    lens: Option<Lens<'_>>,
    stop: &AtomicBool,
    progress: &(dyn Fn(Stage, usize, usize) + Sync),
) -> Result<Findings> {
    let all: Vec<(usize, &Sample)> =
        parts.iter().enumerate().flat_map(|(p, part)| part.data.samples.iter().map(move |s| (p, s))).collect();
    let (done, n) = (AtomicUsize::new(0), all.len());
    let looked: Vec<Option<Result<Glance, String>>> = all
        .par_iter()
        .map(|(_, sample)| {
            let glance = (!stop.load(Ordering::Relaxed)).then(|| Glance::of(sample));
            progress(Stage::Reading, done.fetch_add(1, Ordering::Relaxed) + 1, n);
            glance
        })
        .collect();
    let (mut seen, mut unusable) = (vec![], vec![]);
    for (&(part, sample), outcome) in all.iter().zip(looked) {
        match outcome {
            Some(Ok(glance)) => seen.push(Seen { part, sample, glance }),
            Some(Err(reason)) => unusable.push(Ignored { path: sample.location.path(), reason }),
            None => bail!("stopped before all pictures were read"),
        }
    }
    let set = Set { parts, seen };
    let mut left_out = vec![];
    let neighbours = match lens {
        None => None,
        Some(_) if set.seen.len() > MOST_COMPARED => {
            left_out.push(format!("crops and labels that neighbours contradict: expected at most {MOST_COMPARED} pictures, found {}; look at fewer at a time", set.seen.len()));
            None
        }
        Some(lens) => Some(set.neighbours(lens, stop, progress)?),
    };
    let groups = if set.seen.len() > MOST_HASHED {
        left_out.push(format!(
            "copies that are not exact: expected at most {MOST_HASHED} pictures, found {}; look at fewer at a time",
            set.seen.len()
        ));
        set.exact()
    } else {
        set.copies(neighbours.as_ref(), stop, progress)?
    };
    if set.parts.iter().any(|p| p.data.task != Task::Classes) {
        left_out.push("labels that neighbours contradict: expected classes, found columns of numbers".into());
    }
    let doubtful = neighbours.as_ref().map_or(vec![], |n| set.doubtful(n, &groups));
    Ok(Findings {
        n,
        usable: set.seen.len(),
        parts: parts.iter().map(counted).collect(),
        unusable,
        ignored: parts.iter().flat_map(|p| p.data.ignored.iter().cloned()).collect(),
        copies: set.told(&groups),
        flawed: set.flawed(),
        doubtful,
        divided: divided(parts),
        left_out,
    })
}

/// Most pictures of which neighbours are looked for, which takes time by the square of their number.
const MOST_COMPARED: usize = 30_000;
/// Most pictures whose hashes are compared, likewise.
const MOST_HASHED: usize = 150_000;
/// Candidates of a picture that are verified: the likeliest by hash, and of its neighbours.
const MOST_BY_HASH: usize = 16;
const MOST_BY_FEATURES: usize = 8;
/// Neighbours that are kept; some of them may be copies.
const KEPT: usize = ASKED + 10;

/// What is kept of a picture.
struct Glance {
    digest: [u8; 32],
    trace: Trace,
    quality: Quality,
}

impl Glance {
    fn of(sample: &Sample) -> Result<Self, String> {
        let bytes = pictures::bytes(sample).map_err(|e| format!("{e:#}"))?;
        let gray = Gray::of(&picture::decode(&bytes).map_err(|e| e.to_string())?, quality::SIDE);
        Ok(Self { digest: *blake3::hash(&bytes).as_bytes(), trace: Trace::of(&gray), quality: Quality::of(&gray) })
    }
}

struct Seen<'a> {
    part: usize,
    sample: &'a Sample,
    glance: Glance,
}

struct Set<'a> {
    parts: &'a [Part],
    seen: Vec<Seen<'a>>,
}

/// Two pictures that may be one: of the second the orientation in which it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    first: usize,
    second: usize,
    orientation: u8,
}

impl Set<'_> {
    fn label(&self, index: usize) -> Option<&str> {
        let Seen { part, sample, .. } = &self.seen[index];
        let data = &self.parts[*part].data;
        (data.task == Task::Classes).then(|| data.labels[sample.class].as_str())
    }

    fn named(&self, index: usize) -> Named {
        let Seen { part, sample, .. } = &self.seen[index];
        let label = self.label(index).map(str::to_owned);
        Named { part: self.parts[*part].name.clone(), file: sample.location.path(), label }
    }

    fn neighbours(
        &self,
        lens: Lens<'_>,
        stop: &AtomicBool,
        progress: &(dyn Fn(Stage, usize, usize) + Sync),
    ) -> Result<Neighbours> {
        let samples: Vec<Sample> = self.seen.iter().map(|s| s.sample.clone()).collect();
        let told = |done, of| progress(Stage::Features, done, of);
        let found = features(lens.pretrained, &samples, &Varied::plain(), lens.cache, OnBad::Fail, stop, told)
            .context("looking at pictures through the backbone")?;
        let done = AtomicUsize::new(0);
        let each = |n| progress(Stage::Comparing, done.fetch_add(n, Ordering::Relaxed) + n, samples.len());
        Ok(Neighbours::find(found.data, found.width, KEPT, each))
    }

    /// Returns the pictures with the same bytes.
    fn exact(&self) -> Groups {
        let mut first: HashMap<[u8; 32], usize> = HashMap::new();
        let mut groups = Groups::new(self.seen.len());
        for (i, seen) in self.seen.iter().enumerate() {
            match first.get(&seen.glance.digest) {
                Some(&other) => groups.join(other, i, 1.0),
                None => {
                    first.insert(seen.glance.digest, i);
                }
            }
        }
        groups
    }

    /// Returns the pictures that are one photograph.
    fn copies(
        &self,
        neighbours: Option<&Neighbours>,
        stop: &AtomicBool,
        progress: &(dyn Fn(Stage, usize, usize) + Sync),
    ) -> Result<Groups> {
        let mut groups = self.exact();
        let firsts: Vec<usize> = (0..self.seen.len()).filter(|&i| groups.root(i) == i).collect();
        let mut candidates = self.by_hash(&firsts, stop, progress);
        let roots: Vec<usize> = (0..self.seen.len()).map(|i| groups.root(i)).collect();
        if let Some(Neighbours(nearest)) = neighbours {
            for &i in &firsts {
                for j in nearest[i].iter().take(MOST_BY_FEATURES).map(|&j| roots[j]).filter(|&j| j != i) {
                    let (first, second) = (i.min(j), i.max(j));
                    candidates.extend([0, 1].map(|orientation| Candidate { first, second, orientation }));
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let (done, n) = (AtomicUsize::new(0), candidates.len());
        let verified: Vec<(Candidate, f32)> = candidates
            .par_iter()
            .filter_map(|&c| {
                progress(Stage::Verifying, done.fetch_add(1, Ordering::Relaxed) + 1, n);
                let likeness = (!stop.load(Ordering::Relaxed)).then(|| self.verified(c)).flatten()?;
                (likeness >= SAME).then_some((c, likeness))
            })
            .collect();
        if stop.load(Ordering::Relaxed) {
            bail!("stopped before all pictures were compared");
        }
        verified.iter().for_each(|(c, likeness)| groups.join(c.first, c.second, *likeness));
        Ok(groups)
    }

    /// Returns the pairs whose hashes are near in one of eight orientations.
    fn by_hash(
        &self,
        firsts: &[usize],
        stop: &AtomicBool,
        progress: &(dyn Fn(Stage, usize, usize) + Sync),
    ) -> Vec<Candidate> {
        let hashes: Vec<u128> = firsts.iter().map(|&i| self.seen[i].glance.trace.hash(0)).collect();
        let done = AtomicUsize::new(0);
        let near = firsts.par_iter().enumerate().flat_map_iter(|(place, &second)| {
            // Turning the one as the other may be: what undoes a turn is a turn as well.
            let turned: [u128; ORIENTATIONS as usize] =
                std::array::from_fn(|o| self.seen[second].glance.trace.hash(o as u8));
            let mut nearest: Vec<(i32, Candidate)> = vec![];
            let others = if stop.load(Ordering::Relaxed) { &[] } else { &hashes[..place] };
            for (&first, hash) in firsts.iter().zip(others) {
                for (orientation, own) in turned.iter().enumerate() {
                    let apart = (hash ^ own).count_ones();
                    if apart <= HASH_REACH {
                        let candidate = Candidate { first, second, orientation: orientation as u8 };
                        keep(&mut nearest, (-(apart as i32), candidate), MOST_BY_HASH);
                    }
                }
            }
            progress(Stage::Comparing, done.fetch_add(1, Ordering::Relaxed) + 1, firsts.len());
            nearest.into_iter().map(|(_, candidate)| candidate)
        });
        near.collect()
    }

    /// Reads two pictures once more and returns how alike they are; none where that is not worth it, or they are gone.
    fn verified(&self, c: Candidate) -> Option<f32> {
        let [first, second] = [c.first, c.second].map(|i| &self.seen[i]);
        if !first.glance.trace.may_be(&second.glance.trace, c.orientation) {
            return None;
        }
        let read = |seen: &Seen<'_>| Some(Gray::of(&pictures::open(seen.sample).ok()?, quality::SIDE));
        Some(likeness(&read(first)?, &read(second)?, c.orientation))
    }

    fn told(&self, groups: &Groups) -> Vec<Copies> {
        let of = |(members, likeness): (Vec<usize>, f32)| {
            let pictures: Vec<Named> = members.iter().map(|&i| self.named(i)).collect();
            let count = |of: &dyn Fn(&Named) -> Option<String>| pictures.iter().map(of).collect::<BTreeSet<_>>().len();
            Copies {
                is_exact: members.iter().all(|&i| self.seen[i].glance.digest == self.seen[members[0]].glance.digest),
                likeness,
                is_leak: count(&|p| Some(p.part.clone())) > 1,
                is_contradictory: count(&|p| p.label.clone()) > 1,
                pictures,
            }
        };
        let mut copies: Vec<Copies> = groups.members().into_iter().map(of).collect();
        let rank = |c: &Copies| (!c.is_leak, !c.is_contradictory, !c.is_exact);
        copies.sort_by(|a, b| rank(a).cmp(&rank(b)).then(b.likeness.total_cmp(&a.likeness)));
        copies
    }

    fn flawed(&self) -> Vec<Flawed> {
        let of = |i: usize| {
            let quality = self.seen[i].glance.quality;
            let flaws = quality.flaws();
            (!flaws.is_empty()).then(|| Flawed { picture: self.named(i), flaws, quality })
        };
        let mut flawed: Vec<Flawed> = (0..self.seen.len()).filter_map(of).collect();
        let blur = |f: &Flawed| f.quality.blur.unwrap_or(0.0);
        flawed.sort_by(|a, b| a.flaws.cmp(&b.flaws).then(blur(b).total_cmp(&blur(a))));
        flawed
    }

    fn doubtful(&self, Neighbours(nearest): &Neighbours, groups: &Groups) -> Vec<Doubtful> {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let labels: Option<Vec<&str>> = (0..self.seen.len()).map(|i| self.label(i)).collect();
        let Some(labels) = labels else { return vec![] };
        labels.iter().for_each(|l| {
            let next = numbers.len();
            numbers.entry(l).or_insert(next);
        });
        let number = |i: usize| numbers[labels[i]];
        let mut doubtful: Vec<Doubtful> = (0..self.seen.len())
            .filter_map(|i| {
                // Copies would vouch for each other.
                let others = || nearest[i].iter().copied().filter(|&j| groups.root(j) != groups.root(i));
                let found = contradicted(number(i), others().map(number))?;
                let first = others().find(|&j| number(j) == found.instead)?;
                Some(Doubtful {
                    picture: self.named(i),
                    neighbours: labels[first].to_owned(),
                    votes: found.votes,
                    of: found.of,
                    nearest: self.seen[first].sample.location.path(),
                })
            })
            .collect();
        doubtful.sort_by(|a, b| b.votes.cmp(&a.votes).then_with(|| a.picture.cmp(&b.picture)));
        doubtful
    }
}

fn counted(part: &Part) -> Counted {
    let data = &part.data;
    let counts: Vec<usize> = match data.task {
        Task::Classes => data.counts(),
        Task::Tags => {
            (0..data.labels.len()).map(|t| data.samples.iter().filter(|s| s.values[t] > 0.5).count()).collect()
        }
        Task::Values => vec![],
    };
    let largest = counts.iter().max().copied().unwrap_or(0);
    let smallest = counts.iter().min().copied().filter(|&n| n > 0);
    let imbalance = smallest.filter(|_| data.task == Task::Classes).map(|s| largest as f64 / s as f64);
    let classes = data.labels.iter().zip(counts).map(|(l, n)| Class { label: l.clone(), n }).collect();
    Counted { name: part.name.clone(), n: data.samples.len(), classes, imbalance }
}

/// Finds groups with pictures in several parts.
fn divided(parts: &[Part]) -> Vec<Divided> {
    let mut groups: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for part in parts {
        for group in part.data.samples.iter().filter_map(|s| s.group.as_deref()) {
            *groups.entry(group).or_default().entry(part.name.clone()).or_default() += 1;
        }
    }
    let several = groups.into_iter().filter(|(_, parts)| parts.len() > 1);
    several.map(|(group, parts)| Divided { group: group.to_owned(), parts }).collect()
}

/// Pictures that are one photograph: a forest in which each tree is a group.
struct Groups {
    parents: Vec<usize>,
    /// Of each root the lowest likeness by which its group was joined.
    likeness: Vec<f32>,
}

impl Groups {
    fn new(n: usize) -> Self {
        Self { parents: (0..n).collect(), likeness: vec![1.0; n] }
    }

    /// Returns the first picture of a group.
    fn root(&self, mut index: usize) -> usize {
        while self.parents[index] != index {
            index = self.parents[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize, likeness: f32) {
        let (a, b) = (self.root(a), self.root(b));
        let (first, second) = (a.min(b), a.max(b));
        if first == second {
            return;
        }
        self.parents[second] = first;
        self.likeness[first] = self.likeness[first].min(self.likeness[second]).min(likeness);
    }

    /// Returns the groups of several pictures.
    fn members(&self) -> Vec<(Vec<usize>, f32)> {
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for i in 0..self.parents.len() {
            members.entry(self.root(i)).or_default().push(i);
        }
        members.into_iter().filter(|(_, m)| m.len() > 1).map(|(root, m)| (m, self.likeness[root])).collect()
    }
}

#[cfg(test)]
mod tests;
