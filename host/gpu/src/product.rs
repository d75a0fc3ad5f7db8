//! Products of matrices.

use anyhow::Result;

use crate::device::{Gpu, Part, Precision};

/// A matrix that lies row by row.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub(crate) part: Part<'a>,
    /// Numbers from one row to the next.
    pub(crate) columns: usize,
    pub(crate) is_f32: bool,
    pub(crate) turned: bool,
}

impl<'a> Matrix<'a> {
    /// Takes rows of f32.
    pub fn of_floats(part: Part<'a>, columns: usize) -> Self {
        Self { part, columns, is_f32: true, turned: false }
    }

    /// Takes a map's pixels, of the GPU's precision.
    pub fn of_map(gpu: &Gpu, part: Part<'a>, channels: usize) -> Self {
        Self { part, columns: channels, is_f32: gpu.precision() != Precision::Bf16, turned: false }
    }

    /// Takes its columns for rows.
    #[must_use]
    pub fn turned(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    fn check(&self, what: &str, rows: usize, columns: usize) {
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        let needed = (rows.max(1) - 1) * self.columns + columns;
        let bytes = needed * if self.is_f32 { 4 } else { 2 };
        assert!(
            columns <= self.columns && bytes <= self.part.bytes,
            "{what}: {rows} x {columns} of {}",
            self.part.bytes
        );
    }
}

/// A product to be made: `c[m, n] = a[m, k] b[k, n]`, added to what is there or not.
pub struct Order<'a> {
    /// m, n and k.
    pub sizes: [usize; 3],
    /// The left one.
    pub a: Matrix<'a>,
    /// The right one.
    pub b: Matrix<'a>,
    /// What is written.
    pub c: Matrix<'a>,
    /// Whether it is added to what is there.
    pub adds: bool,
}

impl Gpu {
    /// Queues a product.
    ///
    /// # Errors
    ///
    /// If cuBLAS fails.
    ///
    /// # Panics
    ///
    /// If a matrix is smaller than the sizes say, or the left and the right one are of different numbers.
    pub fn product(&self, order: &Order<'_>) -> Result<()> {
        let [m, n, k] = order.sizes;
        order.a.check("left", m, k);
        order.b.check("right", k, n);
        order.c.check("product", m, n);
        assert!(!order.c.turned && order.a.is_f32 == order.b.is_f32, "factors of different numbers");
        self.multiply(order)
    }
}
