//! Changes of levels by a table for each channel.
//!
//! # Source
//!
//! Pillow `ImageOps`: `posterize`, `solarize`, `autocontrast`, `equalize`.

use super::View;

type Table = [u8; 256];

impl View {
    /// Keeps the highest bits of each level.
    pub(super) fn posterize(&mut self, bits: u32) {
        let mask = u8::MAX << 8u32.saturating_sub(bits).min(7);
        self.by_tables([table(|v| v & mask); 3]);
    }

    /// Inverts levels of `threshold` and above.
    pub(super) fn solarize(&mut self, threshold: u8) {
        self.by_tables([table(|v| if v < threshold { v } else { 255 - v }); 3]);
    }

    /// Spreads each channel over all levels.
    pub(super) fn autocontrast(&mut self) {
        self.by_tables(self.histograms().map(|counts| {
            let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
            let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
            if high <= low {
                return table(|v| v);
            }
            let scale = 255.0 / (high - low) as f64;
            table(|v| (f64::from(v) * scale - low as f64 * scale) as u8)
        }));
    }

    /// Has about as many pixels of every level in each channel.
    pub(super) fn equalize(&mut self) {
        self.by_tables(self.histograms().map(|counts| {
            let pixels: usize = counts.iter().sum();
            let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
            let step = (pixels - last) / 255;
            if step == 0 {
                return table(|v| v);
            }
            let mut below = step / 2;
            let mut to = [0; 256];
            for (level, count) in to.iter_mut().zip(counts) {
                *level = u8::try_from(below / step).unwrap_or(u8::MAX);
                below += count;
            }
            to
        }));
    }

    fn by_tables(&mut self, tables: [Table; 3]) {
        for pixel in self.pixels.chunks_exact_mut(3) {
            for (v, table) in pixel.iter_mut().zip(&tables) {
                *v = table[usize::from(*v)];
            }
        }
    }

    fn histograms(&self) -> [[usize; 256]; 3] {
        let mut counts = [[0; 256]; 3];
        for pixel in self.pixels.chunks_exact(3) {
            for (&v, counts) in pixel.iter().zip(&mut counts) {
                counts[usize::from(v)] += 1;
            }
        }
        counts
    }
}

fn table(of: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|v| of(v as u8))
}
