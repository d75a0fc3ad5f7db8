//! Sums by channel and normalisations (`kernels/norm.cu`).

use anyhow::Result;

use crate::device::Argument::{Address, Count, Real};
use crate::device::{Argument, Gpu, Memory, Part, THREADS};
use crate::maps::{Closing, Source, count, floats, map};

/// Sums by channel that blocks of a grid have found.
pub struct Sums {
    partial: Memory,
    blocks: usize,
    /// Numbers that each sum is of.
    count: usize,
}

/// A normalisation's numbers by channel: mean, one over the deviation, scale, shift, and what its gradient needs.
pub struct Normalisation {
    numbers: Memory,
    channels: usize,
}

/// What normalises, f32 by channel.
pub struct Statistics<'a> {
    /// Factor.
    pub weight: Part<'a>,
    /// Summand.
    pub bias: Part<'a>,
    /// Running mean and variance, which sums of a batch move.
    pub running: [Part<'a>; 2],
    /// Added to the variance.
    pub epsilon: f32,
    /// Weight of a batch in the running ones.
    pub momentum: f32,
}

impl Normalisation {
    /// Takes memory for one.
    ///
    /// # Errors
    ///
    /// If the GPU has no more.
    pub fn new(gpu: &Gpu, channels: usize) -> Result<Self> {
        Ok(Self { numbers: gpu.zeros(6 * channels)?, channels })
    }

    fn part(&self, at: usize) -> Part<'_> {
        self.numbers.floats(at * self.channels..(at + 1) * self.channels)
    }

    /// Returns what it makes of a map.
    pub fn of<'a>(&'a self, z: &'a Memory, closing: Closing) -> Source<'a> {
        Source { z, affine: Some([self.part(2), self.part(3)]), closing }
    }
}

/// Channels that a block settles.
const TILE: usize = 4;
/// Blocks of a grid for each processor.
const BLOCKS: usize = 4;

impl Gpu {
    /// Returns the grid for sums over rows of so many lanes, each of some channels, of at most `most` blocks a lane.
    fn rows(rows: usize, lanes: usize, most: usize) -> [usize; 2] {
        let high = THREADS / lanes.min(THREADS);
        [lanes.div_ceil(THREADS), rows.div_ceil(high).clamp(1, most)]
    }

    /// The same, of as many blocks as keep the processors busy.
    pub(crate) fn many_rows(&self, rows: usize, lanes: usize) -> [usize; 2] {
        Self::rows(rows, lanes, BLOCKS * self.processors())
    }

    /// Runs a kernel that finds two sums of each channel; `of` is what it is given between the sizes and the sums.
    fn sums(&self, kernel: &'static str, rows: usize, channels: usize, of: &[Argument]) -> Result<Sums> {
        self.packs(rows * channels, channels)?;
        let grid = self.many_rows(rows, channels / self.pack());
        let partial = self.memory(grid[1] * 2 * channels * 4)?;
        let sizes = [rows, channels].map(|n| Count(n as u32));
        let to = Address(partial.all().address);
        let arguments: Vec<Argument> = sizes.into_iter().chain(of.iter().copied()).chain([to]).collect();
        self.launch(kernel, grid, &arguments)?;
        Ok(Sums { partial, blocks: grid[1], count: rows })
    }

