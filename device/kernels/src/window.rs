//! Where a convolution or pool looks: kernel, stride, dilation and padding on both axes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A window that slides over `[h, w]` pixels. Axis 0 is height, axis 1 width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Taps on each axis.
    pub kernel: [usize; 2],
    /// Pixels between two outputs.
    pub stride: [usize; 2],
    /// Pixels between two taps.
    pub dilation: [usize; 2],
    /// Pixels of padding before the picture.
    pub before: [usize; 2],
    /// Pixels of padding behind it.
    pub after: [usize; 2],
}

impl Window {
    /// The window of a pointwise convolution.
    pub const POINT: Self = Self { kernel: [1; 2], stride: [1; 2], dilation: [1; 2], before: [0; 2], after: [0; 2] };

    /// Returns the output size for an input size, or none where the window does not fit.
    pub fn output(&self, input: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |a: usize| {
            let padded = input[a].checked_add(self.before[a])?.checked_add(self.after[a])?;
            let reach = self.kernel[a].checked_sub(1)?.checked_mul(self.dilation[a])?.checked_add(1)?;
            Some(padded.checked_sub(reach)?.checked_div(self.stride[a])? + 1)
        };
        Some([axis(0)?, axis(1)?])
    }

    /// Returns the number of taps, or none where a side is zero or beyond what kernels reckon with.
    pub fn taps_in_all(&self) -> Option<usize> {
        let Self { kernel, stride, dilation, before, after } = self;
        let moves = kernel.iter().chain(stride).chain(dilation).all(|v| (1..=MAX_SIDE).contains(v));
        let sound = moves && before.iter().chain(after).all(|v| *v <= MAX_SIDE);
        if sound { kernel[0].checked_mul(kernel[1]) } else { None }
    }

    /// Returns the window over some rows of a picture, with so many rows of padding above and below instead of its own.
    pub fn over(self, edges: Option<[usize; 2]>) -> Self {
        match edges {
            Some([above, below]) => Self { before: [above, self.before[1]], after: [below, self.after[1]], ..self },
            None => self,
        }
    }

    /// Returns the rows of a picture of `height` rows that a range of output rows sees, and the rows of padding above and
    /// below them.
    pub fn rows(&self, out: Range<usize>, height: usize) -> (Range<usize>, [usize; 2]) {
        let reach = (self.kernel[0] - 1) * self.dilation[0];
        let (first, end) = (out.start * self.stride[0], (out.end.max(1) - 1) * self.stride[0] + reach + 1);
        // Rows are counted from the first of the padding here.
        let (top, bottom) = (self.before[0], self.before[0] + height);
        let seen = first.clamp(top, bottom)..end.clamp(top, bottom);
        let edges = [seen.start.saturating_sub(first).min(end - first), end.saturating_sub(seen.end.max(first))];
        (seen.start - top..seen.end - top, edges)
    }

    /// Returns the taps of an output position that fall on the picture, on one axis of `len` pixels.
    pub(crate) fn taps(&self, axis: usize, at: usize, len: usize) -> Range<usize> {
        let (step, before, start) = (self.dilation[axis], self.before[axis], at * self.stride[axis]);
        // A division takes as long as many additions.
        let count = |pixels: usize| if step == 1 { pixels } else { pixels.div_ceil(step) };
        let first = count(before.saturating_sub(start)).min(self.kernel[axis]);
        let end = count((len + before).saturating_sub(start)).min(self.kernel[axis]);
        first..end.max(first)
    }

    /// Returns the outputs of which every tap falls on the picture, on one axis of `len` pixels with `out` outputs.
    pub(crate) fn inside(&self, axis: usize, len: usize, out: usize) -> Range<usize> {
        let reach = (self.kernel[axis] - 1) * self.dilation[axis];
        let start = self.before[axis].div_ceil(self.stride[axis]).min(out);
        let end = match (len + self.before[axis]).checked_sub(reach + 1) {
            Some(last) => (last / self.stride[axis] + 1).min(out),
            None => 0,
        };
        start..end.max(start)
    }

    /// Returns the pixel that a tap of an output sees, which must fall on the picture.
    pub(crate) fn pixel(&self, axis: usize, at: usize, tap: usize) -> usize {
        at * self.stride[axis] + tap * self.dilation[axis] - self.before[axis]
    }
}

/// Most of anything that a window counts: a network's, read from a file, is refused where it has more.
const MAX_SIDE: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "of safe code alone, and long")]
    fn rows_and_edges_make_up_the_same_outputs() {
        for code in 0..3000_usize {
            let [kernel, stride, dilation] = [code % 5 + 1, code / 5 % 3 + 1, code / 15 % 3 + 1];
            let [before, after, len] = [code / 45 % 4, code / 180 % 4, code / 720 + 3];
            let w = Window {
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [dilation; 2],
                before: [before; 2],
                after: [after; 2],
            };
            let Some([out, _]) = w.output([len; 2]) else { continue };
            for (start, end) in (0..out).flat_map(|s| (s + 1..=out).map(move |e| (s, e))) {
                let (rows, edges) = w.rows(start..end, len);
                if rows.is_empty() {
                    continue;
                }
                let part = w.over(Some(edges));
                assert_eq!(part.output([rows.len(), len]).map(|o| o[0]), Some(end - start), "{w:?} {len} {start}");
                for at in start..end {
                    let seen = |w: &Window, at: usize, len: usize, from: usize| -> Vec<usize> {
                        w.taps(0, at, len).map(|t| w.pixel(0, at, t) + from).collect()
                    };
                    assert_eq!(seen(&part, at - start, rows.len(), rows.start), seen(&w, at, len, 0));
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "of safe code alone, and long")]
    fn outputs_inside_see_no_padding_and_all_others_some() {
        for code in 0..4000_usize {
            let [kernel, stride, dilation] = [code % 5 + 1, code / 5 % 3 + 1, code / 15 % 3 + 1];
            let [before, after, len] = [code / 45 % 4, code / 180 % 4, code / 720 + 1];
            let w = Window {
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [dilation; 2],
                before: [before; 2],
                after: [after; 2],
            };
            let Some([out, _]) = w.output([len; 2]) else { continue };
            let inside = w.inside(0, len, out);
            for at in 0..out {
                assert_eq!(inside.contains(&at), w.taps(0, at, len) == (0..kernel), "{w:?} {len} {at}");
            }
        }
    }
}
