//! Small panels on a board's pins: colour ones on SPI (ST7789, ST7735, ILI9341), black and white ones on I2C (SSD1306).
//!
//! The controllers are mipidsi's and ssd1306's; this says how one is wired, opens it, and sends what has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_hal::delay::DelayNs;
use embedded_hal::digital::OutputPin;
use embedded_hal::i2c::I2c;
use embedded_hal::spi::SpiDevice;
use image::RgbImage;
use linux_embedded_hal::gpio_cdev::{Chip, LineRequestFlags};
use linux_embedded_hal::spidev::{SpiModeFlags, SpidevOptions};
use linux_embedded_hal::{CdevPin, Delay, I2cdev, SpidevDevice};
use mipidsi::interface::{Interface, InterfacePixelFormat, SpiInterface};
use mipidsi::models::{ILI9341Rgb565, Model, ST7735s, ST7789};
use mipidsi::options::{ColorInversion, ColorOrder, Orientation, Rotation};
use mipidsi::{Builder, Display};
use ssd1306::mode::{BufferedGraphicsMode, DisplayConfig};
use ssd1306::prelude::{DisplayRotation, WriteOnlyDataCommand};
use ssd1306::size::{DisplaySize, DisplaySize128x32, DisplaySize128x64};
use ssd1306::{I2CDisplayInterface, Ssd1306};

/// How a panel is wired: `spi:/dev/spidev0.0?panel=st7789&dc=25` or `i2c:/dev/i2c-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wiring {
    /// A colour panel on SPI.
    Spi(Spi),
    /// An SSD1306 on I2C.
    I2c(TwoWires),
}

/// A colour panel with a serial line, a line that tells commands from data, and perhaps one that resets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spi {
    device: PathBuf,
    controller: Controller,
    /// Width and height as the panel is built, before it is turned.
    size: [u16; 2],
    /// Where its first pixel lies in the controller's memory.
    offset: [u16; 2],
    turned: Rotation,
    is_inverted: bool,
    order: Order,
    chip: PathBuf,
    dc: u32,
    reset: Option<u32>,
    mhz: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    St7789,
    St7735,
    Ili9341,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rgb,
    Bgr,
}

/// An SSD1306 on I2C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoWires {
    device: PathBuf,
    address: u8,
    height: u32,
    is_turned: bool,
}

/// Something that shows pictures of one size.
pub(crate) trait Panel: Send {
    /// Shows a picture; why it could not, where it could not.
    fn show(&mut self, picture: &RgbImage) -> Result<(), String>;
}

impl FromStr for Wiring {
    type Err = String;

    /// Says what is wrong with a text that is no wiring.
    fn from_str(text: &str) -> Result<Self, String> {
        let (device, options) = text.split_once('?').unwrap_or((text, ""));
        let mut options = Options::read(options)?;
        let wiring = if let Some(device) = device.strip_prefix("spi:").filter(|d| !d.is_empty()) {
            Self::Spi(Spi::read(device, &mut options)?)
        } else if let Some(device) = device.strip_prefix("i2c:").filter(|d| !d.is_empty()) {
            Self::I2c(TwoWires::read(device, &mut options)?)
        } else {
            return Err(format!("expected spi:/dev/spidevB.C or i2c:/dev/i2c-B, found {device:?}"));
        };
        options.end()?;
        Ok(wiring)
    }
}

