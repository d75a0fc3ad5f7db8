//! How much a picture of the field counts, and how strong the penalty is: by cross-validation on pictures of the field, as
//! those are what the model will see.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::head::{FOLDS, STRENGTHS, Samples, Weighty, logits, path};
use crate::metrics::score;
use crate::rng::Rng;

/// What cross-validation said of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tried {
    /// As how many old pictures one of the field counts.
    pub times: usize,
    /// Strength `C` of the penalty.
    pub strength: f64,
    /// Mean loss on pictures of the field that the fit had not seen.
    pub loss: f64,
    /// Share of these that is right, or R².
    pub score: f64,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub(super) times: usize,
    pub(super) strength: f64,
    pub(super) tried: Vec<Tried>,
}

/// As how many old pictures one of the field may count.
const TIMES: [usize; 3] = [1, 3, 10];
/// Fewer pictures of the field choose nothing.
const FEWEST: usize = 10;
/// What they count then.
const USUAL: usize = 3;

/// Chooses by the loss, which changes with each picture a little; the share that is right jumps. The first samples, those
/// with a place in `groups`, are of the field.
///
/// # Errors
///
/// If the samples do not fit together, or `progress` says so.
pub(super) fn choose(
    samples: &Samples,
    groups: &[Option<&str>],
    strength: f64,
    seed: u64,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Chosen> {
    let field = groups.len();
    if field < FEWEST {
        return Ok(Chosen { times: USUAL, strength, tried: vec![] });
    }
    let folds = deal(samples, groups, seed);
    let width = samples.targets.width();
    let loss = samples.targets.loss();
    let mut wanted = vec![];
    let mut outputs = vec![vec![]; TIMES.len() * STRENGTHS.len()];
    for fold in 0..FOLDS {
        let (test, kept): (Vec<usize>, Vec<usize>) = (0..field).partition(|&i| folds[i] == fold);
        if test.is_empty() {
            continue;
        }
        wanted.extend(test.iter().flat_map(|&i| samples.targets.row(i)));
        let first = kept.len();
        let rows: Vec<usize> = kept.into_iter().chain(field..samples.targets.len()).collect();
        let mut train = samples.pick(&rows);
        for (t, &times) in TIMES.iter().enumerate() {
            progress(fold * TIMES.len() + t, FOLDS * TIMES.len())?;
            train.weighty = Weighty { first, times: times as f64 };
            for (s, head) in path(&train)?.iter().enumerate() {
                let found = test.iter().flat_map(|&i| logits(head, samples.row(i)));
                outputs[t * STRENGTHS.len() + s].extend(found);
            }
        }
    }
    let pairs = TIMES.iter().flat_map(|&times| STRENGTHS.iter().map(move |&strength| (times, strength)));
    let mut tried = vec![];
    for ((times, strength), outputs) in pairs.zip(&outputs) {
        let score = score(&samples.targets, outputs, &wanted);
        tried.push(Tried { times, strength, loss: loss.of(outputs, &wanted, width)?.0, score });
    }
    progress(FOLDS * TIMES.len(), FOLDS * TIMES.len())?;
    let best = tried.iter().fold(tried[0], |best, &t| if t.loss < best.loss { t } else { best });
    Ok(Chosen { times: best.times, strength: best.strength, tried })
}

/// Deals pictures of the field into folds: whole groups where there are enough, else of each class alike.
fn deal(samples: &Samples, groups: &[Option<&str>], seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed ^ 0xf1e1);
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        named.entry(group.unwrap_or_default()).or_default().push(i);
    }
    let mut fold = vec![0; groups.len()];
    if named.len() >= FOLDS {
        let mut parts: Vec<Vec<usize>> = named.into_values().collect();
        rng.shuffle(&mut parts);
        parts.sort_by_key(|p| std::cmp::Reverse(p.len()));
        let mut sizes = [0; FOLDS];
        for part in parts {
            let smallest = (0..FOLDS).min_by_key(|&f| sizes[f]).unwrap_or(0);
            sizes[smallest] += part.len();
            part.into_iter().for_each(|i| fold[i] = smallest);
        }
        return fold;
    }
    let mut rows: Vec<usize> = (0..groups.len()).collect();
    rng.shuffle(&mut rows);
    let wanted = |row: usize| samples.targets.row(row);
    // Sorted by what is wanted, neighbours go to different folds.
    rows.sort_by(|&a, &b| wanted(a).partial_cmp(&wanted(b)).unwrap_or(Ordering::Equal));
    rows.into_iter().enumerate().for_each(|(place, row)| fold[row] = place % FOLDS);
    fold
}
