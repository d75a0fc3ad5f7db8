//! The heat map as a picture: the photograph in grey, cells coloured by probability, hot cells outlined, spots numbered.
//!
//! The colours are those of viridis, whose lightness rises evenly, so that they are told apart by the colour blind and on grey paper
//! too; what is hot has an outline besides, and what is unfamiliar is hatched.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::Drawable;
use embedded_graphics::text::{Baseline, Text};
use image::{Rgb, RgbImage};

use crate::atlas::{Chart, Choice};
use crate::heat::{Heat, Known};

/// Draws the map of a picture.
pub(crate) fn draw(small: &RgbImage, heat: &Heat, chart: &Chart, choice: &Choice) -> RgbImage {
    let width = small.width().max(NARROWEST);
    let font = if width < WIDE { &FONT_8X13 } else { &FONT_10X20 };
    let line = font.character_size.height + 3;
    let listed = chart.spots.len().min(LISTED);
    let height = small.height() + BAR_HEIGHT + (3 + listed as u32) * line + 2 * MARGIN;
    let mut canvas = Canvas { picture: RgbImage::from_pixel(width, height, Rgb([255; 3])), font };
    let cells = Cells { small, heat, choice };
    for (x, y, pixel) in small.enumerate_pixels() {
        canvas.picture.put_pixel(x, y, cells.colour(x, y, *pixel));
    }
    let scale = f64::from(small.width()) / f64::from(heat.picture().0.max(1));
    for (number, spot) in chart.spots.iter().take(NUMBERED).enumerate().rev() {
        // A ring has its middle outside of itself; its peak is in it.
        let is_hot =
            heat.at_pixel(spot.x, spot.y).is_some_and(|c| heat.probability(c.0, c.1, spot.class) >= choice.above);
        let (x, y) = if is_hot { (spot.x, spot.y) } else { spot.peak_at };
        canvas.label((x * scale) as i32, (y * scale) as i32, &(number + 1).to_string());
    }
    let top = (small.height() + MARGIN) as i32;
    bar(&mut canvas, top, choice.above);
    let at = |number: usize| top + (BAR_HEIGHT + number as u32 * line) as i32;
    canvas.text(MARGIN as i32, at(0), &format!("{}: {}", chart.name, choice.told()));
    let spots = format!("{} hot spots of at least {:.0} %, outlined", chart.spots.len(), 100.0 * choice.above);
    canvas.text(MARGIN as i32, at(1), &format!("{spots}; hatched: unfamiliar; white: no picture"));
    canvas.text(MARGIN as i32, at(2), &chart.place.told());
    for (number, spot) in chart.spots.iter().take(listed).enumerate() {
        let label = choice.labels.get(spot.class).map_or("", String::as_str);
        let place = match chart.place.position(spot.x, spot.y) {
            Some(p) if chart.place.precision() == "pixel" => format!("  {:.6}, {:.6}", p.latitude, p.longitude),
            _ => String::new(),
        };
        let (x, y) = (spot.x.round(), spot.y.round());
        let text = format!("{:>3}  {:>3.0} %  {label}  at pixel {x}, {y}{place}", number + 1, 100.0 * spot.peak);
        canvas.text(MARGIN as i32, at(3 + number), &text);
    }
    canvas.picture
}

/// What the pixels of the map are coloured by.
struct Cells<'a> {
    small: &'a RgbImage,
    heat: &'a Heat,
    choice: &'a Choice,
}

