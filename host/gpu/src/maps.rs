//! What is done number by number (`kernels/elements.cu`).

use anyhow::{Result, ensure};

use crate::CHANNELS;
use crate::device::Argument::{Address, Count, Flag, Real};
use crate::device::{Argument, Gpu, Memory, Part, RawFunction, RawSource, THREADS};

/// The function that closes a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Closing {
    /// `x`.
    None,
    /// `min(max(x, low), high)`.
    Clamp {
        /// Smallest result.
        low: f32,
        /// Largest result.
        high: f32,
    },
    /// `x * min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Closing {
    pub(crate) fn argument(self) -> Argument {
        Argument::Function(self.raw())
    }

    fn raw(self) -> RawFunction {
        let (kind, low, high) = match self {
            Self::None => (0, f32::NEG_INFINITY, f32::INFINITY),
            Self::Clamp { low, high } => (1, low, high),
            Self::HardSwish => (2, 0.0, 0.0),
            Self::Silu => (3, 0.0, 0.0),
            Self::HardSigmoid => (4, 0.0, 0.0),
            Self::Sigmoid => (5, 0.0, 0.0),
        };
        RawFunction { kind, low, high }
    }
}

/// A map as it is kept: `closing(scale z + shift)` by channel, or just z.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What is kept.
    pub z: &'a Memory,
    /// Scale and shift, f32 by channel.
    pub affine: Option<[Part<'a>; 2]>,
    /// The function; of a map without scale as well.
    pub closing: Closing,
}

impl<'a> Source<'a> {
    /// Takes a map as it is.
    pub fn plain(z: &'a Memory) -> Self {
        Self { z, affine: None, closing: Closing::None }
    }

    pub(crate) fn argument(&self, gpu: &Gpu, numbers: usize, channels: usize) -> Argument {
        assert!(numbers * gpu.width() <= self.z.all().bytes, "{numbers} numbers of {} bytes", self.z.all().bytes);
        let [scale, shift] = self.affine.map_or([0; 2], |parts| {
            parts.map(|p| {
                assert!(channels * 4 <= p.bytes, "{channels} channels of {} bytes", p.bytes);
                p.address
            })
        });
        Argument::Source(RawSource { z: self.z.all().address, scale, shift, function: self.closing.raw() })
    }
}

/// What [`Gpu::spread`] writes: `factors dy + by summands`, the two by picture and channel.
pub struct Spread<'a> {
    /// The map and its factors.
    pub scaled: Option<(&'a Memory, Part<'a>)>,
    /// What is added to each pixel.
    pub summands: Part<'a>,
    /// Factor of the latter.
    pub by: f32,
    /// Whether it is added to what is there.
    pub adds: bool,
}

/// Returns the address of a map, which must be as large.
pub(crate) fn map(gpu: &Gpu, memory: &Memory, numbers: usize) -> Argument {
    bytes(memory.all(), numbers * gpu.width())
}

/// Returns the address of f32, of which there must be as many.
pub(crate) fn floats(part: Part<'_>, numbers: usize) -> Argument {
    bytes(part, numbers * 4)
}

/// Returns the address of bytes, of which there must be as many.
pub(crate) fn bytes(part: Part<'_>, count: usize) -> Argument {
    assert!(count <= part.bytes, "{count} bytes of {}", part.bytes);
    Address(part.address)
}

/// Returns a count as kernels take it.
pub(crate) fn count(n: usize) -> Result<Argument> {
    // Packs of 8 numbers are counted by number as well.
    ensure!(n < 1 << 31, "expected less than 2^31 numbers at once, found {n}; lower --batch");
    Ok(Count(n as u32))
}

impl Gpu {
    /// Returns the channels in a pack of 16 bytes.
    pub(crate) fn pack(&self) -> usize {
        16 / self.width()
    }

    /// Returns packs and the grid for a map of so many numbers.
    pub(crate) fn packs(&self, numbers: usize, channels: usize) -> Result<(Argument, [usize; 2])> {
        assert!(
            channels.is_multiple_of(CHANNELS) && numbers.is_multiple_of(channels),
            "{numbers} of {channels} channels"
        );
        count(numbers)?;
        let packs = numbers / self.pack();
        Ok((Count(packs as u32), [packs.div_ceil(THREADS), 1]))
    }

