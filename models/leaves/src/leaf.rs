//! A leaf: outline, veins, colour and pose; knows nothing of disease.

use crate::{
    exact::{cos, direction, floor, length, pow, sin},
    noise::{cells, fraction, lerp, octaves, step},
    picture::{Colour, Picture, hsv, mixed, scaled},
    rng::Rng,
};
use std::f32::consts::TAU;

/// The families of outline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outline {
    /// A smooth or wavy margin.
    Entire,
    /// Teeth along the margin.
    Serrate,
    /// A few deep lobes.
    Lobed,
    /// Many times longer than wide.
    Narrow,
}

/// Where a leaf lies in the picture, in units of its side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pose {
    pub(crate) centre: (f32, f32),
    pub(crate) angle: f32,
    pub(crate) length: f32,
}

/// A leaf with its own axes: `u` runs from base (0) to tip (1), `v` across, both in leaf lengths.
#[derive(Debug)]
pub(crate) struct Leaf {
    base: (f32, f32),
    along: (f32, f32),
    pub(crate) length: f32,
    bend: f32,
    sides: [Vec<f32>; 2],
    widest: f32,
    pub(crate) veins: Veins,
    skin: Skin,
}

/// The veins of a leaf: a midrib and pairs of side veins.
#[derive(Debug)]
pub(crate) struct Veins {
    pairs: f32,
    slope: f32,
    curve: f32,
    stagger: f32,
    width: f32,
}

#[derive(Debug)]
struct Skin {
    flesh: Colour,
    shade: Colour,
    vein: Colour,
    vein_strength: f32,
    net_strength: f32,
    relief: f32,
    fold: f32,
    gloss: f32,
    gloss_at: (f32, f32),
    blotch_scale: f32,
    seed: u32,
}

/// What is known of one pixel of a leaf.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Point {
    /// Share of the pixel that the leaf covers.
    pub(crate) cover: f32,
    /// Place along the midrib.
    pub(crate) u: f32,
    /// Place across the midrib.
    pub(crate) v: f32,
    /// Distance to the margin in leaf lengths; 0 on it.
    pub(crate) margin: f32,
    /// How much of a vein is here, 0 to 1.
    pub(crate) vein: f32,
}

/// The pixels of a painted leaf, one point for each pixel of the picture.
#[derive(Debug)]
pub(crate) struct Tissue(Vec<Point>);

impl Tissue {
    pub(crate) fn cover(&self, index: usize) -> f32 {
        self.0.get(index).map_or(0.0, |p| p.cover)
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.0
    }
}

impl Leaf {
    pub(crate) fn grow(outline: Outline, pose: Pose, flesh: Colour, rng: &mut Rng) -> Self {
        let width = match outline {
            Outline::Entire => rng.range(0.17, 0.42),
            Outline::Serrate => rng.range(0.2, 0.4),
            Outline::Lobed => rng.range(0.32, 0.48),
            Outline::Narrow => rng.range(0.05, 0.1),
        };
        let (blunt_base, blunt_tip) = (rng.range(0.4, 0.9), rng.range(0.55, 1.2));
        let form = Form {
            outline,
            count: match outline {
                Outline::Serrate => rng.count(9, 26) as f32,
                Outline::Lobed => rng.count(2, 4) as f32,
                _ => rng.count(3, 9) as f32,
            },
            depth: match outline {
                Outline::Serrate => rng.range(0.06, 0.17),
                Outline::Lobed => rng.range(0.3, 0.6),
                _ => rng.range(0.0, 0.06),
            },
            blunt: (blunt_base, blunt_tip),
        };
        let lopsided = rng.range(-0.12, 0.12);
        let sides = [form.side(width * (1.0 + lopsided)), form.side(width * (1.0 - lopsided))];
        let widest = sides.iter().flatten().copied().fold(0.0, f32::max);
        let along = direction(pose.angle);
        let base = (pose.centre.0 - 0.5 * pose.length * along.0, pose.centre.1 - 0.5 * pose.length * along.1);
        let veins = Veins {
            pairs: rng.count(4, 9) as f32,
            slope: rng.range(0.35, 1.3),
            curve: rng.range(-0.6, 0.9),
            stagger: if rng.chance(0.5) { rng.range(0.3, 0.5) } else { 0.0 },
            width: rng.range(0.006, 0.013),
        };
        let pale = hsv(rng.range(55.0, 95.0), rng.range(0.2, 0.5), rng.range(0.5, 0.85));
        let skin = Skin {
            flesh,
            shade: scaled(flesh, rng.range(0.65, 0.9)),
            vein: mixed(flesh, pale, rng.range(0.3, 1.0)),
            vein_strength: rng.range(0.15, 0.75),
            net_strength: if rng.chance(0.5) { rng.range(0.05, 0.3) } else { 0.0 },
            relief: rng.range(0.0, 0.22),
            fold: rng.range(-0.22, 0.22),
            gloss: if rng.chance(0.4) { rng.range(0.08, 0.35) } else { 0.0 },
            gloss_at: (rng.range(0.2, 0.8), rng.range(-0.15, 0.15)),
            blotch_scale: rng.range(2.5, 7.0),
            seed: rng.seed(),
        };
        Self { base, along, length: pose.length, bend: rng.range(-0.1, 0.1), sides, widest, veins, skin }
    }

