//! The second moments of a layer's inputs, summed as they come.

use super::super::QuantError;
use super::tiles::{DEPTH, Panels, Part, product};

/// The sums of the products of each two of `k` inputs, over all rows seen: `[k, k]`, in the inputs' unit squared.
///
/// Memory is `4 * k * k` bytes, however many rows. Products of up to 128 rows are summed before they are added, so the
/// relative error grows with a 128th of the number of rows in steps of 2^-24: give many rows a call.
#[derive(Debug, Clone)]
pub struct Gram {
    inputs: usize,
    /// Row-major; below the diagonal zeros or parts of tiles.
    sums: Vec<f32>,
}

impl Gram {
    /// Returns one that has seen nothing, of so many inputs.
    pub fn new(inputs: usize) -> Self {
        Self { inputs, sums: vec![0.0; inputs * inputs] }
    }

    /// Returns the number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Takes in rows `[n, k]`: what each output position of a convolution reads, in the order of its weights.
    ///
    /// # Errors
    ///
    /// [`QuantError::Shape`] if the length is no multiple of `k`, [`QuantError::NotFinite`] if a value is NaN or
    /// infinite; nothing is taken in then.
    pub fn add(&mut self, rows: &[f32]) -> Result<(), QuantError> {
        let k = self.inputs;
        if k == 0 || !rows.len().is_multiple_of(k) {
            return Err(QuantError::Shape { out: k, len: rows.len() });
        }
        if rows.iter().any(|v| !v.is_finite()) {
            return Err(QuantError::NotFinite("the inputs of a layer".into()));
        }
        for some in rows.chunks(DEPTH * k) {
            let left = Panels::<f32, 4>::of_rows(some, k, 0..some.len() / k, 0..k);
            let right = Panels::<f32, 8>::of_rows(some, k, 0..some.len() / k, 0..k);
            product(&left, &right, Part::Upper, |row, column, tile| {
                for (i, values) in tile.iter().enumerate().take(k - row) {
                    let to = &mut self.sums[(row + i) * k..][..k][column..];
                    to.iter_mut().zip(values).for_each(|(o, v)| *o += v);
                }
            });
        }
        Ok(())
    }

    /// Returns the summed product of two inputs, each below [`Gram::inputs`].
    pub fn moment(&self, a: usize, b: usize) -> f32 {
        self.sums[a.min(b) * self.inputs + a.max(b)]
    }
}
