//! Panels that are made of their controllers' data sheets: what is in their memory has to be the picture.
//!
//! Sitronix ST7789V, version 1.6, chapters 8.12 (addresses) and 9.1 (commands), which ST7735 and ILI9341 share; Solomon Systech
//! SSD1306, revision 1.1, chapters 8.1.5 (I2C), 9 and 10 (commands).

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use embedded_hal::digital;
use embedded_hal::i2c::{self, NoAcknowledgeSource};
use embedded_hal::spi;
use image::Rgb;
use image::imageops::{rotate90, rotate180, rotate270};

use super::*;

/// What a colour panel's controller has understood.
#[derive(Default)]
struct Glass {
    is_data: bool,
    command: u8,
    arguments: Vec<u8>,
    columns: [u16; 2],
    rows: [u16; 2],
    at: [u16; 2],
    half: Option<u8>,
    mode: u8,
    format: u8,
    is_inverted: bool,
    is_awake: bool,
    is_on: bool,
    was_reset: bool,
    /// 240 by 320 pixels, as they lie on the glass; none where nothing was written.
    memory: Vec<Option<u16>>,
    /// Pixels that came.
    pixels: usize,
}

impl Glass {
    fn byte(&mut self, byte: u8) {
        if !self.is_data {
            (self.command, self.half) = (byte, None);
            self.arguments.clear();
            match byte {
                0x01 => self.was_reset = true,
                0x11 => self.is_awake = true,
                0x20 | 0x21 => self.is_inverted = byte == 0x21,
                0x29 => self.is_on = true,
                0x2c => self.at = [self.columns[0], self.rows[0]],
                _ => {}
            }
            return;
        }
        if self.command == 0x2c {
            let Some(high) = self.half.take() else {
                self.half = Some(byte);
                return;
            };
            return self.pixel(u16::from_be_bytes([high, byte]));
        }
        self.arguments.push(byte);
        match (self.command, self.arguments.as_slice()) {
            (0x2a, &[a, b, c, d]) => self.columns = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
            (0x2b, &[a, b, c, d]) => self.rows = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
            (0x36, &[mode]) => self.mode = mode,
            (0x3a, &[format]) => self.format = format,
            _ => {}
        }
    }

    fn pixel(&mut self, colour: u16) {
        let [column, row] = self.at.map(usize::from);
        // MV exchanges the two, then MX and MY count from the other side.
        let (mut x, mut y) = if self.mode & 0x20 == 0 { (column, row) } else { (row, column) };
        if self.mode & 0x40 != 0 {
            x = 239 - x;
        }
        if self.mode & 0x80 != 0 {
            y = 319 - y;
        }
        self.memory.resize(240 * 320, None);
        self.memory[y * 240 + x] = Some(colour);
        self.pixels += 1;
        self.at = match self.at {
            [c, r] if c < self.columns[1] => [c + 1, r],
            [_, r] if r < self.rows[1] => [self.columns[0], r + 1],
            _ => [self.columns[0], self.rows[0]],
        };
    }

    /// What of the glass was written, as a picture of 5, 6 and 5 bits.
    fn seen(&self, left: u32, top: u32, width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let colour = self.memory[((top + y) * 240 + left + x) as usize].expect("a pixel that was never written");
            Rgb([(colour >> 11) as u8, (colour >> 5 & 63) as u8, (colour & 31) as u8])
        })
    }
}

#[derive(Clone, Default)]
struct Wires(Arc<Mutex<Glass>>);

impl spi::ErrorType for Wires {
    type Error = Infallible;
}

impl SpiDevice for Wires {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), Infallible> {
        for operation in operations {
            let spi::Operation::Write(bytes) = operation else { panic!("a panel is only written to") };
            assert!(bytes.len() <= SPI_CHUNK);
            bytes.iter().for_each(|&b| self.0.lock().unwrap().byte(b));
        }
        Ok(())
    }
}

/// The line that tells commands from data, or the one that resets.
struct Line(Wires, bool);

impl digital::ErrorType for Line {
    type Error = Infallible;
}

impl OutputPin for Line {
    fn set_low(&mut self) -> Result<(), Infallible> {
        let mut glass = self.0.0.lock().unwrap();
        if self.1 {
            glass.was_reset = true
        } else {
            glass.is_data = false
        }
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        if !self.1 {
            self.0.0.lock().unwrap().is_data = true;
        }
        Ok(())
    }
}

struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (x + y * 5) as u8, (x * y) as u8]))
}

/// The nearest of the colours that a panel has.
fn coarse(picture: &RgbImage) -> RgbImage {
    let nearest = |v: u8, most: f32| (f32::from(v) / 255.0 * most).round() as u8;
    let keep = |p: &Rgb<u8>| Rgb([nearest(p[0], 31.0), nearest(p[1], 63.0), nearest(p[2], 31.0)]);
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| keep(picture.get_pixel(x, y)))
}

