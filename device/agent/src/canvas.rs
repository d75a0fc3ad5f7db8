//! A picture in memory that embedded-graphics draws on.

use std::convert::Infallible;

use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Pixels; what is drawn outside is dropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Canvas(RgbImage);

impl Canvas {
    /// Makes a black one.
    pub fn new(width: u32, height: u32) -> Self {
        Self(RgbImage::new(width, height))
    }

    /// Returns the pixels.
    pub fn picture(&self) -> &RgbImage {
        &self.0
    }

    /// Returns the bytes of a PNG file.
    pub fn png(&self) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        // Writing to memory cannot fail.
        let _ = DynamicImage::from(self.0.clone()).write_to(&mut bytes, ImageFormat::Png);
        bytes.into_inner()
    }
}

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
            if let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y))
                && x < self.0.width()
                && y < self.0.height()
            {
                self.0.put_pixel(x, y, Rgb([colour.r(), colour.g(), colour.b()]));
            }
        }
        Ok(())
    }
}

/// Draws every pixel as a square of two by two: the fonts at hand end at 20 pixels.
pub(crate) struct Doubled<'a, D> {
    pub(crate) inner: &'a mut D,
    /// Where the origin lies, in pixels of the inner target.
    pub(crate) at: Point,
}

impl<D: DrawTarget> OriginDimensions for Doubled<'_, D> {
    fn size(&self) -> Size {
        self.inner.bounding_box().size / 2
    }
}

impl<D: DrawTarget> DrawTarget for Doubled<'_, D> {
    type Color = D::Color;
    type Error = D::Error;

    fn draw_iter<I: IntoIterator<Item = Pixel<D::Color>>>(&mut self, pixels: I) -> Result<(), D::Error> {
        let at = self.at;
        let corners = [Point::new(0, 0), Point::new(1, 0), Point::new(0, 1), Point::new(1, 1)];
        self.inner
            .draw_iter(pixels.into_iter().flat_map(|Pixel(p, colour)| corners.map(|c| Pixel(at + p * 2 + c, colour))))
    }
}