    /// Gives the place of a point of the leaf in the picture.
    pub(crate) fn place(&self, u: f32, v: f32) -> (f32, f32) {
        let v = v + self.bow(u);
        let (c, s) = self.along;
        (self.base.0 + self.length * (u * c - v * s), self.base.1 + self.length * (u * s + v * c))
    }

    /// Half width at `u` on the side of the sign of `v`.
    pub(crate) fn half_width(&self, u: f32, v: f32) -> f32 {
        let side = &self.sides[usize::from(v < 0.0)];
        let at = u.clamp(0.0, 1.0) * (side.len() - 1) as f32;
        let low = at as usize;
        lerp(side[low], side[(low + 1).min(side.len() - 1)], at - low as f32)
    }

    /// A place on the leaf drawn from `rng`, even over its length and width.
    pub(crate) fn somewhere(&self, rng: &mut Rng) -> (f32, f32) {
        for _ in 0..8 {
            let (u, v) = (rng.range(0.04, 0.96), rng.range(-1.0, 1.0) * self.widest);
            if v.abs() < 0.93 * self.half_width(u, v) {
                return (u, v);
            }
        }
        (rng.range(0.3, 0.7), 0.0)
    }

    /// A place beside a side vein.
    pub(crate) fn beside_vein(&self, rng: &mut Rng) -> (f32, f32) {
        for _ in 0..8 {
            let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
            let v = side * rng.range(0.0, 0.95) * self.widest;
            let nth = rng.count(1, self.veins.pairs as usize) as f32;
            let u = self.veins.at(nth, v) + rng.range(-0.02, 0.02);
            if (0.03..0.97).contains(&u) && v.abs() < 0.93 * self.half_width(u, v) {
                return (u, v);
            }
        }
        self.somewhere(rng)
    }

    /// Darkens what lies beneath, as the leaf's shadow does.
    pub(crate) fn cast_shadow(&self, picture: &mut Picture, offset: (f32, f32), depth: f32, soft: f32) {
        self.each(picture, offset, soft, |_, point, colour| {
            *colour = scaled(*colour, 1.0 - depth * point.cover);
        });
    }

    /// Paints the leaf and says what lies at each pixel.
    pub(crate) fn paint(&self, picture: &mut Picture) -> Tissue {
        let mut tissue = vec![Point::default(); picture.pixels.len()];
        let pixel = 0.7 / picture.size as f32;
        self.petiole(picture);
        self.each(picture, (0.0, 0.0), pixel, |index, mut point, colour| {
            point.vein = self.veins.strength(point.u, point.v);
            *colour = mixed(*colour, self.skin.colour(&self.veins, &point), point.cover);
            if let Some(slot) = tissue.get_mut(index) {
                *slot = point;
            }
        });
        Tissue(tissue)
    }

    fn petiole(&self, picture: &mut Picture) {
        let colour = mixed(self.skin.shade, self.skin.vein, 0.5);
        let end = self.place(-0.16, self.bend);
        crate::marks::stroke(picture, self.place(0.02, 0.0), end, 0.022 * self.length, colour, 1.0);
    }

    fn bow(&self, u: f32) -> f32 {
        4.0 * self.bend * u * (1.0 - u)
    }

    fn each(
        &self,
        picture: &mut Picture,
        offset: (f32, f32),
        soft: f32,
        mut paint: impl FnMut(usize, Point, &mut Colour),
    ) {
        let (c, s) = self.along;
        let margin = soft / self.length;
        let middle = self.place(0.5, 0.0);
        let centre = (middle.0 + offset.0, middle.1 + offset.1);
        let reach = self.length * (length(0.5, self.widest) + 0.12) + soft;
        picture.splat(centre, reach, |index, dx, dy, colour| {
            let (x, y) = (dx + centre.0 - offset.0 - self.base.0, dy + centre.1 - offset.1 - self.base.1);
            let u = (x * c + y * s) / self.length;
            if !(-margin..=1.0 + margin).contains(&u) {
                return;
            }
            let v = (y * c - x * s) / self.length - self.bow(u);
            if v.abs() > self.widest + margin {
                return;
            }
            let edge = self.half_width(u, v) - v.abs();
            let cover = step(-margin, margin, edge.min(u).min(1.0 - u));
            if cover > 0.0 {
                let point = Point { cover, u, v, margin: edge.min(u).min(1.0 - u).max(0.0), vein: 0.0 };
                paint(index, point, colour);
            }
        });
    }
}

