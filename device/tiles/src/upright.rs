//! From a picture as stored to the upright one and back.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

/// How a picture of some size is turned upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Upright {
    pub orientation: Orientation,
    /// Pixels across, as stored.
    pub width: u32,
    /// Pixels down, as stored.
    pub height: u32,
}

impl Upright {
    /// Returns the size of the upright picture.
    pub fn size(self) -> (u32, u32) {
        if self.is_turned() { (self.height, self.width) } else { (self.width, self.height) }
    }

    fn is_turned(self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(self.orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
    }

    /// Returns where the stored pixels of a square of the upright picture begin.
    pub fn stored(self, x: u32, y: u32, side: u32) -> (u32, u32) {
        let (right, bottom) = (self.width.saturating_sub(side), self.height.saturating_sub(side));
        match self.orientation {
            Orientation::NoTransforms => (x, y),
            Orientation::FlipHorizontal => (right - x, y),
            Orientation::Rotate180 => (right - x, bottom - y),
            Orientation::FlipVertical => (x, bottom - y),
            Orientation::Rotate90FlipH => (y, x),
            Orientation::Rotate90 => (y, bottom - x),
            Orientation::Rotate270FlipH => (right - y, bottom - x),
            Orientation::Rotate270 => (right - y, x),
        }
    }

    /// Turns a part of the stored picture upright.
    pub fn turn(self, part: RgbImage) -> RgbImage {
        if self.orientation == Orientation::NoTransforms {
            return part;
        }
        let mut part = DynamicImage::from(part);
        part.apply_orientation(self.orientation);
        part.into_rgb8()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use image::imageops::crop_imm;

    #[test]
    fn a_square_of_the_upright_picture_is_the_turned_stored_one() {
        let stored = RgbImage::from_fn(13, 9, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let upright = Upright { orientation, width: 13, height: 9 };
            let whole = upright.turn(stored.clone());
            assert_eq!(whole.dimensions(), upright.size());
            for (x, y) in [(0, 0), (2, 1), (upright.size().0 - 4, upright.size().1 - 4), (3, upright.size().1 - 4)] {
                let (left, top) = upright.stored(x, y, 4);
                let part = upright.turn(crop_imm(&stored, left, top, 4, 4).to_image());
                assert_eq!(part, crop_imm(&whole, x, y, 4, 4).to_image(), "{orientation:?} at {x}, {y}");
            }
        }
    }
}
