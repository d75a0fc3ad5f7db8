//! Where the screen is: nowhere, a PNG file, a Linux framebuffer, or a panel on the board's pins. Every display can give its
//! picture as PNG.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use embedded_graphics::draw_target::DrawTargetExt;
use framebuffer::Framebuffer;
use image::RgbImage;

use crate::canvas::Canvas;
use crate::disk::{Disk, Folder};
use crate::panel::{Panel, Wiring};
use crate::screen::{Content, draw_colour, draw_mono};

/// What a configuration says about the display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    sink: SinkSpec,
    layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SinkSpec {
    None,
    Png(PathBuf),
    Framebuffer(PathBuf),
    Panel(Wiring),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Colour,
    Mono,
}

/// Why a display cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DisplayError {
    /// The text is no display.
    #[error(
        "expected none, png:PATH, png:PATH?size=320x240, png:PATH?size=128x64, fb:/dev/fbN, spi:/dev/spidevB.C?panel=NAME&dc=LINE \
         or i2c:/dev/i2c-B as display, found {0:?}"
    )]
    Spec(String),
    /// The text names a panel, but not how it is wired.
    #[error("{reason}; in {spec:?}")]
    Wiring {
        /// The text.
        spec: String,
        /// What was expected and found.
        reason: String,
    },
    /// The framebuffer or panel cannot be opened.
    #[error(
        "cannot open the display {}: {reason}; is it connected and switched on, and may this user open it (groups video, spi, i2c, gpio)?",
        path.display()
    )]
    Open {
        /// The device.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The framebuffer has a format that is not drawn.
    #[error(
        "expected a framebuffer of 16 or 32 bits a pixel and at least 128x64, found {bits} bits and {width}x{height}"
    )]
    Format {
        /// Bits a pixel.
        bits: u32,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The panel does not take it.
    #[error("cannot show it on {}: {reason}; is it still connected?", path.display())]
    Send {
        /// The bus.
        path: PathBuf,
        /// What the bus said.
        reason: String,
    },
    /// The picture cannot be written.
    #[error("cannot write the screen to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl FromStr for Spec {
    type Err = DisplayError;

    fn from_str(text: &str) -> Result<Self, DisplayError> {
        let wrong = || DisplayError::Spec(text.to_owned());
        if text == "none" {
            return Ok(Self { sink: SinkSpec::None, layout: Layout::Colour });
        }
        if let Some(path) = text.strip_prefix("fb:").filter(|p| !p.is_empty()) {
            return Ok(Self { sink: SinkSpec::Framebuffer(path.into()), layout: Layout::Colour });
        }
        if text.starts_with("spi:") || text.starts_with("i2c:") {
            let wiring = text.parse::<Wiring>();
            let wiring = wiring.map_err(|reason| DisplayError::Wiring { spec: text.to_owned(), reason })?;
            return Ok(Self { layout: Layout::of(wiring.size()[1]), sink: SinkSpec::Panel(wiring) });
        }
        let rest = text.strip_prefix("png:").ok_or_else(wrong)?;
        let (path, layout) = match rest.split_once("?size=") {
            None => (rest, Layout::Colour),
            Some((path, "320x240")) => (path, Layout::Colour),
            Some((path, "128x64")) => (path, Layout::Mono),
            Some(_) => return Err(wrong()),
        };
        if path.is_empty() || path.contains('?') {
            return Err(wrong());
        }
        Ok(Self { sink: SinkSpec::Png(path.into()), layout })
    }
}

enum Sink {
    None,
    Png(PathBuf),
    Framebuffer(Box<Framebuffer>),
    Panel { panel: Box<dyn Panel>, path: PathBuf },
}

impl Layout {
    /// That of a screen so many pixels high.
    fn of(height: u32) -> Self {
        if height < 200 { Self::Mono } else { Self::Colour }
    }
}

/// A display and what it shows.
pub struct Display {
    sink: Sink,
    layout: Layout,
    canvas: Canvas,
}

impl Display {
    /// Opens a display; the paths of `spec` are relative to `folder`.
    ///
    /// # Errors
    ///
    /// [`DisplayError::Open`] or [`DisplayError::Format`].
    pub fn open(spec: &Spec, folder: &Path) -> Result<Self, DisplayError> {
        let (sink, canvas) = match &spec.sink {
            SinkSpec::None => (Sink::None, Canvas::new(320, 240)),
            SinkSpec::Png(path) if spec.layout == Layout::Colour => {
                (Sink::Png(folder.join(path)), Canvas::new(320, 240))
            }
            SinkSpec::Png(path) => (Sink::Png(folder.join(path)), Canvas::new(128, 64)),
            SinkSpec::Framebuffer(path) => {
                let fb = Framebuffer::new(path)
                    .map_err(|e| DisplayError::Open { path: path.clone(), reason: format!("{e:?}") })?;
                let v = &fb.var_screen_info;
                let (bits, width, height) = (v.bits_per_pixel, v.xres, v.yres);
                if !matches!(bits, 16 | 32) || width < 128 || height < 64 || width > 8192 || height > 8192 {
                    return Err(DisplayError::Format { bits, width, height });
                }
                let (layout, canvas) = (Layout::of(height), Canvas::new(width, height));
                return Ok(Self { sink: Sink::Framebuffer(Box::new(fb)), layout, canvas });
            }
            SinkSpec::Panel(wiring) => {
                let ([width, height], path) = (wiring.size(), wiring.device().to_owned());
                let panel = wiring.open().map_err(|reason| DisplayError::Open { path: path.clone(), reason })?;
                (Sink::Panel { panel, path }, Canvas::new(width, height))
            }
        };
        Ok(Self { sink, layout: spec.layout, canvas })
    }