impl Veins {
    /// Which side vein a point is on, as a number that is whole on the veins.
    fn phase(&self, u: f32, v: f32) -> f32 {
        let away = v.abs();
        let stagger = if v < 0.0 { self.stagger } else { 0.0 };
        (u - away * self.slope - away * away * self.curve) * self.pairs + stagger
    }

    /// `u` of the `nth` side vein at `v`.
    fn at(&self, nth: f32, v: f32) -> f32 {
        let away = v.abs();
        let stagger = if v < 0.0 { self.stagger } else { 0.0 };
        (nth - stagger) / self.pairs + away * self.slope + away * away * self.curve
    }

    fn strength(&self, u: f32, v: f32) -> f32 {
        let rib = self.width * (1.6 - 1.1 * u);
        let midrib = step(rib * 1.5, rib * 0.4, v.abs());
        let phase = self.phase(u, v);
        let away = (phase - floor(phase + 0.5)).abs() / (self.pairs * length(1.0, self.slope));
        let thin = self.width * (1.0 - 1.2 * v.abs()).max(0.3);
        let side = step(thin * 1.5, thin * 0.3, away);
        midrib.max(0.8 * side)
    }
}

impl Skin {
    fn colour(&self, veins: &Veins, point: &Point) -> Colour {
        let (u, v) = (point.u, point.v);
        let blotch = octaves(u * self.blotch_scale + 9.0, v * self.blotch_scale + 9.0, self.seed, 3);
        let mut colour = mixed(self.shade, self.flesh, step(0.25, 0.75, blotch));
        if self.net_strength > 0.0 {
            let net = cells(u * 26.0, v * 26.0, self.seed ^ 0x77);
            let line = step(0.16, 0.02, net.second - net.nearest);
            let tone = 0.95 + 0.1 * fraction(net.id, 0);
            colour = mixed(scaled(colour, tone), self.vein, self.net_strength * line);
        }
        colour = mixed(colour, self.vein, self.vein_strength * point.vein);
        // The flesh bulges between the veins and each half is tilted to the light in its own way.
        let bulge = cos(TAU * veins.phase(u, v));
        let tilt = if v < 0.0 { self.fold } else { -self.fold };
        let mut tone = 1.0 + self.relief * 0.5 * bulge + tilt * step(0.0, 0.05, v.abs());
        tone *= 0.82 + 0.18 * step(0.0, 0.03, point.margin);
        let shine = length(u - self.gloss_at.0, 2.0 * (v - self.gloss_at.1));
        let gloss = self.gloss * step(0.35, 0.0, shine) * (0.7 + 0.3 * bulge);
        let lit = scaled(colour, tone);
        [lit[0] + gloss, lit[1] + gloss, lit[2] + gloss]
    }
}

struct Form {
    outline: Outline,
    count: f32,
    depth: f32,
    blunt: (f32, f32),
}

impl Form {
    /// Half widths from base to tip.
    fn side(&self, width: f32) -> Vec<f32> {
        const SAMPLES: usize = 257;
        let mut half: Vec<f32> = (0..SAMPLES)
            .map(|i| {
                let u = i as f32 / (SAMPLES - 1) as f32;
                pow(u, self.blunt.0) * pow(1.0 - u, self.blunt.1)
            })
            .collect();
        let top = half.iter().copied().fold(1e-6, f32::max);
        for (i, h) in half.iter_mut().enumerate() {
            let u = i as f32 / (SAMPLES - 1) as f32;
            let turns = u * self.count;
            let cut = match self.outline {
                Outline::Serrate => turns - turns.floor(),
                Outline::Lobed => 0.5 + 0.5 * cos(TAU * turns),
                _ => 0.5 + 0.5 * sin(TAU * turns),
            };
            *h = *h / top * width * (1.0 - self.depth * cut);
        }
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(outline: Outline) -> Leaf {
        let pose = Pose { centre: (0.5, 0.5), angle: 0.4, length: 0.8 };
        Leaf::grow(outline, pose, [0.1, 0.5, 0.1], &mut Rng::new(3, 5))
    }

    #[test]
    fn places_on_the_leaf_are_painted_as_leaf() {
        for outline in [Outline::Entire, Outline::Serrate, Outline::Lobed, Outline::Narrow] {
            let leaf = leaf(outline);
            let mut picture = Picture::paint(256, |_, _| [0.0; 3]);
            let tissue = leaf.paint(&mut picture);
            let mut rng = Rng::new(1, 1);
            for _ in 0..200 {
                for (u, v) in [leaf.somewhere(&mut rng), leaf.beside_vein(&mut rng)] {
                    let (x, y) = leaf.place(u, v);
                    let index = (y * 256.0) as usize * 256 + (x * 256.0) as usize;
                    assert!(tissue.cover(index) > 0.3, "{outline:?} {u} {v}");
                }
            }
        }
    }
}