fn colour(text: &str) -> (Wires, Box<dyn Panel>, RgbImage) {
    let Wiring::Spi(wiring) = text.parse().unwrap() else { panic!("{text}") };
    let wires = Wires::default();
    let reset = wiring.reset.map(|_| Line(wires.clone(), true));
    let panel = wiring.start(wires.clone(), Line(wires.clone(), false), reset, &mut NoDelay).unwrap();
    let [width, height] = wiring.seen();
    (wires, panel, picture(width, height))
}

#[test]
fn a_picture_is_on_the_glass_of_each_colour_panel() {
    for (text, [left, top, width, height], is_inverted, mode) in [
        ("spi:/dev/spidev0.0?panel=st7789&dc=25", [0, 0, 240, 320], true, 0x00),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&reset=27&size=240x240&invert=0", [0, 0, 240, 240], false, 0x00),
        ("spi:/dev/spidev0.0?panel=ili9341&dc=25&mhz=32", [0, 0, 240, 320], false, 0x08),
        ("spi:/dev/spidev0.0?panel=st7735&dc=25&offset=2x1&order=bgr", [2, 1, 128, 160], false, 0x08),
    ] {
        let (wires, mut panel, picture) = colour(text);
        panel.show(&picture).unwrap();
        let glass = wires.0.lock().unwrap();
        let state = (glass.was_reset, glass.is_awake, glass.is_on, glass.format & 7);
        assert_eq!(state, (true, true, true, 5), "{text}");
        assert_eq!((glass.is_inverted, glass.mode & 0xe8), (is_inverted, mode), "{text}");
        assert!(glass.seen(left, top, width, height) == coarse(&picture), "{text}");
        assert_eq!(glass.pixels, (width * height) as usize, "{text}");
    }
}

#[test]
fn a_turned_panel_shows_the_picture_turned_and_not_mirrored() {
    for rotate in [90, 180, 270] {
        let (wires, mut panel, picture) = colour(&format!("spi:/dev/spidev0.0?panel=st7789&dc=25&rotate={rotate}"));
        panel.show(&picture).unwrap();
        let glass = wires.0.lock().unwrap().seen(0, 0, 240, 320);
        // Turned with the panel, in this many quarters, it stands upright again.
        let upright = match rotate {
            90 => rotate270(&glass),
            180 => rotate180(&glass),
            _ => rotate90(&glass),
        };
        assert!(upright == coarse(&picture), "{rotate}");
    }
}

#[test]
fn only_what_has_changed_is_sent() {
    let (wires, mut panel, mut picture) = colour("spi:/dev/spidev0.0?panel=st7789&dc=25&rotate=90");
    panel.show(&picture).unwrap();
    let sent = || std::mem::take(&mut wires.0.lock().unwrap().pixels);
    assert_eq!(sent(), 320 * 240);
    panel.show(&picture).unwrap();
    assert_eq!(sent(), 0);
    picture.put_pixel(10, 20, Rgb([255, 255, 255]));
    picture.put_pixel(14, 29, Rgb([0, 0, 0]));
    panel.show(&picture).unwrap();
    assert_eq!(sent(), 5 * 10);
    assert!(rotate270(&wires.0.lock().unwrap().seen(0, 0, 240, 320)) == coarse(&picture));
}

/// What an SSD1306 has understood.
#[derive(Default)]
struct Oled {
    is_gone: bool,
    commands: Vec<u8>,
    columns: [usize; 2],
    pages: [usize; 2],
    at: [usize; 2],
    is_on: bool,
    is_pumping: bool,
    addressing: u8,
    segments: u8,
    scan: u8,
    rows: u8,
    /// A bit a pixel, eight rows a byte.
    memory: Vec<u8>,
}

impl Oled {
    fn command(&mut self, byte: u8) {
        self.commands.push(byte);
        match *self.commands.as_slice() {
            [0x20, mode] => self.addressing = mode,
            [0x21, first, last] => {
                (self.columns, self.at[0]) = ([first.into(), last.into()], first.into());
            }
            [0x22, first, last] => {
                (self.pages, self.at[1]) = ([first.into(), last.into()], first.into());
            }
            [0x8d, pump] => self.is_pumping = pump & 4 != 0,
            [0xa8, rows] => self.rows = rows,
            [remap @ (0xa0 | 0xa1)] => self.segments = remap,
            [scan @ (0xc0 | 0xc8)] => self.scan = scan,
            [0xae | 0xaf] => self.is_on = byte == 0xaf,
            [0x20 | 0x21 | 0x22 | 0x81 | 0x8d | 0xa8 | 0xd3 | 0xd5 | 0xd9 | 0xda | 0xdb] | [0x21 | 0x22, _] => return,
            _ => {}
        }
        self.commands.clear();
    }

