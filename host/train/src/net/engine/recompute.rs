//! Activations that are computed again on the way back instead of being kept: less memory for about a third more time.
//!
//! # Source
//!
//! Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv:1604.06174.

use std::ops::Range;

use anyhow::Result;
use graft_zoo::Network;

use super::super::shape::Shape;
use super::super::weights::Weights;
use super::{Engine, Pass};

impl Engine {
    /// Settles whether activations are computed again; what is trained is the same to the bit.
    pub(in super::super) fn recompute(&mut self, is_wanted: bool) {
        self.segments =
            if is_wanted { segments(&self.network, &self.shapes, self.first).collect() } else { Vec::new() };
    }

    /// Returns the most bytes that trained nodes have of a picture at once: activations, and gradients of the largest two.
    pub(in super::super) fn activation_bytes(&self) -> usize {
        let largest = self.shapes[self.first..].iter().map(Shape::numbers).max().unwrap_or(0);
        size_of::<f32>() * (numbers(&self.shapes, self.first, &self.segments) + 2 * largest)
    }

    /// Lets go of a segment once the node behind it is computed.
    pub(super) fn let_go_before(&mut self, i: usize) {
        for j in self.segment_before(i) {
            self.spare.push(std::mem::take(&mut self.values[j]));
            self.spare.extend(self.bare[j].take().map(|b| b.values));
        }
    }

    /// Computes a segment again, before the way back comes through the node behind it.
    pub(super) fn bring_back_before(&mut self, weights: &mut Weights, i: usize, pictures: usize) -> Result<()> {
        self.segment_before(i).try_for_each(|j| self.compute(weights, j, pictures, Pass::Again))
    }

    fn segment_before(&self, i: usize) -> Range<usize> {
        self.segments.iter().find(|s| s.end == i).cloned().unwrap_or_default()
    }
}

/// Chooses the segments with which a picture takes the least memory: each ends before a node that all behind it see alone of
/// the trained ones before.
fn segments(network: &Network, shapes: &[Shape], first: usize) -> impl Iterator<Item = Range<usize>> {
    let nodes = network.nodes.len();
    let sees = |j: usize| network.nodes[j].inputs.iter().filter(|&&k| k >= first).min().copied().unwrap_or(j);
    // The first trained node that any node from this one on sees.
    let mut seen = vec![nodes; nodes + 1];
    for j in (first..nodes).rev() {
        seen[j] = sees(j).min(seen[j + 1]);
    }
    let cuts: Vec<usize> = (first..nodes).filter(|&i| seen[i + 1] >= i).collect();
    let within = |most: usize| {
        let (mut found, mut start, mut last) = (vec![], first, None);
        for &cut in &cuts {
            let inner = |end: usize| shapes[start..end].iter().map(Shape::numbers).sum::<usize>();
            if let Some(before) = last.filter(|_| inner(cut) > most) {
                found.push(start..before);
                start = before + 1;
            }
            last = Some(cut);
        }
        found
    };
    let all = numbers(shapes, first, &[]);
    let tried = (1..=MOST_SEGMENTS).map(|k| within(all / k));
    let best = tried.min_by_key(|segments| numbers(shapes, first, segments)).unwrap_or_default();
    best.into_iter().filter(|s| !s.is_empty())
}

/// Returns the most numbers of a picture at once: of the nodes that are kept, and of the largest segment.
fn numbers(shapes: &[Shape], first: usize, segments: &[Range<usize>]) -> usize {
    let of = |nodes: Range<usize>| shapes[nodes].iter().map(Shape::numbers).sum::<usize>();
    let inner = segments.iter().map(|s| of(s.clone()));
    of(first..shapes.len()) - inner.clone().sum::<usize>() + inner.max().unwrap_or(0)
}

/// Segments that are tried at most.
const MOST_SEGMENTS: usize = 64;
