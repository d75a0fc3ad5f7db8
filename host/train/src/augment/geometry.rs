//! Where the camera stood: mirror images, turns, shears and shifts of a view.

use super::{View, level};

impl View {
    /// Exchanges left and right.
    pub(super) fn flip_horizontal(&mut self) {
        for line in self.pixels.chunks_exact_mut(self.side * 3) {
            let (mut left, mut right) = (0, self.side - 1);
            while left < right {
                for channel in 0..3 {
                    line.swap(left * 3 + channel, right * 3 + channel);
                }
                left += 1;
                right -= 1;
            }
        }
    }

    /// Exchanges top and bottom.
    pub(super) fn flip_vertical(&mut self) {
        let line = self.side * 3;
        let (top, bottom) = self.pixels.split_at_mut(self.side / 2 * line);
        for (a, b) in top.chunks_exact_mut(line).zip(bottom.rchunks_exact_mut(line)) {
            a.swap_with_slice(b);
        }
    }

    /// Turns by `turns` times 90 degrees, anticlockwise.
    pub(super) fn quarter_turn(&mut self, turns: usize) {
        if turns % 4 >= 2 {
            self.flip_horizontal();
            self.flip_vertical();
        }
        if turns % 2 == 1 {
            let (side, from) = (self.side, self.pixels.clone());
            let columns = (0..side).rev().flat_map(|x| (0..side).map(move |y| (y * side + x) * 3));
            for (to, at) in self.pixels.chunks_exact_mut(3).zip(columns) {
                to.copy_from_slice(&from[at..at + 3]);
            }
        }
    }

    /// Turns about the centre, anticlockwise.
    pub(super) fn rotate(&mut self, degrees: f32) {
        let (sin, cos) = degrees.to_radians().sin_cos();
        self.warp([cos, -sin, 0.0, sin, cos, 0.0]);
    }

    /// Takes each pixel `(x, y)` from `(m0 x + m1 y + m2, m3 x + m4 y + m5)`, both counted from the centre, bilinearly.
    ///
    /// Beyond its edges the view goes on as its mirror image: black corners would be a mark that no photograph has.
    pub(super) fn warp(&mut self, m: [f32; 6]) {
        let (side, from) = (self.side, &self.pixels);
        let middle = side as f32 / 2.0;
        let mut to = Vec::with_capacity(from.len());
        for y in 0..side {
            let v = y as f32 + 0.5 - middle;
            for x in 0..side {
                let u = x as f32 + 0.5 - middle;
                let (across, dx) = split(m[0] * u + m[1] * v + m[2] + middle - 0.5);
                let (down, dy) = split(m[3] * u + m[4] * v + m[5] + middle - 0.5);
                let [left, right] = [across, across.saturating_add(1)].map(|i| mirrored(i, side) * 3);
                let [top, bottom] = [down, down.saturating_add(1)].map(|i| mirrored(i, side) * side * 3);
                for c in 0..3 {
                    let at = |line: usize, column: usize| f32::from(from[line + column + c]);
                    let above = at(top, left) + (at(top, right) - at(top, left)) * dx;
                    let below = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * dx;
                    to.push(level(above + (below - above) * dy));
                }
            }
        }
        self.pixels = to;
    }
}

/// Returns the whole part, rounded down, and the rest.
fn split(value: f32) -> (i32, f32) {
    let whole = value.floor();
    (whole as i32, value - whole)
}

/// Returns the place in `0..side` that an index stands for where a line goes on as its mirror image at both ends.
fn mirrored(index: i32, side: usize) -> usize {
    let side = i32::try_from(side).unwrap_or(i32::MAX / 2);
    if (0..side).contains(&index) {
        return index as usize;
    }
    let place = index.rem_euclid(2 * side);
    (if place < side { place } else { 2 * side - 1 - place }) as usize
}
