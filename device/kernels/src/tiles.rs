//! What Winograd's methods on numbers and on words share: square tiles of outputs, and the patches of inputs that these see.

/// Returns how many tiles of `side` outputs on each axis an output has.
pub(crate) fn count(out: [usize; 2], side: usize) -> usize {
    out[0].div_ceil(side) * out[1].div_ceil(side)
}

/// Returns the first output of a tile.
#[inline(always)]
pub(crate) fn corner(tile: usize, out: [usize; 2], side: usize) -> [usize; 2] {
    let columns = out[1].div_ceil(side);
    [tile / columns * side, tile % columns * side]
}

/// A picture that tiles lie on.
pub(crate) struct Ground<T> {
    /// Its first number.
    pub data: *const T,
    /// Height and width.
    pub size: [usize; 2],
    /// Numbers from one pixel to the next.
    pub stride: usize,
    /// Rows and columns of padding before it.
    pub before: [usize; 2],
    /// What a pixel of padding is.
    pub padding: *const T,
}

impl<T> Ground<T> {
    /// Returns where the pixels are that a window sees which moves by one pixel, from the output at `corner` on.
    ///
    /// # Safety
    ///
    /// The picture lies at `data`.
    #[inline(always)]
    pub unsafe fn patch<const SIDE: usize>(&self, corner: [usize; 2]) -> [[*const T; SIDE]; SIDE] {
        let [h, w] = self.size;
        let mut from = [[self.padding; SIDE]; SIDE];
        for (dy, row) in from.iter_mut().enumerate() {
            for (dx, p) in row.iter_mut().enumerate() {
                // What lies before the picture wraps round to far behind it.
                let y = (corner[0] + dy).wrapping_sub(self.before[0]);
                let x = (corner[1] + dx).wrapping_sub(self.before[1]);
                if y < h && x < w {
                    *p = self.data.add((y * w + x) * self.stride);
                }
            }
        }
        from
    }
}

/// Returns a column of rows.
#[inline(always)]
pub(crate) fn column<T: Copy, const N: usize, const ROWS: usize>(rows: &[[T; N]; ROWS], x: usize) -> [T; ROWS] {
    let mut column = [rows[0][x]; ROWS];
    for (value, row) in column.iter_mut().zip(rows) {
        *value = row[x];
    }
    column
}
