//! What looks through windows (`kernels/windows.cu`): convolutions and pools.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::device::Argument::{Address, Count, Flag};
use crate::device::{Argument, Gpu, Memory, Part, RawWindow, THREADS};
use crate::maps::{Source, count, floats, map};

/// A square window over maps of one size that gives maps of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width of what it looks at.
    pub input: [usize; 2],
    /// Height and width of what it gives.
    pub output: [usize; 2],
    /// Pixels of its side.
    pub side: usize,
    /// Pixels from one place to the next.
    pub stride: usize,
    /// Pixels padded above and to the left.
    pub before: [usize; 2],
}

impl Window {
    /// Whether it sees a pixel and gives that one.
    pub fn is_point(&self) -> bool {
        self.side == 1 && self.stride == 1
    }

    fn argument(&self) -> Argument {
        let [h, w, out_h, out_w] = [self.input[0], self.input[1], self.output[0], self.output[1]];
        let all = [h, w, out_h, out_w, self.side, self.stride, self.before[0], self.before[1]];
        Argument::Window(RawWindow(all.map(|n| i32::try_from(n).unwrap_or(i32::MAX))))
    }

    fn inputs(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn outputs(&self) -> usize {
        self.output[0] * self.output[1]
    }
}

impl Gpu {
    /// Lays out what each output of some pictures sees of a map, in rows of `row` numbers of which those behind the window's are
    /// zero; `pictures` are those laid out, of `all`.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn unfold(
        &self,
        pictures: Range<usize>,
        channels: usize,
        row: usize,
        w: Window,
        x: &Source<'_>,
        to: &Memory,
    ) -> Result<()> {
        let numbers = pictures.len() * w.outputs() * row;
        let packs = numbers / self.pack();
        count(numbers)?;
        count(pictures.end * w.inputs() * channels)?;
        let x = x.argument(self, pictures.end * w.inputs() * channels, channels);
        let sizes = [packs, channels, row].map(|n| Count(n as u32));
        let first = Count(pictures.start as u32);
        let to = map(self, to, numbers);
        let grid = [packs.div_ceil(THREADS), 1];
        self.launch("unfold", grid, &[sizes[0], sizes[1], sizes[2], w.argument(), x, first, to])
    }

    /// Sums up what was made of each pixel, the other way.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    pub fn fold(
        &self,
        pictures: Range<usize>,
        channels: usize,
        row: usize,
        w: Window,
        from: &Memory,
        adds: bool,
        dx: &Memory,
    ) -> Result<()> {
        let (packs, grid) = self.packs(pictures.len() * w.inputs() * channels, channels)?;
        let from = map(self, from, pictures.len() * w.outputs() * row);
        count(pictures.len() * w.outputs() * row)?;
        let dx = map(self, dx, pictures.end * w.inputs() * channels);
        let sizes = [channels, row].map(|n| Count(n as u32));
        let (first, adds) = (Count(pictures.start as u32), Flag(adds.into()));
        self.launch("fold", grid, &[packs, sizes[0], sizes[1], w.argument(), from, first, adds, dx])
    }

    /// Convolves each channel with its own weights, f32 `[side², channels]`.
    ///
    /// # Errors
    ///
    /// If the window is of another side than 3 and 5, or the GPU fails.
    pub fn depthwise(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        x: &Source<'_>,
        weight: Part<'_>,
        z: &Memory,
    ) -> Result<()> {
        let numbers = pictures * w.outputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        count(pictures * w.inputs() * channels)?;
        let weight = floats(weight, w.side * w.side * channels);
        let arguments = [packs, Count(channels as u32), w.argument(), x, weight, map(self, z, numbers)];
        self.launch(of_side(w, ["depthwise_3", "depthwise_5"])?, grid, &arguments)
    }

    /// Writes the gradient of what [`Gpu::depthwise`] looked at, or adds it.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    pub fn depthwise_input(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        dz: &Memory,
        weight: Part<'_>,
        adds: bool,
        dx: &Memory,
    ) -> Result<()> {
        let numbers = pictures * w.inputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        let dz = map(self, dz, pictures * w.outputs() * channels);
        let weight = floats(weight, w.side * w.side * channels);
        let (adds, dx) = (Flag(adds.into()), map(self, dx, numbers));
        self.launch("depthwise_input", grid, &[packs, Count(channels as u32), w.argument(), dz, weight, adds, dx])
    }

    /// Adds to the gradient of the weights of [`Gpu::depthwise`].
    ///
    /// # Errors
    ///
    /// If the window is of another side than 3 and 5, or the GPU fails.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    pub fn depthwise_weight(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        x: &Source<'_>,
        dz: &Memory,
        gradient: Part<'_>,
    ) -> Result<()> {
        let (rows, taps) = (pictures * w.output[0], w.side * w.side * channels);
        self.packs(pictures * w.outputs() * channels, channels)?;
        count(pictures * w.inputs() * channels)?;
        let grid = self.depthwise_grid(rows, channels);
        let partial = self.memory(grid[1] * taps * 4)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        let dz = map(self, dz, pictures * w.outputs() * channels);
        let sizes = [rows, channels].map(|n| Count(n as u32));
        let arguments = [sizes[0], sizes[1], w.argument(), x, dz, Address(partial.all().address)];
        self.launch(of_side(w, ["depthwise_weight_3", "depthwise_weight_5"])?, grid, &arguments)?;
        self.add_rows(grid[1], taps, partial.all(), gradient)
    }

    /// Writes the largest number that each window sees.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn max_pool(&self, pictures: usize, channels: usize, w: Window, x: &Source<'_>, y: &Memory) -> Result<()> {
        let numbers = pictures * w.outputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        count(pictures * w.inputs() * channels)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        self.launch("max_pool", grid, &[packs, Count(channels as u32), w.argument(), x, map(self, y, numbers)])
    }

    /// Writes the gradient of what [`Gpu::max_pool`] looked at, or adds it: to the first of a window that is the largest.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    pub fn max_pool_input(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        x: &Source<'_>,
        g: &Memory,
        adds: bool,
        dx: &Memory,
    ) -> Result<()> {
        let numbers = pictures * w.inputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        let x = x.argument(self, numbers, channels);
        let g = map(self, g, pictures * w.outputs() * channels);
        let (adds, dx) = (Flag(adds.into()), map(self, dx, numbers));
        self.launch("max_pool_input", grid, &[packs, Count(channels as u32), w.argument(), x, g, adds, dx])
    }
}

fn of_side<'a>(w: Window, [three, five]: [&'a str; 2]) -> Result<&'a str> {
    match w.side {
        3 => Ok(three),
        5 => Ok(five),
        side => bail!("expected a depthwise convolution of side 3 or 5 on a GPU, found {side}; use --device cpu"),
    }
}
