//! Looking at a whole picture: rows come in, tiles are cut of them and looked at, answers are joined.
//!
//! # Memory
//!
//! Of a picture `w` pixels wide, with tiles of `t` pixels a side whose rows are decoded `b` at a time (`Source::band_rows`):
//! `4 w (t + b)` bytes of rows and as many again while a decoder works, `4 (classes + 2)` bytes a cell, `3 * 2048 * 2048` bytes of the
//! picture made small, and a tile and the engine's working memory for each thread. Its height has no part in it but for the cells.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::TilesError;
use crate::grid::{Grid, Tile};
use crate::heat::Heat;
use crate::small::Small;
use crate::source::{Band, Source};
use crate::upright::Upright;

/// Most bytes of the rows that tiles are cut of.
pub const MAX_WINDOW: u64 = 1 << 30;

/// What is to be looked at, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    /// Pixels of a tile's side.
    pub side: u32,
    /// Share of the side by which tiles beside each other overlap.
    pub overlap: f64,
    /// Tiles that are looked at at the same time.
    pub threads: usize,
}

/// What a tile is.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One probability a class.
    pub probabilities: Vec<f32>,
    /// Whether it is unlike the pictures that the model was calibrated on.
    pub is_unfamiliar: bool,
}

/// What a picture is, cell by cell.
#[derive(Debug)]
pub struct Survey {
    /// Its cells.
    pub heat: Heat,
    /// The picture made small, upright.
    pub small: RgbImage,
    /// Pixels of a tile's side.
    pub side: u32,
    /// Tiles in all.
    pub tiles: usize,
    /// Of them, those that are unfamiliar.
    pub unfamiliar: usize,
    /// Of them, those with nothing to look at: more than half of their pixels are transparent or without data.
    pub empty: usize,
    /// How long it took.
    pub took: Duration,
}

/// Looks at all tiles of a picture.
///
/// `look` gets the upright pixels of a tile and is called from several threads; `classes` is the number of probabilities that it
/// gives. `each` is told how many tiles of how many are done, and may end it.
///
/// # Errors
///
/// Those of [`Source::next`], [`Grid::new`] and of `look`; [`TilesError::TooLarge`] where tiles need too much of a picture at a time;
/// [`TilesError::Stopped`].
pub fn survey(
    source: &mut Source,
    tiling: Tiling,
    classes: usize,
    look: &(dyn Fn(&RgbImage) -> Result<Answer, String> + Sync),
    each: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Survey, TilesError> {
    let begin = Instant::now();
    let facts = source.facts();
    let (width, height) = (facts.width, facts.height);
    let upright = Upright { orientation: facts.orientation, width, height };
    let (across, down) = upright.size();
    let grid = Grid::new(across, down, tiling.side, tiling.overlap)?;
    let side = grid.side();
    let needed = (u64::from(side) + u64::from(source.band_rows())) * u64::from(width) * 4;
    if needed > MAX_WINDOW {
        return Err(TilesError::TooLarge {
            what: "the rows that tiles are cut of",
            limit: format!("{} MB", MAX_WINDOW >> 20),
            found: format!("{} MB", needed >> 20),
            remedy: "choose smaller tiles",
        });
    }
    // In the order in which their rows come.
    let mut tiles: Vec<(u32, u32, Tile)> = grid
        .tiles()
        .map(|t| {
            let (x, y) = upright.stored(t.x, t.y, side);
            (y, x, t)
        })
        .collect();
    tiles.sort_unstable_by_key(|(y, x, _)| (*y, *x));
    let mut heat = Heat::new(&grid, classes);
    let mut small = Small::new(width, height);
    let mut window = Window::new(width, side + source.band_rows());
    let mut band = Band::default();
    let (mut done, mut unfamiliar, mut empty) = (0, 0, 0);
    for row in tiles.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(top, ..)) = row.first() else { continue };
        window.leave(top);
        while window.end() < top + side {
            source.next(&mut band)?;
            if band.rows == 0 {
                return Err(TilesError::Truncated { format: source.facts().format, rows: height, found: window.end() });
            }
            small.add(&band);
            window.add(&band);
        }
        let work =
            Work { window: &window, row, side, upright, look, next: AtomicUsize::new(0), answers: Mutex::default() };
        let (answers, total) = (work.run(tiling.threads, &mut |n| each(done + n, grid.len()))?, row.len());
        done += total;
        for (tile, answer) in answers {
            match answer {
                None => empty += 1,
                Some(answer) if answer.is_unfamiliar => {
                    unfamiliar += 1;
                    heat.add(tile, side, None);
                }
                Some(answer) if answer.probabilities.len() == classes => {
                    heat.add(tile, side, Some(&answer.probabilities))
                }
                Some(answer) => {
                    let reason = format!("expected {classes} probabilities, found {}", answer.probabilities.len());
                    return Err(TilesError::Look { x: tile.x, y: tile.y, reason });
                }
            }
        }
    }
    // The tiles reach the last row; a file that ends well is read to its end.
    let small = upright.turn(small.picture());
    Ok(Survey { heat, small, side, tiles: grid.len(), unfamiliar, empty, took: begin.elapsed() })
}