impl Spi {
    fn read(device: &str, options: &mut Options) -> Result<Self, String> {
        let controller = match options.take("panel").as_deref() {
            Some("st7789") => Controller::St7789,
            Some("st7735") => Controller::St7735,
            Some("ili9341") => Controller::Ili9341,
            found => return Err(format!("expected panel=st7789, st7735 or ili9341, found {found:?}")),
        };
        let usual = if controller == Controller::St7735 { [128, 160] } else { [240, 320] };
        Ok(Self {
            device: device.into(),
            controller,
            size: options.pair("size")?.unwrap_or(usual),
            offset: options.pair("offset")?.unwrap_or([0, 0]),
            turned: match options.number("rotate")?.unwrap_or(0) {
                0 => Rotation::Deg0,
                90 => Rotation::Deg90,
                180 => Rotation::Deg180,
                270 => Rotation::Deg270,
                found => return Err(format!("expected rotate=0, 90, 180 or 270, found {found}")),
            },
            // What modules with these controllers mostly want.
            is_inverted: options.number("invert")?.map_or(controller == Controller::St7789, |n| n != 0),
            order: match options.take("order").as_deref() {
                Some("rgb") => Order::Rgb,
                Some("bgr") => Order::Bgr,
                None if controller == Controller::Ili9341 => Order::Bgr,
                None => Order::Rgb,
                Some(found) => return Err(format!("expected order=rgb or bgr, found {found:?}")),
            },
            chip: options.take("chip").map_or_else(|| "/dev/gpiochip0".into(), PathBuf::from),
            dc: options
                .number("dc")?
                .ok_or("expected dc=LINE, the number of the line that tells commands from data")?,
            reset: options.number("reset")?,
            mhz: match options.number("mhz")?.unwrap_or(16) {
                mhz @ 1..=125 => mhz,
                found => return Err(format!("expected mhz=1 to 125, found {found}")),
            },
        })
    }

    /// Width and height as it is seen.
    fn seen(&self) -> [u32; 2] {
        let [width, height] = self.size.map(u32::from);
        if matches!(self.turned, Rotation::Deg90 | Rotation::Deg270) { [height, width] } else { [width, height] }
    }
}

impl TwoWires {
    fn read(device: &str, options: &mut Options) -> Result<Self, String> {
        let address = match options.take("address") {
            None => 0x3c,
            Some(text) => u8::from_str_radix(text.trim_start_matches("0x"), 16)
                .ok()
                .filter(|a| (0x08..0x78).contains(a))
                .ok_or_else(|| format!("expected address=0x08 to 0x77, found {text:?}"))?,
        };
        let height = match options.pair("size")? {
            None | Some([128, 64]) => 64,
            Some([128, 32]) => 32,
            Some([w, h]) => return Err(format!("expected size=128x64 or 128x32, found {w}x{h}")),
        };
        let is_turned = match options.number("rotate")?.unwrap_or(0) {
            0 => false,
            180 => true,
            found => return Err(format!("expected rotate=0 or 180, found {found}")),
        };
        Ok(Self { device: device.into(), address, height, is_turned })
    }
}

impl Wiring {
    /// Returns the file of the bus.
    pub fn device(&self) -> &Path {
        match self {
            Self::Spi(spi) => &spi.device,
            Self::I2c(wires) => &wires.device,
        }
    }

    /// Returns width and height of what is seen, in pixels.
    pub fn size(&self) -> [u32; 2] {
        match self {
            Self::Spi(spi) => spi.seen(),
            Self::I2c(wires) => [128, wires.height],
        }
    }

    /// Opens the panel and wakes it.
    pub(crate) fn open(&self) -> Result<Box<dyn Panel>, String> {
        match self {
            Self::Spi(spi) => {
                let mut bus = SpidevDevice::open(&spi.device).map_err(|e| e.to_string())?;
                let options =
                    SpidevOptions::new().max_speed_hz(spi.mhz * 1_000_000).mode(SpiModeFlags::SPI_MODE_0).build();
                bus.0.configure(&options).map_err(|e| e.to_string())?;
                let mut chip = Chip::new(&spi.chip).map_err(|e| format!("{}: {e}", spi.chip.display()))?;
                let mut line = |number: u32| {
                    let handle = chip.get_line(number)?.request(LineRequestFlags::OUTPUT, 1, "graftd")?;
                    CdevPin::new(handle)
                };
                let mut pin =
                    |number: u32| line(number).map_err(|e| format!("line {number} of {}: {e}", spi.chip.display()));
                let dc = pin(spi.dc)?;
                spi.start(bus, dc, spi.reset.map(pin).transpose()?, &mut Delay)
            }
            Self::I2c(wires) => wires.start(I2cdev::new(&wires.device).map_err(|e| e.to_string())?),
        }
    }
}

