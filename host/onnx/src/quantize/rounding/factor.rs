//! The Cholesky factor of a symmetric matrix, by blocks.

use super::tiles::{DEPTH, Panels, Part, product};

/// Turns the upper half of a matrix `[k, k]` into the `u` of which it is the transpose times `u`.
///
/// No pivot is taken below `floor`. What is below the diagonal is neither read nor written.
pub(super) fn upper(matrix: &mut [f64], k: usize, floor: f64) {
    for start in (0..k).step_by(DEPTH) {
        let end = (start + DEPTH).min(k);
        for t in start..end {
            let (head, tail) = matrix.split_at_mut((t + 1) * k);
            let row = &mut head[t * k..];
            let root = row[t].max(floor).sqrt();
            row[t] = root;
            row[t + 1..].iter_mut().for_each(|v| *v /= root);
            for (below, other) in tail.chunks_exact_mut(k).enumerate().take(end - t - 1) {
                let at = t + 1 + below;
                let factor = row[at];
                other[at..].iter_mut().zip(&row[at..]).for_each(|(o, v)| *o -= factor * v);
            }
        }
        let left = Panels::<f64, 4>::of_rows(matrix, k, start..end, end..k);
        let right = Panels::<f64, 4>::of_rows(matrix, k, start..end, end..k);
        product(&left, &right, Part::Upper, |row, column, tile| {
            for (i, values) in tile.iter().enumerate().take(k - end - row) {
                let to = &mut matrix[(end + row + i) * k..][..k][end + column..];
                to.iter_mut().zip(values).for_each(|(o, v)| *o -= v);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_that_of_the_textbook() {
        // The example of Wikipedia's "Cholesky decomposition"; the lower half is left alone.
        let mut matrix = [4.0, 12.0, -16.0, 7.0, 37.0, -43.0, 7.0, 7.0, 98.0];
        upper(&mut matrix, 3, 1e-9);
        assert_eq!(matrix, [2.0, 6.0, -8.0, 7.0, 1.0, 5.0, 7.0, 7.0, 3.0]);
    }

    #[test]
    fn a_matrix_that_has_no_factor_gives_numbers() {
        let mut matrix = [1.0, 2.0, 2.0, 1.0];
        upper(&mut matrix, 2, 0.25);
        assert_eq!(matrix, [1.0, 2.0, 2.0, 0.5]);
    }
}
