//! Runs a few convolutions in a row by bands of rows, so that what is between them stays in the cache.
//!
//! An inverted residual block widens its input, filters it and narrows it again: what is between is several times as large
//! as either end. Each band of output rows asks for the rows it sees; those that the band before left are kept.
//!
//! # Source
//!
//! Alwani et al., *Fused-Layer CNN Accelerators*, MICRO 2016.

use std::ops::Range;

use graft_kernels::int8::Output;
use graft_kernels::{Buffer, Isa, Threads};

use crate::program::{Link, Shape, Step, output};
use crate::work::{Numbers, Operand, Work};

/// Memory of what is between the links of a step.
pub(crate) type Bands = [Buffer<u8>; BETWEEN];

/// Most activations between the links of a step.
pub(crate) const BETWEEN: usize = 2;

/// Puts steps together where only the next reads what one makes, and that would not stay in the cache.
///
/// Slots are numbered as the steps are, before and after.
pub(crate) fn fuse(steps: Vec<Step>, outputs: &mut [Shape]) -> Vec<Step> {
    let mut readers = vec![0; steps.len()];
    let read = steps.iter().flat_map(|s| s.from.iter().chain(&s.other)).chain(outputs.iter());
    read.for_each(|shape| readers[shape.slot] += 1);
    let mut fused: Vec<Step> = Vec::new();
    let mut place = Vec::with_capacity(steps.len());
    for (index, step) in steps.into_iter().enumerate() {
        match fused.last_mut() {
            Some(last)
                if last.to.slot + 1 == index
                    && step.from.is_some_and(|from| from.slot == last.to.slot)
                    && readers[last.to.slot] == 1
                    && step.other.is_none_or(|other| other.slot != last.to.slot)
                    && joins(&last.links, &step.links, last.other.is_some()) =>
            {
                (last.name, last.other, last.to) = (step.name, step.other, step.to);
                last.links.extend(step.links);
            }
            _ => fused.push(step),
        }
        place.push(fused.len() - 1);
    }
    let moved = |shape: &mut Shape| shape.slot = place[shape.slot];
    for step in &mut fused {
        step.from.iter_mut().chain(&mut step.other).for_each(moved);
        moved(&mut step.to);
    }
    outputs.iter_mut().for_each(moved);
    fused
}

/// Whether a step goes on with another: a convolution with the depthwise one after it, those two with the convolution that
/// narrows again.
fn joins(links: &[Link], next: &[Link], adds: bool) -> bool {
    let [next] = next else { return false };
    let last = &links[links.len() - 1];
    let dense = |work: &Work| matches!(work, Work::Conv(_) | Work::ByteConv(_));
    let depthwise = |work: &Work| matches!(work, Work::Depthwise(_) | Work::ByteDepthwise(_));
    let fits = match links {
        [first] => dense(&first.work) && depthwise(&next.work) && last.line_bytes() * last.extent.size[0] > CACHED,
        [_, second] => depthwise(&second.work) && dense(&next.work),
        _ => false,
    };
    fits && !adds
}

/// Returns the bytes that the bands of all steps need at most.
pub(crate) fn bytes(steps: &[Step]) -> [usize; BETWEEN] {
    let mut most = [0; BETWEEN];
    for links in steps.iter().map(|s| &s.links[..]).filter(|l| l.len() > 1) {
        let mut cut = Cut::new(links);
        while cut.next(links) {
            for (j, most) in most.iter_mut().enumerate().take(links.len() - 1) {
                *most = (*most).max((cut.compute[j].end - cut.kept[j]) * links[j].line_bytes());
            }
        }
    }
    most
}

/// Which rows each link computes in a band, and which it keeps of those before.
struct Cut {
    /// Output rows of a band.
    band: usize,
    /// Rows that each link computes.
    compute: [Range<usize>; BETWEEN + 1],
    /// First row that each band between still holds or, for the input, is seen.
    kept: [usize; BETWEEN],
}

impl Cut {
    fn new(links: &[Link]) -> Self {
        // Rows of what is between for each row of the output; one that moves by two rows sees two new ones.
        let (mut rows, mut line) = (1, 0);
        for j in (1..links.len()).rev() {
            rows *= links[j].work.window().map_or(1, |w| w.stride[0]);
            line += links[j - 1].line_bytes() * rows;
        }
        let band = (BAND / line.max(1)).max(1);
        Self { band, compute: Default::default(), kept: [0; BETWEEN] }
    }

