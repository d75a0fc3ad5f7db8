//! Hot spots: cells of a class that hang together, by sides or corners, each of at least a probability.

use serde::Serialize;

use crate::heat::{Heat, Known};

/// Cells of a class that hang together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spot {
    /// Number of the class.
    pub class: usize,
    /// Pixels from the left to the middle of its area.
    pub x: f64,
    /// Pixels from the top to the middle of its area.
    pub y: f64,
    /// Left, top, right and bottom of the pixels that it lies in; the latter two are not among them.
    pub bounds: [u32; 4],
    /// Cells.
    pub cells: usize,
    /// Pixels of the picture in them.
    pub area: u64,
    /// The largest probability of a cell.
    pub peak: f32,
    /// The mean of the cells' probabilities.
    pub mean: f32,
    /// The middle of the cell of the largest probability.
    pub peak_at: (f64, f64),
}

/// Finds the spots of some classes, those of the largest sum of probabilities first.
pub fn spots(heat: &Heat, classes: &[usize], above: f32) -> Vec<Spot> {
    let mut found = vec![];
    for &class in classes {
        let (columns, rows) = heat.size();
        let mut seen = vec![false; columns as usize * rows as usize];
        for row in 0..rows {
            for column in 0..columns {
                found.extend(grow(heat, class, above, &mut seen, (column, row)));
            }
        }
    }
    let sum = |s: &Spot| s.mean * s.cells as f32;
    found.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    found
}

/// Returns the spot that a cell belongs to, if it belongs to one that was not seen yet.
fn grow(heat: &Heat, class: usize, above: f32, seen: &mut [bool], from: (u32, u32)) -> Option<Spot> {
    let (columns, rows) = heat.size();
    let at = |(column, row): (u32, u32)| row as usize * columns as usize + column as usize;
    let is_hot = |(column, row): (u32, u32)| {
        heat.known(column, row) == Known::Yes && heat.probability(column, row, class) >= above
    };
    if seen[at(from)] || !is_hot(from) {
        return None;
    }
    seen[at(from)] = true;
    let mut open = vec![from];
    let (mut area, mut x, mut y, mut sum, mut cells) = (0_u64, 0.0, 0.0, 0.0, 0_usize);
    let (mut peak, mut peak_at) = (0.0_f32, (0.0, 0.0));
    let mut bounds = [u32::MAX, u32::MAX, 0, 0];
    while let Some((column, row)) = open.pop() {
        let [left, top, right, bottom] = heat.pixels(column, row);
        let own = u64::from(right - left) * u64::from(bottom - top);
        let middle = (f64::from(left + right) / 2.0, f64::from(top + bottom) / 2.0);
        (area, cells) = (area + own, cells + 1);
        (x, y) = (x + own as f64 * middle.0, y + own as f64 * middle.1);
        bounds = [bounds[0].min(left), bounds[1].min(top), bounds[2].max(right), bounds[3].max(bottom)];
        let probability = heat.probability(column, row, class);
        sum += probability;
        if probability > peak {
            (peak, peak_at) = (probability, middle);
        }
        for next_row in row.saturating_sub(1)..=(row + 1).min(rows - 1) {
            for next_column in column.saturating_sub(1)..=(column + 1).min(columns - 1) {
                let next = (next_column, next_row);
                if !seen[at(next)] && is_hot(next) {
                    seen[at(next)] = true;
                    open.push(next);
                }
            }
        }
    }
    let (x, y, mean) = (x / area as f64, y / area as f64, sum / cells as f32);
    Some(Spot { class, x, y, bounds, cells, area, peak, mean, peak_at })
}

#[cfg(test)]
mod tests;
