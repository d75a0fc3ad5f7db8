//! Splitting a set in two.

use std::collections::BTreeSet;

use super::Dataset;

impl Dataset {
    /// Splits off about `share` of the pictures of each class, or of the groups where the samples have groups.
    ///
    /// Returns (kept, split off) as indices. Which side a picture falls on depends on the seed and the names alone,
    /// never on the order of a directory listing. A class of two or more pictures keeps at least one on each side,
    /// as long as there are no groups.
    pub fn split(&self, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let mut off = BTreeSet::new();
        for class in 0..self.labels.len() {
            let mut plain: Vec<(u64, usize)> = Vec::new();
            for (i, s) in self.samples.iter().enumerate().filter(|(_, s)| s.class == class) {
                match &s.group {
                    Some(group) => {
                        if (rank(seed, group) as f64) < share * u64::MAX as f64 {
                            off.insert(i);
                        }
                    }
                    None => plain.push((rank(seed, &s.key), i)),
                }
            }
            plain.sort_unstable();
            let wanted = (plain.len() as f64 * share).round() as usize;
            let take = if plain.len() < 2 || share <= 0.0 { 0 } else { wanted.clamp(1, plain.len() - 1) };
            off.extend(plain.iter().take(take).map(|p| p.1));
        }
        (0..self.samples.len()).partition(|i| !off.contains(i))
    }
}

fn rank(seed: u64, key: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(key.as_bytes());
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::super::{Location, Sample, Task};
    use super::*;

    #[test]
    fn the_split_is_stratified_and_depends_on_seed_and_names_alone() {
        let files: Vec<String> = (0..40).map(|i| format!("{}/{i}.jpg", if i < 30 { "a" } else { "b" })).collect();
        let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let set = Dataset::open(dir.path(), None).unwrap();
        let (kept, off) = set.split(0.2, 5);
        assert_eq!((kept.len(), off.len()), (32, 8));
        assert_eq!(off.iter().filter(|&&i| set.samples[i].class == 1).count(), 2);
        assert_eq!(set.split(0.2, 5), (kept, off.clone()));
        assert_ne!(set.split(0.2, 6).1, off);
    }

    #[test]
    fn a_group_never_falls_on_both_sides() {
        let mut set = Dataset { task: Task::Classes, labels: vec!["a".into()], samples: vec![], ignored: vec![] };
        for i in 0..200 {
            let key = format!("{i}");
            set.samples.push(Sample {
                location: Location::File(key.clone().into()),
                key,
                class: 0,
                values: vec![],
                group: Some(format!("g{}", i % 20)),
            });
        }
        let (kept, off) = set.split(0.3, 1);
        let groups = |rows: &[usize]| rows.iter().map(|&i| set.samples[i].group.clone()).collect::<BTreeSet<_>>();
        assert!(!off.is_empty() && groups(&kept).is_disjoint(&groups(&off)));
    }
}
