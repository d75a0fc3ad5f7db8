//! Whether two pictures are one photograph: encoded anew, resized, made lighter, mirrored, turned or cropped.
//!
//! Candidates are found by a hash (or by neighbours in feature space, see [`super`]) and verified by laying one picture on the
//! other: nothing is a copy by its hash alone.

use super::gray::Gray;

/// What is kept of a picture to find its copies.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    /// `[9, 9]`, of which the hash is made.
    grid: Gray,
    /// About [`COARSE`] pixels square.
    thumb: Gray,
}

impl Trace {
    pub(super) fn of(picture: &Gray) -> Self {
        Self { grid: picture.resized(9, 9), thumb: picture.thumb(COARSE) }
    }

    /// Returns the hash of one orientation.
    ///
    /// # Source
    ///
    /// The difference hash of Krawetz, *Kind of Like That*, 2013, with differences both along rows and along columns.
    pub(super) fn hash(&self, orientation: u8) -> u128 {
        let grid = self.grid.oriented(orientation);
        let at = |x: usize, y: usize| grid.pixels[9 * y + x];
        let mut hash = 0;
        for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
            hash = hash << 2 | u128::from(at(x + 1, y) > at(x, y)) << 1 | u128::from(at(x, y + 1) > at(x, y));
        }
        hash
    }

    /// Says whether a closer look is worth it, given how the other is turned.
    pub(super) fn may_be(&self, other: &Self, orientation: u8) -> bool {
        let other = other.thumb.oriented(orientation);
        coarse_likeness(&self.thumb, &other) >= WORTH_A_LOOK
    }
}

/// Returns how alike two pictures are, from 0 to 1, the same photograph; they come as large as [`super::quality::SIDE`] shows them.
///
/// Either may be a part of the other that is [`LEAST_SHOWN`] of its side or more.
pub(super) fn likeness(a: &Gray, b: &Gray, orientation: u8) -> f32 {
    let [a, b] = [a.clone(), b.oriented(orientation)].map(|picture| [COARSE, FINE].map(|side| picture.thumb(side)));
    let mut best: f32 = 0.0;
    for (outer, inner) in [(&a, &b), (&b, &a)] {
        best = best.max(fine_likeness(outer, inner));
        if is_stretched(&outer[0], &inner[0]) {
            let [coarse, fine] = [0, 1].map(|i: usize| inner[i].resized(outer[i].width, outer[i].height));
            best = best.max(fine_likeness(outer, &[coarse, fine]));
        }
    }
    best
}

/// Finds the place of a picture in another on the coarse pictures, and compares the fine ones about there.
fn fine_likeness(outer: &[Gray; 2], inner: &[Gray; 2]) -> f32 {
    let coarse = Placed { inner: &inner[0], steps: &STEPS, around: None };
    let Some(found) = coarse.best(&Detail::of(&outer[0], COARSE_DETAIL)) else { return 0.0 };
    let steps = FINE_STEPS.map(|step| (found.share + step).min(1.0));
    let factor = outer[1].width as f32 / outer[0].width as f32;
    let around = [found.x, found.y].map(|v| (v as f32 * factor).round() as usize);
    let fine = Placed { inner: &inner[1], steps: &steps, around: Some(around) };
    fine.best(&Detail::of(&outer[1], FINE_DETAIL)).map_or(0.0, |place| place.score)
}

/// Pictures of at least this likeness are one photograph.
///
/// Of the 3096 pictures of three sets (PlantVillage, coffee leaves, coffee symptoms), among which there are no two of one photograph,
/// the three likeliest pairs have 0.88, 0.86 and 0.85: crops with one edge of a leaf and little else.
pub(super) const SAME: f32 = 0.9;
/// Most bits of 128 by which the hashes of a candidate differ.
pub(super) const HASH_REACH: u32 = 24;
/// The smallest part of a picture's side that a crop may show.
const LEAST_SHOWN: f32 = 0.7;
/// Parts of the side that are tried, and how finely the best is looked at again.
const STEPS: [f32; 13] = [1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 0.725, LEAST_SHOWN];
const FINE_STEPS: [f32; 9] = [-0.03, -0.0225, -0.015, -0.0075, 0.0, 0.0075, 0.015, 0.0225, 0.03];
/// Sides of the pictures that are laid upon each other, and the radius of the box whose mean is taken off them.
const COARSE: usize = 32;
const COARSE_DETAIL: usize = 2;
const FINE: usize = 96;
const FINE_DETAIL: usize = 6;
/// Pixels around a coarse place in which the fine one is looked for.
const FINE_REACH: usize = 4;
/// Less likeness than this of the coarse pictures is none of the fine ones.
const WORTH_A_LOOK: f32 = 0.5;
/// Structure of less than this standard deviation is noise, of 255.
const LEAST_STRUCTURE: f32 = 0.5;

