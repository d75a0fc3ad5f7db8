//! Where a picture stands after all clicks on it: open, settled, or labelled differently by two people.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{Entry, Kind};

/// What a person said of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It shows this class.
    Label(String),
    /// It is of no use: blurred, or no leaf.
    Unusable,
}

/// What all clicks on a picture come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody said anything.
    Open,
    /// All who said something agree, or somebody settled it who had seen that they do not.
    Settled(Verdict),
    /// Two people differ. A click by somebody who has seen click `since` settles it.
    Conflict {
        /// The click that the difference came with, or the latest one since that did not know of it.
        since: i64,
    },
}

/// A verdict that counts, with who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vote {
    /// The person.
    pub who: String,
    /// What was said.
    pub verdict: Verdict,
}

/// Replays the clicks on one picture, in the order of their numbers.
///
/// Two people who differ make a conflict, whoever was first and whatever the second one saw: a difference is worth a
/// look. Once it was shown, the next click settles it. A person who changes their own mind makes none.
pub(crate) fn replay(entries: &[Entry]) -> (Standing, Vec<Vote>) {
    let mut votes: BTreeMap<&str, &Verdict> = BTreeMap::new();
    let mut standing = Standing::Open;
    for entry in entries.iter().filter(|e| e.undone_by.is_none()) {
        let Kind::Verdict(verdict) = &entry.kind else { continue };
        if matches!(standing, Standing::Conflict { since } if entry.seen >= since) {
            votes.clear();
        }
        votes.insert(&entry.who, verdict);
        let is_agreed = votes.values().all(|v| *v == verdict);
        standing = if is_agreed { Standing::Settled(verdict.clone()) } else { Standing::Conflict { since: entry.id } };
    }
    let votes = votes.into_iter().map(|(who, verdict)| Vote { who: who.to_owned(), verdict: verdict.clone() });
    (standing, votes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clicks as (who, label or "-" for unusable or "s" for skip, seen), numbered from 1.
    fn clicks(of: &[(&str, &str, i64)]) -> Vec<Entry> {
        let kind = |label: &str| match label {
            "-" => Kind::Verdict(Verdict::Unusable),
            "s" => Kind::Skip,
            label => Kind::Verdict(Verdict::Label(label.to_owned())),
        };
        let entry = |(i, (who, label, seen)): (usize, &(&str, &str, i64))| Entry {
            id: i as i64 + 1,
            file: "a.jpg".into(),
            kind: kind(label),
            who: (*who).into(),
            unix_ms: 0,
            seen: *seen,
            undone_by: None,
        };
        of.iter().enumerate().map(entry).collect()
    }

    fn settled(label: &str) -> Standing {
        Standing::Settled(Verdict::Label(label.into()))
    }

    #[test]
    fn what_clicks_come_to() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str, i64)], Standing);
        let cases: [Case<'_>; 11] = [
            ("nobody", &[], Standing::Open),
            ("a skip is no verdict", &[("ann", "s", 0)], Standing::Open),
            ("one", &[("ann", "rust", 0)], settled("rust")),
            ("a changed mind", &[("ann", "rust", 0), ("ann", "phoma", 1)], settled("phoma")),
            ("two who agree", &[("ann", "rust", 0), ("ben", "rust", 0)], settled("rust")),
            ("two who differ", &[("ann", "rust", 0), ("ben", "phoma", 0)], Standing::Conflict { since: 2 }),
            ("seen and overruled", &[("ann", "rust", 0), ("ben", "phoma", 1)], Standing::Conflict { since: 2 }),
            ("settled by a third", &[("ann", "rust", 0), ("ben", "phoma", 0), ("cy", "rust", 2)], settled("rust")),
            (
                "a third who had not seen it settles nothing",
                &[("ann", "rust", 0), ("ben", "phoma", 0), ("cy", "rust", 1)],
                Standing::Conflict { since: 3 },
            ),
            ("one of the two insists", &[("ann", "rust", 0), ("ben", "phoma", 0), ("ann", "rust", 2)], settled("rust")),
            ("unusable differs from a label", &[("ann", "rust", 0), ("ben", "-", 0)], Standing::Conflict { since: 2 }),
        ];
        for (name, of, expected) in cases {
            assert_eq!(replay(&clicks(of)).0, expected, "{name}");
        }
    }

    #[test]
    fn an_undone_settlement_brings_the_conflict_back() {
        let mut entries = clicks(&[("ann", "rust", 0), ("ben", "phoma", 0), ("ann", "phoma", 2)]);
        assert_eq!(replay(&entries).0, settled("phoma"));
        entries[2].undone_by = Some(4);
        assert_eq!(replay(&entries).0, Standing::Conflict { since: 2 });
        entries[1].undone_by = Some(5);
        let (standing, votes) = replay(&entries);
        assert_eq!((standing, votes.len()), (settled("rust"), 1));
    }
}