    fn data(&mut self, byte: u8) {
        self.memory.resize(128 * 8, 0);
        self.memory[self.at[1] * 128 + self.at[0]] = byte;
        self.at = match self.at {
            [c, p] if c < self.columns[1] => [c + 1, p],
            [_, p] if p < self.pages[1] => [self.columns[0], p + 1],
            _ => [self.columns[0], self.pages[0]],
        };
    }

    fn seen(&self, height: u32) -> RgbImage {
        let is_lit = |x: u32, y: u32| self.memory[(y / 8 * 128 + x) as usize] >> (y % 8) & 1 == 1;
        RgbImage::from_fn(128, height, |x, y| if is_lit(x, y) { Rgb([255; 3]) } else { Rgb([0; 3]) })
    }
}

#[derive(Clone, Default)]
struct TwoLines(Arc<Mutex<Oled>>);

impl i2c::ErrorType for TwoLines {
    type Error = i2c::ErrorKind;
}

impl I2c for TwoLines {
    fn transaction(&mut self, address: u8, operations: &mut [i2c::Operation<'_>]) -> Result<(), i2c::ErrorKind> {
        let mut oled = self.0.lock().unwrap();
        if oled.is_gone || address != 0x3d {
            return Err(i2c::ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        for operation in operations {
            let i2c::Operation::Write(bytes) = operation else { panic!("a panel is only written to") };
            match bytes {
                [0x00, commands @ ..] => commands.iter().for_each(|&b| oled.command(b)),
                [0x40, data @ ..] => data.iter().for_each(|&b| oled.data(b)),
                _ => panic!("no control byte: {bytes:?}"),
            }
        }
        Ok(())
    }
}

#[test]
fn a_picture_is_on_an_oled_again_after_it_was_unplugged() {
    for (text, height, remap, scan) in [
        ("i2c:/dev/i2c-1?address=0x3d", 64, 0xa1, 0xc8),
        ("i2c:/dev/i2c-1?address=3d&size=128x32&rotate=180", 32, 0xa0, 0xc0),
    ] {
        let Wiring::I2c(wiring) = text.parse().unwrap() else { panic!("{text}") };
        let lines = TwoLines::default();
        let mut panel = wiring.start(lines.clone()).unwrap();
        let of = |cut: u32| {
            RgbImage::from_fn(128, height, |x, y| if (x * x + 3 * y) % cut < 2 { Rgb([255; 3]) } else { Rgb([0; 3]) })
        };
        panel.show(&of(5)).unwrap();
        assert!(lines.0.lock().unwrap().seen(height) == of(5), "{text}");
        lines.0.lock().unwrap().is_gone = true;
        assert!(panel.show(&of(7)).is_err());
        *lines.0.lock().unwrap() = Oled::default();
        panel.show(&of(7)).unwrap();
        let oled = lines.0.lock().unwrap();
        assert!(oled.seen(height) == of(7) && oled.is_on && oled.is_pumping && oled.addressing == 0, "{text}");
        assert_eq!((oled.segments, oled.scan, u32::from(oled.rows)), (remap, scan, height - 1), "{text}");
    }
    let Wiring::I2c(elsewhere) = "i2c:/dev/i2c-1".parse().unwrap() else { panic!() };
    assert!(elsewhere.start(TwoLines::default()).is_err(), "nobody at 0x3c");
}

#[test]
fn wirings_are_read_and_strangers_named() {
    for (text, size) in [
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&rotate=270", [320, 240]),
        ("spi:/dev/spidev1.2?panel=st7735&dc=1&chip=/dev/gpiochip4", [128, 160]),
        ("i2c:/dev/i2c-1", [128, 64]),
    ] {
        assert_eq!(text.parse::<Wiring>().map(|w| w.size()), Ok(size), "{text}");
    }
    for (text, word) in [
        ("spi:", "spi:/dev/spidevB.C"),
        ("spi:/dev/spidev0.0", "panel=st7789"),
        ("spi:/dev/spidev0.0?panel=st7789", "dc=LINE"),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&dc=26", "twice"),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&rotate=45", "found 45"),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&size=240", "240x320"),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&mhz=0", "found 0"),
        ("spi:/dev/spidev0.0?panel=st7789&dc=25&colour=1", "\"colour\""),
        ("i2c:/dev/i2c-1?size=64x48", "64x48"),
        ("i2c:/dev/i2c-1?address=0x90", "0x90"),
    ] {
        assert!(text.parse::<Wiring>().unwrap_err().contains(word), "{text}");
    }
    // Larger than the controller's memory: told when it is opened.
    let Wiring::Spi(large) = "spi:/dev/spidev0.0?panel=st7789&dc=25&size=320x480".parse().unwrap() else { panic!() };
    let wires = Wires::default();
    let opened = large.start(wires.clone(), Line(wires, false), None, &mut NoDelay);
    assert!(opened.err().unwrap().contains("InvalidDisplaySize"));
}
