//! The answers of overlapping tiles, joined into a grid of cells.
//!
//! A cell's probability is the mean over its pixels of the tiles that cover each: what tiles say of a cell counts by how much of it
//! they cover. Tiles that the model knows nothing of count apart, and so do those without data.

use crate::grid::{Grid, Tile};

/// What is known of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its probabilities.
    Yes,
    /// Most of what covers it is unlike the pictures that the model was calibrated on.
    Unfamiliar,
    /// Nothing was looked at here: there is no picture.
    Empty,
}

/// Cells over an upright picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    width: u32,
    height: u32,
    cell: u32,
    columns: u32,
    rows: u32,
    classes: usize,
    /// Sums of probabilities, `[rows, columns, classes]`, and of the areas that they count with.
    sums: Vec<f32>,
    weights: Vec<f32>,
    /// Areas of unfamiliar tiles.
    strange: Vec<f32>,
}

impl Heat {
    /// Makes cells as wide as the steps of a grid.
    pub fn new(grid: &Grid, classes: usize) -> Self {
        let ((width, height), cell) = (grid.picture(), grid.step());
        let (columns, rows) = (width.div_ceil(cell), height.div_ceil(cell));
        let cells = columns as usize * rows as usize;
        let (sums, weights, strange) = (vec![0.0; cells * classes], vec![0.0; cells], vec![0.0; cells]);
        Self { width, height, cell, columns, rows, classes, sums, weights, strange }
    }

    /// Adds what a tile of `side` pixels is: probabilities, one a class, or none where it is unfamiliar.
    pub fn add(&mut self, tile: Tile, side: u32, probabilities: Option<&[f32]>) {
        let cell = self.cell;
        let covered = |from: u32, cells: u32| {
            let last = (from + side - 1) / cell;
            (from / cell..=last.min(cells.saturating_sub(1))).map(move |i| {
                let (begin, end) = ((i * cell).max(from), ((i + 1) * cell).min(from + side));
                (i as usize, f64::from(end.saturating_sub(begin)))
            })
        };
        let whole = f64::from(cell) * f64::from(cell);
        let columns: Vec<_> = covered(tile.x, self.columns).collect();
        for (row, down) in covered(tile.y, self.rows) {
            for &(column, across) in &columns {
                let (at, share) = (row * self.columns as usize + column, (down * across / whole) as f32);
                match probabilities {
                    Some(probabilities) => {
                        self.weights[at] += share;
                        let sums = self.sums[at * self.classes..].iter_mut().zip(probabilities);
                        sums.take(self.classes).for_each(|(sum, p)| *sum += share * p);
                    }
                    None => self.strange[at] += share,
                }
            }
        }
    }

    /// Returns the pixels of a cell's side.
    pub fn cell(&self) -> u32 {
        self.cell
    }

    /// Returns the cells across and down.
    pub fn size(&self) -> (u32, u32) {
        (self.columns, self.rows)
    }

    /// Returns the pixels of the picture across and down.
    pub fn picture(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns what is known of a cell.
    pub fn known(&self, column: u32, row: u32) -> Known {
        let at = self.at(column, row);
        let (weight, strange) = (self.weights[at], self.strange[at]);
        match () {
            () if weight + strange <= 0.0 => Known::Empty,
            () if strange > weight => Known::Unfamiliar,
            () => Known::Yes,
        }
    }

    /// Returns the probability of a class in a cell, 0 where it is not known.
    pub fn probability(&self, column: u32, row: u32, class: usize) -> f32 {
        if self.known(column, row) != Known::Yes {
            return 0.0;
        }
        let at = self.at(column, row);
        self.sums.get(at * self.classes + class).map_or(0.0, |sum| sum / self.weights[at])
    }

    /// Returns the column and row of the cell that a point lies in, if it is in the picture.
    pub fn at_pixel(&self, x: f64, y: f64) -> Option<(u32, u32)> {
        let is_inside = (0.0..f64::from(self.width)).contains(&x) && (0.0..f64::from(self.height)).contains(&y);
        is_inside.then(|| (x as u32 / self.cell, y as u32 / self.cell))
    }

    /// Returns the pixels of a cell: left, top, right and bottom, the latter not among them.
    pub fn pixels(&self, column: u32, row: u32) -> [u32; 4] {
        let (left, top) = (column * self.cell, row * self.cell);
        [left, top, (left + self.cell).min(self.width), (top + self.cell).min(self.height)]
    }

    fn at(&self, column: u32, row: u32) -> usize {
        row as usize * self.columns as usize + column as usize
    }
}