impl Cells<'_> {
    fn colour(&self, x: u32, y: u32, pixel: Rgb<u8>) -> Rgb<u8> {
        let [r, g, b] = pixel.0.map(u32::from);
        let grey = u8::try_from((299 * r + 587 * g + 114 * b) / 1000).unwrap_or(u8::MAX);
        let cell = self.cell(x, y);
        match self.heat.known(cell.0, cell.1) {
            Known::Empty => Rgb([255; 3]),
            Known::Unfamiliar if (x + y) % 10 < 2 => Rgb([grey / 2 + 20; 3]),
            Known::Unfamiliar => Rgb([grey; 3]),
            Known::Yes if self.is_edge(x, y, cell) => Rgb(if (x + y) % 6 < 3 { [255; 3] } else { [0; 3] }),
            Known::Yes => {
                let probability = self.probability(cell);
                let share = 0.15 + 0.6 * probability;
                let mixed = |(c, at): (u8, usize)| {
                    (f32::from(c) * share + f32::from([grey; 3][at]) * (1.0 - share)).round() as u8
                };
                let [r, g, b] = ramp(probability);
                Rgb([mixed((r, 0)), mixed((g, 1)), mixed((b, 2))])
            }
        }
    }

    /// The cell that a pixel of the small picture lies in.
    fn cell(&self, x: u32, y: u32) -> (u32, u32) {
        let ((width, height), (columns, rows)) = (self.heat.picture(), self.heat.size());
        let along = |at: u32, small: u32, whole: u32, cells: u32| {
            let pixel = u64::from(at) * u64::from(whole) / u64::from(small.max(1));
            u32::try_from(pixel / u64::from(self.heat.cell().max(1))).unwrap_or(0).min(cells - 1)
        };
        (along(x, self.small.width(), width, columns), along(y, self.small.height(), height, rows))
    }

    fn probability(&self, (column, row): (u32, u32)) -> f32 {
        let each = self.choice.classes.iter().map(|c| self.heat.probability(column, row, *c));
        each.fold(0.0, f32::max)
    }

    /// Whether a pixel is at the edge of what is hot.
    fn is_edge(&self, x: u32, y: u32, cell: (u32, u32)) -> bool {
        if self.probability(cell) < self.choice.above {
            return false;
        }
        let (last_x, last_y) = (self.small.width() - 1, self.small.height() - 1);
        let near =
            [(x.saturating_sub(2), y), ((x + 2).min(last_x), y), (x, y.saturating_sub(2)), (x, (y + 2).min(last_y))];
        near.iter().map(|&(x, y)| self.cell(x, y)).any(|c| c != cell && self.probability(c) < self.choice.above)
    }
}

/// Draws what the colours mean.
fn bar(canvas: &mut Canvas, top: i32, above: f32) {
    let at = |share: f32| BAR_LEFT + (share * BAR as f32) as i32;
    for x in 0..BAR {
        let colour = ramp(x as f32 / BAR as f32);
        for y in 0..12 {
            canvas.put(BAR_LEFT + x, top + y, colour);
        }
    }
    for y in -3..16 {
        canvas.put(at(above), top + y, [0; 3]);
        canvas.put(at(above) + 1, top + y, [255; 3]);
    }
    canvas.text(MARGIN as i32, top, "0 %");
    canvas.text(BAR_LEFT + BAR + 8, top, &format!("100 %, hot from {:.0} %", 100.0 * above));
}

/// The colour of a probability.
fn ramp(probability: f32) -> [u8; 3] {
    let place = probability.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f32;
    let at = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - at as f32;
    let mixed = |c: usize| f32::from(VIRIDIS[at][c]) * (1.0 - share) + f32::from(VIRIDIS[at + 1][c]) * share;
    [mixed(0), mixed(1), mixed(2)].map(|v| v.round() as u8)
}

/// A picture that is drawn on; what is outside is dropped.
struct Canvas {
    picture: RgbImage,
    font: &'static MonoFont<'static>,
}

impl Canvas {
    fn put(&mut self, x: i32, y: i32, colour: [u8; 3]) {
        if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
            && x < self.picture.width()
            && y < self.picture.height()
        {
            self.picture.put_pixel(x, y, Rgb(colour));
        }
    }

    fn text(&mut self, x: i32, y: i32, text: &str) {
        let style = MonoTextStyle::new(self.font, Rgb888::BLACK);
        let _ = Text::with_baseline(text, Point::new(x, y), style, Baseline::Top).draw(self);
    }

    /// Writes a number on white around a point.
    fn label(&mut self, x: i32, y: i32, text: &str) {
        let size = self.font.character_size;
        let (width, height) = (text.len() as i32 * size.width as i32 + 6, size.height as i32 + 4);
        let (left, top) = (x - width / 2, y - height / 2);
        for row in 0..height {
            for column in 0..width {
                let is_rim = row == 0 || column == 0 || row == height - 1 || column == width - 1;
                self.put(left + column, top + row, if is_rim { [0; 3] } else { [255; 3] });
            }
        }
        self.text(left + 3, top + 2, text);
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.picture.width(), self.picture.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            self.put(at.x, at.y, [colour.r(), colour.g(), colour.b()]);
        }
        Ok(())
    }
}

/// Every eighth of matplotlib's viridis.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];
const NARROWEST: u32 = 720;
/// From which width on letters are larger.
const WIDE: u32 = 1200;
const MARGIN: u32 = 8;
/// The scale of colours.
const BAR_HEIGHT: u32 = 28;
const BAR: i32 = 256;
const BAR_LEFT: i32 = 48;
/// Spots that have a number in the picture, and a line below it.
const NUMBERED: usize = 50;
const LISTED: usize = 12;
