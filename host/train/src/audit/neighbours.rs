//! Which pictures lie nearest in a backbone's feature space, and which labels their neighbours contradict.

use rayon::prelude::*;

use super::alike::dot;

/// The nearest pictures of each, the nearest first.
#[derive(Debug, Clone)]
pub(super) struct Neighbours(pub(super) Vec<Vec<usize>>);

impl Neighbours {
    /// Finds the `most` nearest by the cosine between vectors `[pictures, width]` whose columns were centred and scaled.
    pub(super) fn find(mut vectors: Vec<f32>, width: usize, most: usize, each: impl Fn(usize) + Sync) -> Self {
        standardise(&mut vectors, width);
        let rows: Vec<&[f32]> = vectors.chunks_exact(width.max(1)).collect();
        let places: Vec<usize> = (0..rows.len()).collect();
        let found = places.par_chunks(BLOCK).flat_map_iter(|block| {
            let mut nearest: Vec<Vec<(f32, usize)>> = vec![Vec::with_capacity(most + 1); block.len()];
            for (other, vector) in rows.iter().enumerate() {
                for (&own, list) in block.iter().zip(&mut nearest) {
                    if own != other {
                        keep(list, (dot(rows[own], vector), other), most);
                    }
                }
            }
            each(block.len());
            nearest.into_iter().map(|list| list.into_iter().map(|(_, other)| other).collect())
        });
        Self(found.collect())
    }
}

/// Keeps the `most` highest, the highest first; of equals the one that came first.
pub(super) fn keep<S: PartialOrd, T>(list: &mut Vec<(S, T)>, entry: (S, T), most: usize) {
    if list.len() == most && list.last().is_none_or(|last| entry.0 <= last.0) {
        return;
    }
    let place = list.partition_point(|kept| kept.0 >= entry.0);
    list.insert(place, entry);
    list.truncate(most);
}

/// A label that the neighbours contradict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Contradicted {
    /// What most of them have.
    pub(super) instead: usize,
    /// How many of them have it.
    pub(super) votes: usize,
    /// How many were asked.
    pub(super) of: usize,
}

/// Asks the first [`ASKED`] of a picture's neighbours; none is returned where the label holds, or too few can be asked.
pub(super) fn contradicted(own: usize, neighbours: impl Iterator<Item = usize>) -> Option<Contradicted> {
    let mut votes: Vec<(usize, usize)> = Vec::new();
    let mut of = 0;
    for label in neighbours.take(ASKED) {
        of += 1;
        match votes.iter_mut().find(|(l, _)| *l == label) {
            Some((_, n)) => *n += 1,
            None => votes.push((label, 1)),
        }
    }
    let count = |label: usize| votes.iter().find(|(l, _)| *l == label).map_or(0, |v| v.1);
    let &(instead, most) = votes.iter().filter(|(l, _)| *l != own).max_by_key(|(_, n)| *n)?;
    (of == ASKED && most >= AGAINST && count(own) <= FOR).then_some(Contradicted { instead, votes: most, of })
}

/// Neighbours that are asked.
pub(super) const ASKED: usize = 10;
/// A label is doubtful where so many neighbours have another one, the same, and so few its own.
const AGAINST: usize = 8;
const FOR: usize = 1;
/// Pictures that are compared with all others together: their vectors stay in the processor's cache.
const BLOCK: usize = 16;

/// Gives each column the mean 0 and the variance 1, then each row the length 1.
fn standardise(vectors: &mut [f32], width: usize) {
    let width = width.max(1);
    let n = (vectors.len() / width).max(1) as f64;
    let mut moments = vec![[0.0f64; 2]; width];
    for row in vectors.chunks_exact(width) {
        for (m, v) in moments.iter_mut().zip(row) {
            m[0] += f64::from(*v);
            m[1] += f64::from(*v) * f64::from(*v);
        }
    }
    let scales: Vec<(f32, f32)> = moments
        .iter()
        .map(|[sum, squares]| {
            let mean = sum / n;
            let deviation = (squares / n - mean * mean).max(0.0).sqrt();
            // A column that says the same of all pictures says nothing.
            (mean as f32, if deviation > 1e-6 { (1.0 / deviation) as f32 } else { 0.0 })
        })
        .collect();
    for row in vectors.chunks_exact_mut(width) {
        row.iter_mut().zip(&scales).for_each(|(v, (mean, scale))| *v = (*v - mean) * scale);
        let length = dot(row, row).sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|v| *v /= length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_scikit_learn() {
        let vectors: Vec<f32> = (0..40 * 6).map(|i: usize| ((i * i * 31 + i * 17) % 101) as f32).collect();
        let Neighbours(found) = Neighbours::find(vectors, 6, 4, |_| ());
        for (row, expected) in NEAREST {
            assert_eq!(found[row], expected, "{row}");
        }
    }

    #[test]
    fn a_label_is_doubtful_where_its_neighbours_agree_on_another() {
        let ask = |labels: &[usize]| contradicted(0, labels.iter().copied());
        assert_eq!(ask(&[1; 10]), Some(Contradicted { instead: 1, votes: 10, of: 10 }));
        assert_eq!(ask(&[1, 1, 1, 1, 0, 1, 1, 1, 2, 1, 0, 0, 0]).map(|c| c.votes), Some(8));
        assert_eq!(ask(&[1, 1, 1, 1, 0, 1, 1, 1, 0, 1]), None, "two of its own");
        assert_eq!(ask(&[1, 1, 2, 2, 3, 3, 4, 4, 1, 1]), None, "they do not agree");
        assert_eq!(ask(&[1; 9]), None, "too few");
        assert_eq!(ask(&[0; 10]), None);
    }

    #[test]
    fn the_highest_are_kept() {
        let mut list = vec![];
        for (i, s) in [3, 9, 1, 9, 4].into_iter().enumerate() {
            keep(&mut list, (s, i), 3);
        }
        assert_eq!(list, [(9, 1), (9, 3), (4, 4)]);
    }

    // tests/golden/audit.py
    const NEAREST: [(usize, [usize; 4]); 4] =
        [(0, [19, 20, 12, 1]), (7, [12, 30, 33, 1]), (19, [0, 20, 12, 1]), (39, [14, 23, 30, 18])];
}