impl Spi {
    fn start<S, P>(&self, bus: S, dc: P, reset: Option<P>, delay: &mut impl DelayNs) -> Result<Box<dyn Panel>, String>
    where
        S: SpiDevice + Send + 'static,
        P: OutputPin + Send + 'static,
    {
        // One for a process: a panel stays open as long as the daemon runs.
        let interface = SpiInterface::new(bus, dc, Box::leak(Box::new([0; SPI_CHUNK])));
        match self.controller {
            Controller::St7789 => self.wake(ST7789, interface, reset, delay),
            Controller::St7735 => self.wake(ST7735s, interface, reset, delay),
            Controller::Ili9341 => self.wake(ILI9341Rgb565, interface, reset, delay),
        }
    }

    fn wake<DI, M, P>(
        &self,
        model: M,
        interface: DI,
        reset: Option<P>,
        delay: &mut impl DelayNs,
    ) -> Result<Box<dyn Panel>, String>
    where
        DI: Interface + Send + 'static,
        M: Model<ColorFormat = Rgb565> + Send + 'static,
        Rgb565: InterfacePixelFormat<DI::Word>,
        P: OutputPin + Send + 'static,
    {
        let ([width, height], [left, top]) = (self.size, self.offset);
        let builder = Builder::new(model, interface)
            .display_size(width, height)
            .display_offset(left, top)
            .orientation(Orientation::new().rotate(self.turned))
            .invert_colors(if self.is_inverted { ColorInversion::Inverted } else { ColorInversion::Normal })
            .color_order(if self.order == Order::Bgr { ColorOrder::Bgr } else { ColorOrder::Rgb });
        Ok(match reset {
            Some(pin) => Box::new(Colour::new(builder.reset_pin(pin).init(delay).map_err(|e| format!("{e:?}"))?))
                as Box<dyn Panel>,
            None => Box::new(Colour::new(builder.init(delay).map_err(|e| format!("{e:?}"))?)),
        })
    }
}

/// The kernel's SPI driver takes this many bytes at a time unless it is told otherwise.
const SPI_CHUNK: usize = 4096;

/// A colour panel, and what it shows; none at first, when it shows what its memory happened to hold.
struct Colour<DI, M, R>
where
    DI: Interface,
    M: Model,
    M::ColorFormat: InterfacePixelFormat<DI::Word>,
    R: OutputPin,
{
    display: Display<DI, M, R>,
    shown: Option<RgbImage>,
}

impl<DI, M, R> Colour<DI, M, R>
where
    DI: Interface,
    M: Model,
    M::ColorFormat: InterfacePixelFormat<DI::Word>,
    R: OutputPin,
{
    fn new(display: Display<DI, M, R>) -> Self {
        Self { display, shown: None }
    }
}

impl<DI, M, R> Panel for Colour<DI, M, R>
where
    DI: Interface + Send,
    M: Model<ColorFormat = Rgb565> + Send,
    Rgb565: InterfacePixelFormat<DI::Word>,
    R: OutputPin + Send,
{
    fn show(&mut self, picture: &RgbImage) -> Result<(), String> {
        let Some([left, top, right, bottom]) = changed(self.shown.as_ref(), picture) else { return Ok(()) };
        let pixels = (top..=bottom).flat_map(|y| (left..=right).map(move |x| picture.get_pixel(x, y).0));
        let pixels = pixels.map(|[r, g, b]| Rgb565::from(Rgb888::new(r, g, b)));
        let [left, top, right, bottom] = [left, top, right, bottom].map(|v| u16::try_from(v).unwrap_or(u16::MAX));
        // Until it is sent, nothing is known of what the panel shows.
        self.shown = None;
        self.display.set_pixels(left, top, right, bottom, pixels).map_err(|e| format!("{e:?}"))?;
        self.shown = Some(picture.clone());
        Ok(())
    }
}