    /// Writes pictures of bytes, `[n, h, w, 3]`, as `scale byte + shift` by channel.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn pictures(
        &self,
        bytes: &Memory,
        numbers: usize,
        scale: [f32; 3],
        shift: [f32; 3],
        to: &Memory,
    ) -> Result<()> {
        let from = self::bytes(bytes.all(), numbers);
        let factors = scale.into_iter().chain(shift).map(Real);
        let arguments: Vec<Argument> =
            [count(numbers)?, from].into_iter().chain(factors).chain([map(self, to, numbers)]).collect();
        self.launch("pictures", [numbers.div_ceil(THREADS), 1], &arguments)
    }

    /// Writes `closing(a + b)`, or `closing(a)`.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn sum(
        &self,
        numbers: usize,
        channels: usize,
        a: &Source<'_>,
        b: Option<&Source<'_>>,
        closing: Closing,
        y: &Memory,
    ) -> Result<()> {
        let (packs, grid) = self.packs(numbers, channels)?;
        let none = Argument::Source(RawSource { z: 0, scale: 0, shift: 0, function: Closing::None.raw() });
        let [a, b] = [Some(a), b].map(|s| s.map_or(none, |s| s.argument(self, numbers, channels)));
        let arguments = [packs, Count(channels as u32), a, b, closing.argument(), map(self, y, numbers)];
        self.launch("sum", grid, &arguments)
    }

    /// Writes the gradient before a clamp, given its results and theirs.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn mask(
        &self,
        numbers: usize,
        channels: usize,
        clamp: Closing,
        y: &Memory,
        g: &Memory,
        to: &Memory,
    ) -> Result<()> {
        let (packs, grid) = self.packs(numbers, channels)?;
        let [y, g, to] = [y, g, to].map(|m| map(self, m, numbers));
        self.launch("mask", grid, &[packs, clamp.argument(), y, g, to])
    }

    /// Adds a map to another.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn add(&self, numbers: usize, channels: usize, from: &Memory, to: &Memory) -> Result<()> {
        let (packs, grid) = self.packs(numbers, channels)?;
        self.launch("add", grid, &[packs, map(self, from, numbers), map(self, to, numbers)])
    }

    /// Multiplies with factors `[pictures, channels]`.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn scale(
        &self,
        numbers: usize,
        channels: usize,
        pixels: usize,
        x: &Source<'_>,
        factors: Part<'_>,
        y: &Memory,
    ) -> Result<()> {
        let (packs, grid) = self.packs(numbers, channels)?;
        let factors = floats(factors, numbers / pixels);
        let sizes = [channels, pixels].map(|n| Count(n as u32));
        let x = x.argument(self, numbers, channels);
        self.launch("scale", grid, &[packs, sizes[0], sizes[1], x, factors, map(self, y, numbers)])
    }

    /// Spreads what is of a picture and a channel over its pixels.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn spread(&self, numbers: usize, channels: usize, pixels: usize, what: &Spread<'_>, dx: &Memory) -> Result<()> {
        let (packs, grid) = self.packs(numbers, channels)?;
        let [dy, factors] = match &what.scaled {
            Some((dy, factors)) => [map(self, dy, numbers), floats(*factors, numbers / pixels)],
            None => [Address(0); 2],
        };
        let sizes = [channels, pixels].map(|n| Count(n as u32));
        let summands = floats(what.summands, numbers / pixels);
        let ends = [Real(what.by), Flag(what.adds.into()), map(self, dx, numbers)];
        self.launch("spread", grid, &[packs, sizes[0], sizes[1], dy, factors, summands, ends[0], ends[1], ends[2]])
    }

    /// Writes `closing(z + bias)` of rows of f32.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn close_rows(
        &self,
        rows: usize,
        width: usize,
        z: &Memory,
        bias: Part<'_>,
        by: Closing,
        y: &Memory,
    ) -> Result<()> {
        let n = rows * width;
        let [z, y] = [z, y].map(|m| floats(m.all(), n));
        let arguments = [count(n)?, Count(width as u32), z, floats(bias, width), by.argument(), y];
        self.launch("close_rows", [n.div_ceil(THREADS), 1], &arguments)
    }

    /// Writes the gradient of z, given that of what [`Gpu::close_rows`] wrote.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // what was given, what was made of it, and its gradient
    pub fn open_rows(
        &self,
        rows: usize,
        width: usize,
        z: &Memory,
        bias: Part<'_>,
        by: Closing,
        g: &Memory,
        dz: &Memory,
    ) -> Result<()> {
        let n = rows * width;
        let [z, g, dz] = [z, g, dz].map(|m| floats(m.all(), n));
        let arguments = [count(n)?, Count(width as u32), z, floats(bias, width), by.argument(), g, dz];
        self.launch("open_rows", [n.div_ceil(THREADS), 1], &arguments)
    }

    /// Rounds f32 to the numbers of maps.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn round(&self, numbers: usize, from: Part<'_>, to: &Memory) -> Result<()> {
        let arguments = [count(numbers)?, floats(from, numbers), map(self, to, numbers)];
        self.launch("round_all", [numbers.div_ceil(THREADS), 1], &arguments)
    }
}
