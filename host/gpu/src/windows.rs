//! What looks through windows (`kernels/windows.cu`): convolutions and pools.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::device::Argument::{Address, Count, Flag};
use crate::device::{Argument, Gpu, Memory, Part, RawWindow, THREADS};
use crate::maps::{Source, bytes, count, floats, map};

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
        count(numbers)?;
        count(pictures.end * w.inputs() * channels)?;
        let x = x.argument(self, pictures.end * w.inputs() * channels, channels);
        let sizes = [channels, row, pictures.start].map(|n| Count(n as u32));
        let to = map(self, to, numbers);
        let grid = [(w.output[1] * row / self.pack()).div_ceil(THREADS), pictures.len() * w.output[0]];
        self.launch("unfold", grid, &[sizes[0], sizes[1], w.argument(), x, sizes[2], to])
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
    /// If the window is of another side than 3 and 5 or another stride than 1 and 2, or the GPU fails.
    pub fn depthwise(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        x: &Source<'_>,
        weight: Part<'_>,
        z: &Memory,
    ) -> Result<()> {
        self.each_channel(pictures, channels, w, x, weight, [false; 2], z)
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
        if w.stride == 1 {
            // The same convolution by weights that are turned round.
            let before = w.before.map(|b| w.side - 1 - b);
            let back = Window { input: w.output, output: w.input, before, ..w };
            return self.each_channel(pictures, channels, back, &Source::plain(dz), weight, [true, adds], dx);
        }
        let numbers = pictures * w.inputs() * channels;
        self.packs(numbers, channels)?;
        let dz = map(self, dz, pictures * w.outputs() * channels);
        let weight = floats(weight, w.side * w.side * channels);
        let (adds, dx) = (Flag(adds.into()), map(self, dx, numbers));
        let grid = [(w.input[1] * channels / self.pack()).div_ceil(THREADS), pictures * w.input[0]];
        let kernel = kernel(w, ["", "depthwise_input_3_2", "", "depthwise_input_5_2"])?;
        self.launch(kernel, grid, &[Count(channels as u32), w.argument(), dz, weight, adds, dx])
    }

    /// `[turned, adds]`: whether the weights go from the last to the first, and whether what is there is added to.
    #[allow(clippy::too_many_arguments)] // sizes and maps
    fn each_channel(
        &self,
        pictures: usize,
        channels: usize,
        w: Window,
        x: &Source<'_>,
        weight: Part<'_>,
        flags: [bool; 2],
        z: &Memory,
    ) -> Result<()> {
        let numbers = pictures * w.outputs() * channels;
        self.packs(numbers, channels)?;
        count(pictures * w.inputs() * channels)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        let weight = floats(weight, w.side * w.side * channels);
        let [turned, adds] = flags.map(|f| Flag(f.into()));
        let strips = w.output[1].div_ceil(STRIP) * channels / self.pack();
        let grid = [strips.div_ceil(THREADS), pictures * w.output[0]];
        let kernel = kernel(w, ["depthwise_3_1", "depthwise_3_2", "depthwise_5_1", "depthwise_5_2"])?;
        let z = map(self, z, numbers);
        self.launch(kernel, grid, &[Count(channels as u32), w.argument(), x, weight, turned, adds, z])
    }

    /// Adds to the gradient of the weights of [`Gpu::depthwise`].
    ///
    /// # Errors
    ///
    /// If the window is of another side than 3 and 5 or another stride than 1 and 2, or the GPU fails.
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
        // A thread has two channels.
        let grid = self.many_rows(rows, channels / 2);
        let partial = self.memory(grid[1] * taps * 4)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        let dz = map(self, dz, pictures * w.outputs() * channels);
        let sizes = [rows, channels].map(|n| Count(n as u32));
        let arguments = [sizes[0], sizes[1], w.argument(), x, dz, Address(partial.all().address)];
        let names = ["depthwise_weight_3_1", "depthwise_weight_3_2", "depthwise_weight_5_1", "depthwise_weight_5_2"];
        self.launch(kernel(w, names)?, grid, &arguments)?;
        self.add_rows(grid[1], taps, partial.all(), gradient)
    }

    /// Writes the largest number that each window sees; returns where in the window it is, the first of equal ones.
    ///
    /// # Errors
    ///
    /// If the GPU fails.
    pub fn max_pool(&self, pictures: usize, channels: usize, w: Window, x: &Source<'_>, y: &Memory) -> Result<Memory> {
        let numbers = pictures * w.outputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        count(pictures * w.inputs() * channels)?;
        let x = x.argument(self, pictures * w.inputs() * channels, channels);
        let taps = self.memory(numbers)?;
        let ends = [map(self, y, numbers), Address(taps.all().address)];
        self.launch("max_pool", grid, &[packs, Count(channels as u32), w.argument(), x, ends[0], ends[1]])?;
        Ok(taps)
    }

    /// Writes the gradient of what [`Gpu::max_pool`] looked at, or adds it.
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
        taps: &Memory,
        g: &Memory,
        adds: bool,
        dx: &Memory,
    ) -> Result<()> {
        let numbers = pictures * w.inputs() * channels;
        let (packs, grid) = self.packs(numbers, channels)?;
        let taps = bytes(taps.all(), pictures * w.outputs() * channels);
        let g = map(self, g, pictures * w.outputs() * channels);
        let (adds, dx) = (Flag(adds.into()), map(self, dx, numbers));
        self.launch("max_pool_input", grid, &[packs, Count(channels as u32), w.argument(), taps, g, adds, dx])
    }
}

/// Outputs of a row that a thread computes.
const STRIP: usize = 2;

/// Returns the kernel of a depthwise convolution, of those for sides 3 and 5 with strides 1 and 2.
fn kernel(w: Window, names: [&'static str; 4]) -> Result<&'static str> {
    match (w.side, w.stride) {
        (3, 1) => Ok(names[0]),
        (3, 2) => Ok(names[1]),
        (5, 1) => Ok(names[2]),
        (5, 2) => Ok(names[3]),
        (side, stride) => {
            bail!(
                "expected a depthwise convolution of side 3 or 5 and stride 1 or 2 on a GPU, found {side} and {stride}; use --device cpu"
            )
        }
    }
}