/// Returns the first and last column and row (left, top, right, bottom) that differ; all of them where nothing was shown.
fn changed(shown: Option<&RgbImage>, picture: &RgbImage) -> Option<[u32; 4]> {
    let (width, height) = picture.dimensions();
    let Some(shown) = shown.filter(|s| s.dimensions() == picture.dimensions()) else {
        return (width > 0 && height > 0).then(|| [0, 0, width - 1, height - 1]);
    };
    let differ = picture.enumerate_pixels().filter(|(x, y, p)| shown.get_pixel(*x, *y) != *p);
    differ.fold(None, |found, (x, y, _)| {
        let [left, top, right, bottom] = found.unwrap_or([x, y, x, y]);
        Some([left.min(x), top.min(y), right.max(x), bottom.max(y)])
    })
}

impl TwoWires {
    fn start<B: I2c + Send + 'static>(&self, bus: B) -> Result<Box<dyn Panel>, String> {
        let interface = I2CDisplayInterface::new_custom_address(bus, self.address);
        let turned = if self.is_turned { DisplayRotation::Rotate180 } else { DisplayRotation::Rotate0 };
        Ok(match self.height {
            32 => Box::new(Mono::wake(Ssd1306::new(interface, DisplaySize128x32, turned))?) as Box<dyn Panel>,
            _ => Box::new(Mono::wake(Ssd1306::new(interface, DisplaySize128x64, turned))?),
        })
    }
}

/// An SSD1306 and what it shows; none after a failure, as one that was unplugged has to be woken again.
struct Mono<DI, SIZE: DisplaySize> {
    display: Ssd1306<DI, SIZE, BufferedGraphicsMode<SIZE>>,
    shown: Option<RgbImage>,
    is_awake: bool,
}

impl<DI: WriteOnlyDataCommand, SIZE: DisplaySize> Mono<DI, SIZE> {
    fn wake(display: Ssd1306<DI, SIZE, ssd1306::mode::BasicMode>) -> Result<Self, String> {
        let mut display = display.into_buffered_graphics_mode();
        display.init().map_err(|e| format!("{e:?}"))?;
        Ok(Self { display, shown: None, is_awake: true })
    }

    fn send(&mut self, picture: &RgbImage) -> Result<(), String> {
        if !self.is_awake {
            self.display.init().map_err(|e| format!("{e:?}"))?;
        }
        for (x, y, p) in picture.enumerate_pixels() {
            self.display.set_pixel(x, y, p.0[0] > 127);
        }
        self.display.flush().map_err(|e| format!("{e:?}"))
    }
}

impl<DI, SIZE> Panel for Mono<DI, SIZE>
where
    DI: WriteOnlyDataCommand + Send,
    SIZE: DisplaySize + Send,
    SIZE::Buffer: Send,
{
    fn show(&mut self, picture: &RgbImage) -> Result<(), String> {
        if self.shown.as_ref() == Some(picture) {
            return Ok(());
        }
        self.shown = None;
        let sent = self.send(picture);
        self.is_awake = sent.is_ok();
        self.shown = sent.is_ok().then(|| picture.clone());
        sent
    }
}

/// `a=1&b=2`.
struct Options(BTreeMap<String, String>);

impl Options {
    fn read(text: &str) -> Result<Self, String> {
        let mut found = BTreeMap::new();
        for part in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, found {part:?}"))?;
            if found.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("expected {key} once, found it twice"));
            }
        }
        Ok(Self(found))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, String> {
        self.take(key)
            .map(|text| text.parse().map_err(|_| format!("expected a number for {key}, found {text:?}")))
            .transpose()
    }

    fn pair(&mut self, key: &str) -> Result<Option<[u16; 2]>, String> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let pair = text.split_once('x').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
        pair.map(Some).ok_or_else(|| format!("expected {key}=240x320 or the like, found {text:?}"))
    }

    fn end(self) -> Result<(), String> {
        self.0.keys().next().map_or(Ok(()), |key| Err(format!("expected no option of the name {key:?} here")))
    }
}

#[cfg(test)]
mod tests;