    /// Sums `z - centre` and its square over `rows` of channels.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn statistics(&self, rows: usize, channels: usize, z: &Memory, centre: Part<'_>) -> Result<Sums> {
        let of = [map(self, z, rows * channels), floats(centre, channels)];
        self.sums("statistics", rows, channels, &of)
    }

    /// Sums the gradient before a normalisation's function, and that times what it normalised.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn moments(&self, rows: usize, n: &Normalisation, z: &Memory, closing: Closing, g: &Memory) -> Result<Sums> {
        let (channels, numbers) = (n.channels, rows * n.channels);
        let x = n.of(z, closing).argument(self, numbers, channels);
        self.sums("moments", rows, channels, &[x, map(self, g, numbers), floats(n.part(0), channels)])
    }

    /// Settles a normalisation by a batch's sums, or without by the running statistics.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn settle(&self, n: &Normalisation, sums: Option<&Sums>, by: &Statistics<'_>) -> Result<()> {
        let channels = n.channels;
        let [partial, blocks, count] = parts(sums);
        let own = [by.weight, by.bias, by.running[0], by.running[1]].map(|p| floats(p, channels));
        let ends = [Real(by.epsilon), Real(by.momentum), Address(n.numbers.all().address)];
        let arguments = [Count(channels as u32), partial, blocks, count].into_iter().chain(own).chain(ends);
        self.launch("settle", [channels.div_ceil(TILE), 1], &arguments.collect::<Vec<_>>())
    }

    /// Adds to the gradients of weight and bias, and settles what [`Gpu::combine`] needs where `sums` are of [`Gpu::moments`].
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn settle_gradient(&self, n: &Normalisation, sums: &Sums, weight: Part<'_>, bias: Part<'_>) -> Result<()> {
        let channels = n.channels;
        let [partial, blocks, count] = parts(Some(sums));
        let [weight, bias] = [weight, bias].map(|p| floats(p, channels));
        let own = Address(n.numbers.all().address);
        let arguments = [Count(channels as u32), partial, blocks, count, own, weight, bias];
        self.launch("settle_gradient", [channels.div_ceil(TILE), 1], &arguments)
    }

    /// Writes the gradient of what was normalised, by statistics of the batch or not.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // what was given, what was made of it, and its gradient
    pub fn combine(
        &self,
        rows: usize,
        n: &Normalisation,
        z: &Memory,
        closing: Closing,
        g: &Memory,
        by_batch: bool,
        dz: &Memory,
    ) -> Result<()> {
        let (channels, numbers) = (n.channels, rows * n.channels);
        let (packs, grid) = self.packs(numbers, channels)?;
        let x = n.of(z, closing).argument(self, numbers, channels);
        let [k1, k2] = [4, 5].map(|at| if by_batch { Address(n.part(at).address) } else { Address(0) });
        let [g, dz] = [g, dz].map(|m| map(self, m, numbers));
        self.launch("combine", grid, &[packs, Count(channels as u32), x, g, k1, k2, dz])
    }

    /// Sums a map's pixels, or its product's with another, times `by`: `[pictures, channels]`.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    pub fn sum_pixels(
        &self,
        pictures: usize,
        pixels: usize,
        channels: usize,
        x: &Source<'_>,
        other: Option<&Memory>,
        by: f32,
        to: &Memory,
    ) -> Result<()> {
        let numbers = pictures * pixels * channels;
        self.packs(numbers, channels)?;
        let grid = [Self::rows(pixels, channels / self.pack(), 1)[0], pictures];
        let x = x.argument(self, numbers, channels);
        let other = other.map_or(Address(0), |o| map(self, o, numbers));
        let sizes = [pixels, channels].map(|n| Count(n as u32));
        let to = floats(to.all(), pictures * channels);
        self.launch("sum_pixels", grid, &[sizes[0], sizes[1], x, other, Real(by), to])
    }

    /// Adds the sums of rows of f32, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn add_rows(&self, rows: usize, width: usize, from: Part<'_>, to: Part<'_>) -> Result<()> {
        let arguments = [count(width)?, floats(from, rows * width), Count(rows as u32), floats(to, width)];
        self.launch("add_blocks", [width.div_ceil(TILE), 1], &arguments)
    }
}

fn parts(sums: Option<&Sums>) -> [Argument; 3] {
    match sums {
        Some(s) => [Address(s.partial.all().address), Count(s.blocks as u32), Real(s.count as f32)],
        None => [Address(0), Count(0), Real(1.0)],
    }
}
