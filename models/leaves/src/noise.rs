//! Noise fields in the plane: value noise, its octaves, and cellular noise.

/// Hashes a lattice point.
#[inline]
pub(crate) fn hash(x: i32, y: i32, seed: u32) -> u32 {
    let mut h = (x as u32).wrapping_mul(0x85eb_ca6b) ^ (y as u32).wrapping_mul(0xc2b2_ae35).rotate_left(13) ^ seed;
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

/// Takes a uniform number in `[0, 1)` out of byte `part` (0 or 1, 16 bits each) of a hash.
pub(crate) fn fraction(hash: u32, part: u32) -> f32 {
    ((hash >> (16 * (part & 1))) & 0xffff) as f32 / 65536.0
}

/// The whole number below `x` and what is left; far outside the plane both merely stay finite.
///
/// `f32::floor` is a call into the C library on plain x86-64, and this is the inmost step of every field.
#[inline]
fn split(x: f32) -> (i32, f32) {
    let whole = x as i32;
    let below = whole.wrapping_sub(i32::from(x < whole as f32));
    (below, (x - below as f32).clamp(0.0, 1.0))
}

/// Smooth value noise in `[0, 1)`, one feature per unit length.
#[inline]
pub(crate) fn value(x: f32, y: f32, seed: u32) -> f32 {
    let ((ix, tx), (iy, ty)) = (split(x), split(y));
    let (tx, ty) = (ease(tx), ease(ty));
    let corner = |dx: i32, dy: i32| fraction(hash(ix.wrapping_add(dx), iy.wrapping_add(dy), seed), 0);
    let top = lerp(corner(0, 0), corner(1, 0), tx);
    let bottom = lerp(corner(0, 1), corner(1, 1), tx);
    lerp(top, bottom, ty)
}

/// Octaves of value noise, each of half the size and half the height, scaled back to `[0, 1)`.
pub(crate) fn octaves(x: f32, y: f32, seed: u32, count: u32) -> f32 {
    let (mut sum, mut total, mut height, mut scale) = (0.0, 0.0, 1.0, 1.0);
    for octave in 0..count {
        sum += height * value(x * scale, y * scale, seed.wrapping_add(octave.wrapping_mul(0x9e37_79b9)));
        total += height;
        height *= 0.5;
        scale *= 2.03;
    }
    sum / f32::max(total, 1.0)
}

/// What cellular noise knows of a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    /// Distance to the nearest feature point.
    pub(crate) nearest: f32,
    /// Distance to the second nearest.
    pub(crate) second: f32,
    /// Hash of the nearest cell.
    pub(crate) id: u32,
}

/// Cellular (Worley) noise with one feature point per unit square.
pub(crate) fn cells(x: f32, y: f32, seed: u32) -> Cell {
    let ((ix, _), (iy, _)) = (split(x), split(y));
    let mut cell = Cell { nearest: 9.0, second: 9.0, id: 0 };
    for dy in -1..=1 {
        for dx in -1..=1 {
            let (cx, cy) = (ix.wrapping_add(dx), iy.wrapping_add(dy));
            let id = hash(cx, cy, seed);
            let px = cx as f32 + fraction(id, 0) - x;
            let py = cy as f32 + fraction(id, 1) - y;
            let distance = px * px + py * py;
            if distance < cell.nearest {
                cell = Cell { nearest: distance, second: cell.nearest, id };
            } else if distance < cell.second {
                cell.second = distance;
            }
        }
    }
    Cell { nearest: cell.nearest.sqrt(), second: cell.second.sqrt(), ..cell }
}

pub(crate) fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Rises smoothly from 0 at `low` to 1 at `high`; falls where `high < low`.
pub(crate) fn step(low: f32, high: f32, x: f32) -> f32 {
    let span = high - low;
    if span == 0.0 {
        return if x < low { 0.0 } else { 1.0 };
    }
    ease(((x - low) / span).clamp(0.0, 1.0))
}

fn ease(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_stays_in_its_range_and_is_continuous() {
        let mut last = value(0.0, 0.0, 7);
        for i in 0..4000 {
            let x = i as f32 * 0.01 - 20.0;
            let here = value(x, x * 0.3, 7);
            assert!((0.0..1.0).contains(&here));
            assert!((0.0..1.0).contains(&octaves(x, 1.0, 3, 4)));
            if i > 0 {
                assert!((here - last).abs() < 0.05, "jump at {x}");
            }
            last = here;
        }
    }

    #[test]
    fn far_coordinates_do_not_overflow() {
        for x in [f32::MAX, f32::MIN, f32::INFINITY, f32::NAN] {
            let _ = (value(x, x, 1), octaves(x, x, 1, 3), cells(x, x, 1));
        }
    }
}
