//! A contact sheet: strips of square pictures, each under a caption.

use std::convert::Infallible;

use anyhow::Result;
use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_8X13;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::{Baseline, Text};
use image::codecs::png::PngEncoder;
use image::{Rgb, RgbImage, imageops};

/// A row of the sheet.
pub(crate) struct Strip {
    pub(crate) caption: String,
    /// Each `u8 [side, side, 3]`.
    pub(crate) pictures: Vec<Vec<u8>>,
}

/// Draws strips of pictures of a side below one another.
pub(crate) fn draw(strips: &[Strip], side: u32) -> RgbImage {
    let columns = strips.iter().map(|s| s.pictures.len()).max().unwrap_or(0) as u32;
    let height = CAPTION + side + GAP;
    let (across, down) = (columns * (side + GAP) + GAP, strips.len() as u32 * height + GAP);
    let mut canvas = Canvas(RgbImage::from_pixel(across, down, BACKGROUND));
    let style = MonoTextStyle::new(&FONT_8X13, Rgb888::BLACK);
    let room = ((across - 2 * GAP) / FONT_8X13.character_size.width) as usize;
    for (row, strip) in strips.iter().enumerate() {
        let top = row as u32 * height + GAP;
        let at = Point::new(GAP as i32, top as i32);
        let _ = Text::with_baseline(&shortened(&strip.caption, room), at, style, Baseline::Top).draw(&mut canvas);
        for (column, pixels) in strip.pictures.iter().enumerate() {
            let Some(picture) = RgbImage::from_raw(side, side, pixels.clone()) else { continue };
            let x = i64::from(GAP + column as u32 * (side + GAP));
            imageops::replace(&mut canvas.0, &picture, x, i64::from(top + CAPTION));
        }
    }
    canvas.0
}

/// Writes a picture as PNG.
///
/// # Errors
///
/// If the picture has no pixels.
pub(crate) fn to_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    picture.write_with_encoder(PngEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// Keeps the beginning and the end of a text that is longer than `room` characters.
fn shortened(text: &str, room: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(2);
    let (head, tail) = (kept / 2, kept - kept / 2);
    letters[..head].iter().chain(&['.', '.']).chain(&letters[letters.len() - tail..]).collect()
}

struct Canvas(RgbImage);

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else { continue };
            if let Some(pixel) = self.0.get_pixel_mut_checked(x, y) {
                *pixel = Rgb([colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

const BACKGROUND: Rgb<u8> = Rgb([255; 3]);
/// Pixels between pictures.
const GAP: u32 = 4;
/// Height of a caption in pixels.
const CAPTION: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_every_picture_at_its_place() {
        let strip = |n: u8| Strip { caption: "rust".into(), pictures: vec![vec![n; 300], vec![n + 1; 300]] };
        let sheet = draw(&[strip(1), strip(11)], 10);
        assert_eq!(sheet.dimensions(), (32, 62));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!([at(4, 19), at(13, 28), at(18, 19), at(4, 48), at(27, 57)], [1, 1, 2, 11, 12]);
        assert_eq!(at(14, 19), 255);
        assert!((0..19).any(|y| (0..32).any(|x| at(x, y) == 0)), "no caption");
        assert_eq!(to_png(&sheet).unwrap()[..4], *b"\x89PNG");
    }

    #[test]
    fn a_long_caption_keeps_both_ends() {
        assert_eq!(shortened("healthy - a/b.jpg", 40), "healthy - a/b.jpg");
        assert_eq!(shortened("0123456789", 6), "01..89");
        assert_eq!(shortened("0123456789", 0), "..");
    }
}
