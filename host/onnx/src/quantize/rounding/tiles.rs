//! Products of matrices, tile by tile, in loops that compilers turn into vectors.

use std::ops::{AddAssign, Mul, Range};

/// Rows that are multiplied at once; panels of so many stay in the nearest cache.
pub(super) const DEPTH: usize = 128;
/// Panels of the right matrix that stay in the second cache while those of the left pass.
const AT_ONCE: usize = 32;

/// Some columns of some rows of a matrix, cut into panels of `W` columns; the last is filled up with zeros.
pub(super) struct Panels<T, const W: usize> {
    rows: usize,
    data: Vec<[T; W]>,
}

impl<T: Copy + Default, const W: usize> Panels<T, W> {
    /// Takes rows and columns of a matrix whose rows are `stride` long.
    pub(super) fn of_rows(matrix: &[T], stride: usize, rows: Range<usize>, columns: Range<usize>) -> Self {
        let mut data = Vec::with_capacity(columns.len().div_ceil(W) * rows.len());
        for first in columns.clone().step_by(W) {
            let last = (first + W).min(columns.end);
            for row in rows.clone() {
                let mut values = [T::default(); W];
                values[..last - first].copy_from_slice(&matrix[row * stride + first..row * stride + last]);
                data.push(values);
            }
        }
        Self { rows: rows.len(), data }
    }

    /// Takes the transpose of rows and columns of a matrix: its rows are the panels' columns.
    pub(super) fn of_columns(matrix: &[T], stride: usize, rows: Range<usize>, columns: Range<usize>) -> Self {
        let mut data = Vec::with_capacity(rows.len().div_ceil(W) * columns.len());
        for first in rows.clone().step_by(W) {
            let last = (first + W).min(rows.end);
            for column in columns.clone() {
                let mut values = [T::default(); W];
                values.iter_mut().zip(first..last).for_each(|(v, row)| *v = matrix[row * stride + column]);
                data.push(values);
            }
        }
        Self { rows: columns.len(), data }
    }
}

/// Which tiles of a product are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    Whole,
    /// Those with anything on or above the diagonal.
    Upper,
}

/// Multiplies the transpose of the left matrix by the right one; `store` is given each tile with its row and column.
///
/// A tile at the edge is filled up as the panels are.
pub(super) fn product<T, const N: usize>(
    left: &Panels<T, 4>,
    right: &Panels<T, N>,
    part: Part,
    mut store: impl FnMut(usize, usize, &[[T; N]; 4]),
) where
    T: Copy + Default + Mul<Output = T> + AddAssign,
{
    let rows = left.rows;
    if rows == 0 {
        return;
    }
    for (group, panels) in right.data.chunks(AT_ONCE * rows).enumerate() {
        for (i, a) in left.data.chunks_exact(rows).enumerate() {
            for (j, b) in panels.chunks_exact(rows).enumerate() {
                let (row, column) = (i * 4, (group * AT_ONCE + j) * N);
                if part == Part::Whole || column + N > row {
                    store(row, column, &tile(a, b));
                }
            }
        }
    }
}

fn tile<T, const N: usize>(a: &[[T; 4]], b: &[[T; N]]) -> [[T; N]; 4]
where
    T: Copy + Default + Mul<Output = T> + AddAssign,
{
    let mut sums = [[T::default(); N]; 4];
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += *a * *b;
            }
        }
    }
    sums
}