    /// Goes on to the next band; false after the last.
    fn next(&mut self, links: &[Link]) -> bool {
        let last = links.len() - 1;
        let start = self.compute[last].end;
        let height = links[last].extent.size[0];
        if start == height {
            return false;
        }
        self.compute[last] = start..height.min(start + self.band);
        for j in (0..last).rev() {
            let window = links[j + 1].work.window().expect("a link is a convolution");
            let (seen, _) = window.rows(self.compute[j + 1].clone(), links[j].extent.size[0]);
            self.kept[j] = seen.start.min(self.compute[j].end);
            self.compute[j] = self.compute[j].end..seen.end.max(self.compute[j].end);
        }
        true
    }
}

/// Runs the links of a step.
pub(crate) fn run(
    links: &[Link],
    isa: Isa,
    threads: &mut Threads,
    bands: &mut Bands,
    from: Operand<'_>,
    other: Option<Operand<'_>>,
    to: &mut Output<'_>,
) {
    let mut cut = Cut::new(links);
    let mut held = [0; BETWEEN];
    while cut.next(links) {
        for (j, link) in links.iter().enumerate() {
            let rows = cut.compute[j].clone();
            if rows.is_empty() {
                continue;
            }
            let window = link.work.window().expect("a link is a convolution");
            let mut own = Buffer::default();
            if j < BETWEEN && j + 1 < links.len() {
                // Rows that the next link sees again move to the front.
                let line = link.line_bytes();
                let (keep, end) = (cut.kept[j], rows.start);
                bands[j].copy_within((keep - held[j]) * line..(end - held[j]) * line, 0);
                held[j] = keep;
                own = std::mem::take(&mut bands[j]);
            }
            let input = match j {
                0 => from,
                _ => {
                    let before = &links[j - 1];
                    let len = (cut.compute[j - 1].end - held[j - 1]) * before.line();
                    let numbers = match before.grid {
                        Some(grid) => Numbers::Bytes(&bands[j - 1][..len], grid),
                        None => Numbers::Floats(&bands[j - 1].read()[..len]),
                    };
                    let size = [before.extent.size[0], before.extent.size[1]];
                    Operand { numbers, size, channels: before.extent.channels, stride: before.stride, edges: None }
                }
            };
            let (seen, edges) = window.rows(rows.clone(), input.size[0]);
            let first = if j == 0 { 0 } else { held[j - 1] };
            let input = part(input, seen.start - first..seen.end - first, seen.len(), edges);
            if j + 1 < links.len() {
                let line = link.line();
                let range = (rows.start - held[j]) * line..(rows.end - held[j]) * line;
                link.work.run(isa, threads, input, None, &mut output(&mut own, link.grid, range));
                bands[j] = own;
            } else {
                let line = link.line();
                let range = rows.start * line..rows.end * line;
                let other = other.map(|o| part(o, rows.clone(), rows.len(), [0; 2]));
                let mut to = match to {
                    Output::Bytes(to) => Output::Bytes(&mut to[range]),
                    Output::Floats(to) => Output::Floats(&mut to[range]),
                };
                link.work.run(isa, threads, input, other, &mut to);
            }
        }
    }
}

/// Returns some rows of an operand, `rows` of its numbers.
fn part(of: Operand<'_>, rows: Range<usize>, height: usize, edges: [usize; 2]) -> Operand<'_> {
    let line = of.size[1] * of.stride;
    let range = rows.start * line..rows.end * line;
    let numbers = match of.numbers {
        Numbers::Floats(floats) => Numbers::Floats(&floats[range]),
        Numbers::Bytes(bytes, grid) => Numbers::Bytes(&bytes[range], grid),
    };
    Operand { numbers, size: [height, of.size[1]], edges: Some(edges), ..of }
}

/// Bytes between two links up to which they are not worth banding: on a machine with 1 MB of second cache, bands gained a
/// tenth of MobileNetV2 in single precision above this, and lost a twentieth of it in bytes below.
const CACHED: usize = 1280 << 10;
/// Bytes between all links of a step that a band fills, the rows that are kept aside.
const BAND: usize = 256 << 10;