    /// Shows something.
    ///
    /// # Errors
    ///
    /// [`DisplayError::Write`] or [`DisplayError::Send`].
    pub fn show(&mut self, content: &Content) -> Result<(), DisplayError> {
        let Ok(()) = match self.layout {
            Layout::Colour => draw_colour(content, &mut self.canvas),
            Layout::Mono => draw_mono(content, &mut self.canvas.color_converted()),
        };
        match &mut self.sink {
            Sink::None => Ok(()),
            Sink::Png(path) => {
                let write = |path: &Path, png: &[u8]| {
                    let folder = path.parent().unwrap_or(Path::new("."));
                    let name = path.file_name().and_then(|n| n.to_str()).ok_or(std::io::ErrorKind::InvalidInput)?;
                    Disk::new(Folder::open(folder)?).write(name, png)
                };
                write(path, &self.canvas.png()).map_err(|source| DisplayError::Write { path: path.clone(), source })
            }
            Sink::Framebuffer(fb) => {
                let (bits, stride) = (fb.var_screen_info.bits_per_pixel, fb.fix_screen_info.line_length as usize);
                let frame = encode(self.canvas.picture(), bits, stride);
                fb.write_frame(&frame);
                Ok(())
            }
            Sink::Panel { panel, path } => {
                panel.show(self.canvas.picture()).map_err(|reason| DisplayError::Send { path: path.clone(), reason })
            }
        }
    }

    /// Returns what is shown as a PNG file.
    pub fn png(&self) -> Vec<u8> {
        self.canvas.png()
    }
}

/// Returns the bytes of a frame: RGB565 or XRGB8888, little endian, rows `stride` bytes apart.
fn encode(picture: &RgbImage, bits: u32, stride: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(stride * picture.height() as usize);
    for row in picture.rows() {
        let start = frame.len();
        for p in row {
            let [r, g, b] = p.0;
            match bits {
                16 => {
                    frame.extend((u16::from(r >> 3) << 11 | u16::from(g >> 2) << 5 | u16::from(b >> 3)).to_le_bytes())
                }
                _ => frame.extend([b, g, r, 0xff]),
            }
        }
        frame.resize(start + stride, 0);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read_and_strangers_refused() {
        for good in ["none", "png:a.png", "png:/x/a.png?size=128x64", "png:a.png?size=320x240", "fb:/dev/fb1"] {
            assert!(good.parse::<Spec>().is_ok(), "{good}");
        }
        for bad in ["", "png:", "png:?size=128x64", "png:a?size=1x1", "fb:", "hdmi"] {
            assert!(bad.parse::<Spec>().unwrap_err().to_string().contains("png:PATH"), "{bad}");
        }
    }

    #[test]
    fn the_png_on_disk_is_the_picture_of_either_size() {
        let dir = tempfile::tempdir().unwrap();
        for (spec, size) in [("png:out/a.png", (320, 240)), ("png:b.png?size=128x64", (128, 64))] {
            let mut display = Display::open(&spec.parse().unwrap(), dir.path()).unwrap();
            display.show(&Content { label: Some("rust".into()), probability: 0.9, ..Content::default() }).unwrap();
            let name = spec.trim_start_matches("png:").split('?').next().unwrap();
            let picture = image::load_from_memory(&std::fs::read(dir.path().join(name)).unwrap()).unwrap().to_rgb8();
            assert_eq!(picture.dimensions(), size);
            assert!(picture.pixels().any(|p| p.0 != picture.get_pixel(0, 0).0));
            assert_eq!(image::load_from_memory(&display.png()).unwrap().to_rgb8(), picture);
        }
    }

    #[test]
    fn frames_have_the_panels_bytes() {
        let picture = RgbImage::from_pixel(2, 1, image::Rgb([0xff, 0x80, 0x08]));
        assert_eq!(encode(&picture, 16, 6), [0x01, 0xfc, 0x01, 0xfc, 0, 0]);
        assert_eq!(encode(&picture, 32, 8), [0x08, 0x80, 0xff, 0xff, 0x08, 0x80, 0xff, 0xff]);
    }

    #[test]
    fn a_missing_display_is_named() {
        for spec in ["fb:/dev/graft-none", "spi:/dev/graft-none?panel=st7789&dc=1", "i2c:/dev/graft-none"] {
            let error = Display::open(&spec.parse().unwrap(), Path::new(".")).err().unwrap();
            assert!(error.to_string().contains("/dev/graft-none"), "{error}");
        }
        assert!("spi:/dev/spidev0.0".parse::<Spec>().unwrap_err().to_string().contains("panel=st7789"));
    }
}
