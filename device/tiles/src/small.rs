//! The picture made small while its rows pass: each pixel is the mean of those that it stands for.

use image::RgbImage;

use crate::source::Band;

/// Most pixels of the longer side.
pub(crate) const MAX_SMALL: u32 = 2048;

/// A picture that is being made small.
#[derive(Debug)]
pub(crate) struct Small {
    width: u32,
    height: u32,
    picture: RgbImage,
    /// Sums of the row that is being made, and how many rows are in them.
    sums: Vec<u64>,
    rows: u64,
    /// Rows that have come.
    seen: u32,
    /// The row that is being made.
    row: u32,
}

impl Small {
    pub fn new(width: u32, height: u32) -> Self {
        let longer = width.max(height).max(1);
        let scaled = |side: u32| {
            let side = u64::from(side) * u64::from(MAX_SMALL.min(longer)) / u64::from(longer);
            u32::try_from(side).unwrap_or(MAX_SMALL).max(1)
        };
        let picture = RgbImage::new(scaled(width), scaled(height));
        let sums = vec![0; picture.width() as usize * 3];
        Self { width, height, picture, sums, rows: 0, seen: 0, row: 0 }
    }

    pub fn add(&mut self, band: &Band) {
        let stride = self.width as usize * 3;
        let columns = self.picture.width();
        for line in band.rgb.chunks_exact(stride.max(1)) {
            for (column, sums) in (0..columns).zip(self.sums.chunks_exact_mut(3)) {
                let [from, end] = [column, column + 1].map(|c| part(c, columns, self.width) as usize);
                for pixel in line[from * 3..end * 3].chunks_exact(3) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += u64::from(*v));
                }
            }
            (self.rows, self.seen) = (self.rows + 1, self.seen + 1);
            if self.seen == part(self.row + 1, self.picture.height(), self.height) {
                self.end_row();
            }
        }
    }

    fn end_row(&mut self) {
        let columns = self.picture.width();
        for (column, sums) in (0..columns).zip(self.sums.chunks_exact_mut(3)) {
            let across = u64::from(part(column + 1, columns, self.width) - part(column, columns, self.width));
            let count = (across * self.rows).max(1);
            if let Some(pixel) = self.picture.get_pixel_mut_checked(column, self.row) {
                let mean = |sum: u64| u8::try_from((sum + count / 2) / count).unwrap_or(u8::MAX);
                pixel.0 = [mean(sums[0]), mean(sums[1]), mean(sums[2])];
            }
            sums.fill(0);
        }
        (self.rows, self.row) = (0, self.row + 1);
    }

    pub fn picture(self) -> RgbImage {
        self.picture
    }
}

/// Returns where a part of a length begins, of which there are some.
fn part(number: u32, parts: u32, length: u32) -> u32 {
    u32::try_from(u64::from(number) * u64::from(length) / u64::from(parts.max(1))).unwrap_or(length).min(length)
}
