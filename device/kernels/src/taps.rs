//! Where the taps of a window find their input pixels: the table of an indirect convolution.
//!
//! # Source
//!
//! Dukhan, *The Indirect Convolution Algorithm*, arXiv:1907.02129.

use crate::Window;

/// Pictures of one size that a window slides over, one after the other, as addresses.
pub(crate) struct Taps<T> {
    window: Window,
    data: *const T,
    size: [usize; 2],
    /// Numbers from one pixel to the next.
    stride: usize,
    /// Rows of outputs of a picture, and outputs in a row.
    out: [usize; 2],
    /// What a tap sees where it does not fall on the picture.
    padding: *const T,
    /// Numbers from what a tap of one output sees to what that of the next ones does.
    steps: [usize; TILE],
}

impl<T> Taps<T> {
    /// `size` is that of an input, `out` that of its output.
    pub fn new(
        window: Window,
        data: *const T,
        size: [usize; 2],
        stride: usize,
        out: [usize; 2],
        padding: *const T,
    ) -> Self {
        // The rows of a pointwise layer are one. The first of a row of taps looks like one, but has fewer outputs.
        let point = window == Window::POINT && out == size;
        let row = [1, size[0] * size[1]];
        let (size, out) = if point { (row, row) } else { (size, out) };
        let steps = std::array::from_fn(|i| i * window.stride[1] * stride);
        Self { window, data, size, stride, out, padding, steps }
    }

    /// Writes the addresses `[tap, pixel]` for `count` outputs from `pixel` on, [`TILE`] of them at most.
    ///
    /// # Safety
    ///
    /// There is room for [`TILE`] addresses more.
    #[inline(always)]
    pub unsafe fn find(&self, pixel: usize, count: usize, to: *mut *const T) {
        let (mut y, mut x) = (pixel / self.out[1], pixel % self.out[1]);
        let mut done = 0;
        while done < count {
            let len = (self.out[1] - x).min(count - done);
            // A division takes as long as many additions, and most often there is but one picture.
            let (picture, row) = if y < self.out[0] { (0, y) } else { (y / self.out[0], y % self.out[0]) };
            self.find_in_row(picture, [row, x], len, count, to.add(done));
            (done, y, x) = (done + len, y + 1, 0);
        }
    }

    /// Does so for `len` outputs of a row; the addresses of a tap lie `count` after those of the one before.
    #[inline(always)]
    unsafe fn find_in_row(&self, picture: usize, [y, x]: [usize; 2], len: usize, count: usize, mut to: *mut *const T) {
        let w = &self.window;
        let data = self.data.wrapping_add(picture * self.size[0] * self.size[1] * self.stride);
        for ty in 0..w.kernel[0] {
            // What lies before the picture wraps round to far behind it.
            let at_y = (y * w.stride[0] + ty * w.dilation[0]).wrapping_sub(w.before[0]);
            for tx in 0..w.kernel[1] {
                let at_x = (x * w.stride[1] + tx * w.dilation[1]).wrapping_sub(w.before[1]);
                if at_y >= self.size[0] {
                    (0..len).for_each(|i| *to.add(i) = self.padding);
                } else {
                    let at = at_y.wrapping_mul(self.size[1]).wrapping_add(at_x);
                    let start = data.wrapping_add(at.wrapping_mul(self.stride));
                    if len == count {
                        // As many as make vectors; the next tap writes over those too many.
                        (0..TILE).for_each(|i| *to.add(i) = start.wrapping_add(self.steps[i]));
                    } else {
                        (0..len).for_each(|i| *to.add(i) = start.wrapping_add(self.steps[i]));
                    }
                    let last = at_x.wrapping_add((len - 1) * w.stride[1]);
                    if at_x >= self.size[1] || last >= self.size[1] {
                        for i in 0..len {
                            if at_x.wrapping_add(i * w.stride[1]) >= self.size[1] {
                                *to.add(i) = self.padding;
                            }
                        }
                    }
                }
                to = to.add(count);
            }
        }
    }
}

/// Outputs whose addresses are found together; no tile of any instruction set is larger.
pub(crate) const TILE: usize = 8;