/// Returns the better likeness of either in the other.
fn coarse_likeness(a: &Gray, b: &Gray) -> f32 {
    let mut best: f32 = 0.0;
    for (outer, inner) in [(a, b), (b, a)] {
        let detail = Detail::of(outer, COARSE_DETAIL);
        let score = |inner| Placed { inner, steps: &STEPS, around: None }.best(&detail).map_or(0.0, |p| p.score);
        best = best.max(score(inner));
        if is_stretched(outer, inner) {
            best = best.max(score(&inner.resized(outer.width, outer.height)));
        }
    }
    best
}

fn is_stretched(a: &Gray, b: &Gray) -> bool {
    (a.aspect() / b.aspect()).ln().abs() > 0.03
}

/// The fine structure of a picture, with the sums that tell the mean and the size of every window of it.
struct Detail {
    radius: usize,
    picture: Gray,
    sums: Vec<[f64; 2]>,
}

impl Detail {
    fn of(picture: &Gray, radius: usize) -> Self {
        let picture = picture.detail(radius);
        let (w, h) = (picture.width, picture.height);
        let mut sums = vec![[0.0; 2]; (w + 1) * (h + 1)];
        for y in 0..h {
            let mut line = [0.0; 2];
            for x in 0..w {
                let v = f64::from(picture.pixels[y * w + x]);
                line = [line[0] + v, line[1] + v * v];
                let above = sums[y * (w + 1) + x + 1];
                sums[(y + 1) * (w + 1) + x + 1] = [above[0] + line[0], above[1] + line[1]];
            }
        }
        Self { radius, picture, sums }
    }

    /// Returns the sum of squared differences from the mean in a window.
    fn spread(&self, x: usize, y: usize, width: usize, height: usize) -> f64 {
        let line = self.picture.width + 1;
        let of = |i: usize| {
            let at = |x: usize, y: usize| self.sums[y * line + x][i];
            at(x + width, y + height) - at(x, y + height) - at(x + width, y) + at(x, y)
        };
        of(1) - of(0) * of(0) / (width * height) as f64
    }
}

/// A picture that may be a part of another.
struct Placed<'a> {
    inner: &'a Gray,
    /// Parts of the side of the largest such window that are tried.
    steps: &'a [f32],
    /// Only places around this one are tried.
    around: Option<[usize; 2]>,
}

struct Place {
    score: f32,
    share: f32,
    x: usize,
    y: usize,
}

impl Placed<'_> {
    /// Returns the place of the highest correlation.
    fn best(&self, outer: &Detail) -> Option<Place> {
        let (w, h) = (outer.picture.width, outer.picture.height);
        let aspect = self.inner.aspect();
        let most = (h as f32).min(w as f32 / aspect);
        let mut best: Option<Place> = None;
        for &share in self.steps {
            let across = ((share * most * aspect).round() as usize).min(w);
            let down = ((share * most).round() as usize).min(h);
            if across.min(down) < 8 {
                continue;
            }
            let mut inner = self.inner.resized(across, down).detail(outer.radius).pixels;
            let n = inner.len() as f32;
            let mean = inner.iter().sum::<f32>() / n;
            inner.iter_mut().for_each(|v| *v -= mean);
            let own = dot(&inner, &inner);
            if own < n * LEAST_STRUCTURE * LEAST_STRUCTURE {
                continue;
            }
            let range = |most: usize, around: Option<usize>| match around {
                None => 0..most + 1,
                Some(at) => at.min(most).saturating_sub(FINE_REACH)..(at + FINE_REACH).min(most) + 1,
            };
            for y in range(h - down, self.around.map(|a| a[1])) {
                for x in range(w - across, self.around.map(|a| a[0])) {
                    let spread = outer.spread(x, y, across, down);
                    if spread < f64::from(n * LEAST_STRUCTURE * LEAST_STRUCTURE) {
                        continue;
                    }
                    let rows = inner.chunks_exact(across).zip(outer.picture.pixels.chunks_exact(w).skip(y));
                    let product: f32 = rows.map(|(a, b)| dot(a, &b[x..x + across])).sum();
                    let score = product / (own * spread as f32).sqrt();
                    if best.as_ref().is_none_or(|b| score > b.score) {
                        best = Some(Place { score, share, x, y });
                    }
                }
            }
        }
        best
    }
}

/// Returns the sum of products, in eight lanes: a plain sum of floats is not vectorised.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + rest
}