/// A tile and its answer; none where it is empty.
type Looked = (Tile, Result<Option<Answer>, String>);

/// The tiles of a row, taken by several threads.
struct Work<'a> {
    window: &'a Window,
    row: &'a [(u32, u32, Tile)],
    side: u32,
    upright: Upright,
    look: &'a (dyn Fn(&RgbImage) -> Result<Answer, String> + Sync),
    next: AtomicUsize,
    answers: Mutex<Vec<Looked>>,
}

impl Work<'_> {
    /// Returns the answer of each tile; none where it is empty.
    fn run(
        self,
        threads: usize,
        each: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<(Tile, Option<Answer>)>, TilesError> {
        let mut is_stopped = false;
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, self.row.len()) {
                scope.spawn(|| while self.one().is_some() {});
            }
            // This thread works too, and tells of all.
            while let Some(done) = self.one() {
                if each(done).is_break() {
                    is_stopped = true;
                    self.next.store(self.row.len(), Ordering::Relaxed);
                }
            }
        });
        if is_stopped {
            return Err(TilesError::Stopped);
        }
        let mut answers = self.answers.into_inner().unwrap_or_else(|e| e.into_inner());
        // Sums of floats depend on their order.
        answers.sort_unstable_by_key(|(tile, _)| (tile.y, tile.x));
        if each(answers.len()).is_break() {
            return Err(TilesError::Stopped);
        }
        let fail = |tile: Tile, reason| TilesError::Look { x: tile.x, y: tile.y, reason };
        answers.into_iter().map(|(tile, answer)| Ok((tile, answer.map_err(|e| fail(tile, e))?))).collect()
    }

    /// Looks at the next tile and returns how many are done; none where there is none.
    fn one(&self) -> Option<usize> {
        let &(y, x, tile) = self.row.get(self.next.fetch_add(1, Ordering::Relaxed))?;
        let answer = match self.window.cut(x, y, self.side) {
            Some(pixels) => (self.look)(&self.upright.turn(pixels)).map(Some),
            None => Ok(None),
        };
        if answer.is_err() {
            self.next.store(self.row.len(), Ordering::Relaxed);
        }
        let mut answers = self.answers.lock().unwrap_or_else(|e| e.into_inner());
        answers.push((tile, answer));
        Some(answers.len())
    }
}

/// The rows that tiles are cut of.
#[derive(Debug)]
struct Window {
    width: usize,
    /// The row that it begins with.
    first: u32,
    rgb: Vec<u8>,
    /// Of each pixel whether it is transparent.
    clear: Vec<bool>,
}

impl Window {
    /// Makes one with room for some rows.
    fn new(width: u32, rows: u32) -> Self {
        let pixels = width as usize * rows as usize;
        let (rgb, clear) = (Vec::with_capacity(pixels * 3), Vec::with_capacity(pixels));
        Self { width: width as usize, first: 0, rgb, clear }
    }

    fn end(&self) -> u32 {
        self.first + (self.clear.len() / self.width.max(1)) as u32
    }

    fn add(&mut self, band: &Band) {
        self.rgb.extend_from_slice(&band.rgb);
        match band.clear.is_empty() {
            true => self.clear.resize(self.clear.len() + band.rows as usize * self.width, false),
            false => self.clear.extend_from_slice(&band.clear),
        }
    }

    /// Forgets the rows above one.
    fn leave(&mut self, row: u32) {
        let gone = row.saturating_sub(self.first).min(self.end() - self.first);
        self.rgb.drain(..gone as usize * self.width * 3);
        self.clear.drain(..gone as usize * self.width);
        self.first += gone;
    }

    /// Returns the pixels of a square; none where more than half of them are transparent, or some are not here.
    fn cut(&self, x: u32, y: u32, side: u32) -> Option<RgbImage> {
        let (x, side_len) = (x as usize, side as usize);
        let mut pixels = Vec::with_capacity(side_len * side_len * 3);
        let mut clear = 0;
        for row in y.checked_sub(self.first)? as usize..(y - self.first) as usize + side_len {
            let from = row * self.width + x;
            pixels.extend_from_slice(self.rgb.get(from * 3..(from + side_len) * 3)?);
            clear += self.clear.get(from..from + side_len)?.iter().filter(|c| **c).count();
        }
        if clear * 2 > side_len * side_len {
            return None;
        }
        RgbImage::from_raw(side, side, pixels)
    }
}

#[cfg(test)]
mod tests;
