//! The range of least expected squared error, from a histogram.
//!
//! Values are taken to lie evenly within a bin, so the error of a bin is an integral in closed form, exact for steps
//! finer than a bin too.

use super::super::Affine;
use super::{BINS, Observer};

/// What an activation's histogram tells of any range.
pub(super) struct Squares {
    bins: Vec<Bin>,
}

/// Values that lie evenly between two edges, or at one place.
struct Bin {
    from: f64,
    to: f64,
    count: f64,
}

impl Squares {
    pub(super) fn new(observer: &Observer) -> Self {
        let (low, high, width) = (f64::from(observer.low), f64::from(observer.high), observer.width());
        // Exact zeros have no error. Outermost bins end where the values do: an activation that is capped lies at its
        // cap, not below it.
        let bin = |from: f64, to: f64, count: u64| Bin {
            from: from.clamp(low, high),
            to: to.clamp(low, high),
            count: count as f64,
        };
        let positive = observer.nonzero();
        let edge = |i: usize| i as f64 * width;
        let below = observer.negative.iter().enumerate().map(|(i, &n)| bin(-edge(i + 1), -edge(i), n));
        let above = positive.iter().enumerate().map(|(i, &n)| bin(edge(i), edge(i + 1), n));
        Self { bins: below.chain(above).filter(|b| b.count > 0.0).collect() }
    }

    /// Searches both ends in turn, from those of `all`, with ever finer steps.
    ///
    /// Where steps are fine the error is that of clipping, convex in each end, and one that grows with the square of
    /// the range's length: convex together, so taking turns leads to the least.
    pub(super) fn choose(&self, all: (f32, f32)) -> (f32, f32) {
        let mut best = Candidate { error: self.error(all), range: all };
        let sizes: Vec<f64> =
            (0..=A_HALVING * HALVINGS).map(|k| 2f64.powf(-f64::from(k) / f64::from(A_HALVING))).collect();
        best = turns(best, |best| {
            let best = sizes.iter().fold(best, |b, f| self.better(b, (all.0, b.range.1), all, (*f, 1.0)));
            sizes.iter().fold(best, |b, f| self.better(b, (b.range.0, all.1), all, (1.0, *f)))
        });
        let mut parts = 2 * A_HALVING;
        while parts <= FINEST {
            let factor = 2f64.powf(1.0 / f64::from(parts));
            let moves = [(factor, 1.0), (1.0 / factor, 1.0), (1.0, factor), (1.0, 1.0 / factor)];
            best = turns(best, |best| moves.iter().fold(best, |b, by| self.better(b, b.range, all, *by)));
            parts *= 2;
        }
        best.range
    }

    /// Returns the better of a candidate and of a range times factors, no wider than `all`.
    fn better(&self, best: Candidate, from: (f32, f32), all: (f32, f32), by: (f64, f64)) -> Candidate {
        let low = ((f64::from(from.0) * by.0) as f32).max(all.0);
        let high = ((f64::from(from.1) * by.1) as f32).min(all.1);
        if (low, high) == best.range {
            return best;
        }
        let error = self.error((low, high));
        if error < best.error { Candidate { error, range: (low, high) } } else { best }
    }

    /// Returns the summed squared error of a range, in the activation's unit squared.
    fn error(&self, (low, high): (f32, f32)) -> f64 {
        let grid = Affine::from_range(low, high);
        let (step, zero) = (f64::from(grid.scale), f64::from(grid.zero_point));
        let nearest = |x: f64| (x / step).round().clamp(-zero, 255.0 - zero);
        // An integral of the squared error; continuous, as is that error at the borders between levels.
        let integral = |x: f64| {
            let level = nearest(x);
            level * step.powi(3) / 12.0 + (x - level * step).powi(3) / 3.0
        };
        self.bins
            .iter()
            .map(|b| {
                let width = b.to - b.from;
                let mean = if width > 0.0 {
                    (integral(b.to) - integral(b.from)) / width
                } else {
                    (b.from - nearest(b.from) * step).powi(2)
                };
                b.count * mean
            })
            .sum()
    }
}

/// Takes turns until one changes nothing.
fn turns(mut best: Candidate, turn: impl Fn(Candidate) -> Candidate) -> Candidate {
    for _ in 0..TURNS {
        let found = turn(best);
        if found.range == best.range {
            break;
        }
        best = found;
    }
    best
}

#[derive(Clone, Copy)]
struct Candidate {
    error: f64,
    range: (f32, f32),
}

/// Ends of a range are sought at this many sizes a halving, then more finely.
const A_HALVING: i32 = 4;
/// Bins of a half are 2 to this power: no smaller share of an extreme can be told apart.
const HALVINGS: i32 = BINS.ilog2() as i32;
/// The finest step multiplies an end by 2^(1/this).
const FINEST: i32 = 64;
/// A limit on turns, which end by themselves after a few.
const TURNS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn error(values: &[f32], range: (f32, f32)) -> f64 {
        let mut observer = Observer::default();
        observer.observe("x", values).unwrap();
        Squares::new(&observer).error(range)
    }

    #[test]
    fn errors_are_those_of_the_textbook() {
        let even: Vec<f32> = (0..4096).map(|i| (i as f32 + 0.5) / 4096.0).collect();
        let clipped = 4096.0 * (0.125 / 3.0 + 0.25 / 255f64.powi(2) / 24.0);
        let cases = [
            ("a step squared and a twelfth", even.as_slice(), [0.0, 1.0], 4096.0 / 255f64.powi(2) / 12.0),
            ("clipped at a half: a third of its cube", &even, [0.0, 0.5], clipped),
            ("one value beyond", &[3.0; 9], [0.0, 2.0], 9.0),
            ("one value beyond below", &[-3.0; 9], [-1.0, 0.0], 36.0),
            ("one value on the grid", &[3.0; 9], [0.0, 3.0], 0.0),
            ("one value between two levels", &[0.5], [0.0, 255.0], 0.25),
            ("zeros", &[0.0, -0.0, 0.0, 2.0], [0.0, 2.0], 0.0),
        ];
        for (what, values, [low, high], expected) in cases {
            let found = error(values, (low, high));
            assert!((found - expected).abs() <= expected * 0.005 + 1e-12, "{what}: expected {expected}, found {found}");
        }
        // What lies at one place is not spread over its bin.
        assert!((error(&[3.0; 9], (0.0, 2.0)) - 9.0).abs() < 1e-5);
        assert!((error(&[-3.0; 9], (-1.0, 0.0)) - 36.0).abs() < 1e-5);
    }
    #[test]
    fn an_outlier_is_dropped_however_far() {
        let body = |from, to| Bin { from, to, count: 1e9 };
        let outlier = |at| Bin { from: at, to: at, count: 1.0 };
        let one = Squares { bins: vec![body(0.0, 1.0), outlier(200.0)] }.choose((0.0, 200.0));
        assert!(one.0 == 0.0 && (0.97..1.03).contains(&one.1), "{one:?}");
        let bins = vec![outlier(-200.0), body(-1.0, 1.0), outlier(200.0)];
        let both = Squares { bins }.choose((-200.0, 200.0));
        assert!((-1.03..-0.97).contains(&both.0) && (0.97..1.03).contains(&both.1), "{both:?}");
    }
}
