//! Which tiles a picture is looked at in: squares that overlap, the last of a row and column moved inside, so that each pixel is in one.

use crate::TilesError;

/// Most tiles of a picture.
pub const MAX_TILES: u64 = 4_000_000;
/// Fewest and most pixels of a tile's side.
pub const SIDES: std::ops::RangeInclusive<u32> = 16..=4096;
/// Largest overlap of two tiles beside each other, as a share of the side.
pub const MAX_OVERLAP: f64 = 0.9;

/// Tiles of an upright picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    width: u32,
    height: u32,
    side: u32,
    step: u32,
    columns: Vec<u32>,
    rows: Vec<u32>,
}

/// A tile: the square of pixels from `x`, `y` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Pixels to the left of it.
    pub x: u32,
    /// Pixels above it.
    pub y: u32,
}

impl Grid {
    /// Lays tiles of a side over a picture of some size. Where the picture is lower or narrower than a tile, tiles are as small.
    ///
    /// # Errors
    ///
    /// [`TilesError::Setting`] where side or overlap are out of their ranges, [`TilesError::TooLarge`] for too many tiles.
    pub fn new(width: u32, height: u32, side: u32, overlap: f64) -> Result<Self, TilesError> {
        if !SIDES.contains(&side) {
            let expected = format!("a tile of {} to {} pixels a side", SIDES.start(), SIDES.end());
            return Err(TilesError::Setting { expected, found: side.to_string() });
        }
        if !(0.0..=MAX_OVERLAP).contains(&overlap) {
            let expected = format!("an overlap of 0 to {MAX_OVERLAP} of a tile's side");
            return Err(TilesError::Setting { expected, found: overlap.to_string() });
        }
        let side = side.min(width).min(height).max(1);
        // At least one and at most the side, as the overlap is.
        let step = ((f64::from(side) * (1.0 - overlap)).round() as u32).max(1);
        let along = |length: u32| u64::from((length.saturating_sub(side)).div_ceil(step)) + 1;
        let count = along(width) * along(height);
        if count > MAX_TILES {
            return Err(TilesError::TooLarge {
                what: "a grid",
                limit: format!("{MAX_TILES} tiles"),
                found: count.to_string(),
                remedy: "choose larger tiles or a smaller overlap",
            });
        }
        let [columns, rows] = [width, height].map(|length| {
            let last = length.saturating_sub(side);
            (0..along(length)).map(|i| u32::try_from(i * u64::from(step)).unwrap_or(last).min(last)).collect()
        });
        Ok(Self { width, height, side, step, columns, rows })
    }

    /// Returns the pixels of a tile's side.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// Returns the pixels from one tile to the next.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Returns the size of the picture.
    pub fn picture(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Returns the number of tiles.
    pub fn len(&self) -> usize {
        self.columns.len() * self.rows.len()
    }

    /// Whether there is no tile, which is never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tiles, row by row.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        self.rows.iter().flat_map(|&y| self.columns.iter().map(move |&x| Tile { x, y }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pixel_is_in_a_tile_and_no_tile_outside(
            width in 8_u32..300, height in 8_u32..300, side in 16_u32..120, overlap in 0.0..0.9_f64
        ) {
            let grid = Grid::new(width, height, side, overlap).unwrap();
            let mut seen = vec![false; (width * height) as usize];
            let tiles: Vec<Tile> = grid.tiles().collect();
            prop_assert_eq!(tiles.len(), grid.len());
            for tile in &tiles {
                prop_assert!(tile.x + grid.side() <= width && tile.y + grid.side() <= height);
                for y in tile.y..tile.y + grid.side() {
                    seen[(y * width + tile.x) as usize..][..grid.side() as usize].fill(true);
                }
            }
            prop_assert!(seen.iter().all(|s| *s));
            let mut unique = tiles.clone();
            unique.dedup();
            prop_assert_eq!(unique.len(), tiles.len());
        }
    }

    #[test]
    fn neighbours_overlap_by_what_was_asked_for() {
        let grid = Grid::new(1000, 500, 200, 0.25).unwrap();
        let columns: Vec<u32> = grid.tiles().take(7).map(|t| t.x).collect();
        assert_eq!(columns, [0, 150, 300, 450, 600, 750, 800], "the last one is moved inside");
    }

    #[test]
    fn a_picture_smaller_than_a_tile_is_one_tile() {
        let grid = Grid::new(90, 90, 224, 0.25).unwrap();
        assert_eq!((grid.len(), grid.side()), (1, 90));
    }

    #[test]
    fn new_refuses_what_cannot_be() {
        for (side, overlap) in [(15, 0.0), (5000, 0.0), (224, 1.0), (224, -0.1), (224, f64::NAN)] {
            let error = Grid::new(1000, 1000, side, overlap).unwrap_err();
            assert!(matches!(error, TilesError::Setting { .. }), "{error}");
        }
        let error = Grid::new(4_000_000, 4_000_000, 16, 0.0).unwrap_err();
        assert!(matches!(error, TilesError::TooLarge { .. }), "{error}");
    }
}
