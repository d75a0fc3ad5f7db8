//! One kernel's work, on operands wherever they lie.

use graft_kernels::conv::{Conv, Source};
use graft_kernels::depthwise::Depthwise;
use graft_kernels::int8::{self, Grid, Output, Steps};
use graft_kernels::pointwise::{self, Pointwise};
use graft_kernels::pool::{self, Pool};
use graft_kernels::{Activation, Isa, Threads, Window};
use serde::{Deserialize, Serialize};

use crate::network::{Picture, softmax};
use crate::plan::{Adjustment, Layout};

/// What is computed. Convolutions are written without their numbers, by others (`cache.rs`).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// The input's bytes to numbers, by a table for each channel.
    Normalise(Layout, #[serde(with = "tables")] Vec<[f32; 256]>),
    /// The input's bytes to bytes, by a table for each channel.
    LookUp(Layout, #[serde(with = "tables")] Vec<[u8; 256]>),
    /// The input's numbers to channels last, adjusted in turn.
    Arrange {
        layout: Layout,
        adjustments: Vec<Adjustment>,
    },
    /// The input's planes of numbers to bytes.
    Weave(Steps),
    Pool(Pool, Window),
    /// A sum if there is a second operand, then the function.
    Pointwise(Activation),
    /// The product by the second operand's one pixel, then the function.
    Scale(Activation),
    /// The product of two.
    Product,
    /// `x * factor + term`.
    Affine {
        factor: f32,
        term: f32,
    },
    Softmax,
    BytePool(Pool, Window, Steps),
    ByteAdd(Activation, Steps),
    ByteScale(Steps),
    /// Every byte by a table.
    Table(int8::Table),
    ToBytes(Steps),
    ToFloats,
    // What is not written comes last: serde numbers the others as if it were not there when it reads, but not when it writes.
    #[serde(skip)]
    Conv(Conv),
    #[serde(skip)]
    Depthwise(Depthwise),
    #[serde(skip)]
    ByteConv(int8::conv::Conv),
    #[serde(skip)]
    ByteDepthwise(int8::depthwise::Depthwise),
}

/// Tables as all their numbers in turn.
mod tables {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(tables: &[[T; 256]], to: S) -> Result<S::Ok, S::Error> {
        tables.as_flattened().serialize(to)
    }

    pub(super) fn deserialize<'a, T: Deserialize<'a> + Copy, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Vec<[T; 256]>, D::Error> {
        let numbers = Vec::<T>::deserialize(from)?;
        match numbers.as_chunks() {
            (tables, []) => Ok(tables.to_vec()),
            _ => Err(D::Error::invalid_length(numbers.len(), &"tables of 256 numbers")),
        }
    }
}

/// An activation that is read, or some rows of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub numbers: Numbers<'a>,
    pub size: [usize; 2],
    pub channels: usize,
    pub stride: usize,
    /// Rows of padding above and below instead of a window's own, where these are some rows.
    pub edges: Option<[usize; 2]>,
}

/// The numbers of an activation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbers<'a> {
    Floats(&'a [f32]),
    Bytes(&'a [u8], Grid),
}

impl<'a> Operand<'a> {
    fn floats(&self) -> &'a [f32] {
        match self.numbers {
            Numbers::Floats(floats) => floats,
            Numbers::Bytes(..) => unreachable!("a kernel reads its kind"),
        }
    }

    fn bytes(&self) -> (&'a [u8], Grid) {
        match self.numbers {
            Numbers::Bytes(bytes, grid) => (bytes, grid),
            Numbers::Floats(_) => unreachable!("a kernel reads its kind"),
        }
    }

    fn source(&self) -> Source<'a> {
        Source { data: self.floats(), size: self.size, stride: self.stride, edges: self.edges }
    }

    fn byte_source(&self) -> int8::Source<'a> {
        let (data, grid) = self.bytes();
        int8::Source { data, size: self.size, stride: self.stride, grid, edges: self.edges }
    }
}

impl Work {
    /// Returns what the work is called where it is explained.
    pub fn kernel(&self) -> &'static str {
        match self {
            Self::Normalise(..) => "normalise",
            Self::LookUp(..) => "normalise u8",
            Self::Arrange { .. } => "arrange",
            Self::Weave(_) | Self::ToBytes(_) => "quantize",
            Self::Conv(_) => "conv",
            Self::Depthwise(_) => "depthwise",
            Self::Pool(..) => "pool",
            Self::Pointwise(_) | Self::Affine { .. } => "pointwise",
            Self::Scale(_) | Self::Product => "product",
            Self::Softmax => "softmax",
            Self::ByteConv(_) => "conv u8",
            Self::ByteDepthwise(_) => "depthwise u8",
            Self::BytePool(..) => "pool u8",
            Self::ByteAdd(..) => "sum u8",
            Self::ByteScale(_) => "product u8",
            Self::Table(_) => "table u8",
            Self::ToFloats => "dequantize",
        }
    }

    /// Returns the multiplications in one number of the output that the definition needs.
    pub fn depth(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.depth(),
            Self::Depthwise(conv) => conv.depth(),
            Self::ByteConv(conv) => conv.depth(),
            Self::ByteDepthwise(conv) => conv.depth(),
            _ => 0,
        }
    }

    /// Returns the bytes that a thread works in.
    pub fn scratch(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.scratch(),
            Self::ByteConv(conv) => conv.scratch(),
            _ => 0,
        }
    }

    /// Returns the window of a convolution.
    pub fn window(&self) -> Option<Window> {
        match self {
            Self::Conv(conv) => Some(conv.window()),
            Self::Depthwise(conv) => Some(conv.window()),
            Self::ByteConv(conv) => Some(conv.window()),
            Self::ByteDepthwise(conv) => Some(conv.window()),
            _ => None,
        }
    }

    /// Does work that reads the input, into pixels of `stride` numbers.
    pub fn read(
        &self,
        isa: Isa,
        threads: &mut Threads,
        picture: Picture<'_>,
        channels: usize,
        stride: usize,
        to: &mut Output<'_>,
    ) {
        match (self, picture, to) {
            (Self::Normalise(layout, tables), Picture::Bytes(bytes), Output::Floats(to)) => {
                look_up(*layout, tables, bytes, to, stride);
            }
            (Self::LookUp(layout, tables), Picture::Bytes(bytes), Output::Bytes(to)) => {
                look_up(*layout, tables, bytes, to, stride);
            }
            (Self::Arrange { layout, adjustments }, Picture::Floats(numbers), Output::Floats(to)) => {
                arrange(*layout, channels, numbers, adjustments, to, stride);
            }
            (Self::Weave(steps), Picture::Floats(numbers), Output::Bytes(to)) => {
                int8::pointwise::weave(isa, threads, numbers, channels, *steps, to);
            }
            _ => unreachable!("work that reads the input fits its kind"),
        }
    }

    /// Does work on an activation and, if it takes one, a second operand.
    pub fn run(
        &self,
        isa: Isa,
        threads: &mut Threads,
        from: Operand<'_>,
        other: Option<Operand<'_>>,
        to: &mut Output<'_>,
    ) {
        let second = || other.expect("the work has a second operand");
        match (self, to) {
            (Self::Conv(conv), Output::Floats(to)) => {
                conv.run(isa, threads, from.source(), other.map(|o| o.floats()), to);
            }
            (Self::Depthwise(conv), Output::Floats(to)) => conv.run(isa, threads, from.source(), to),
            (Self::Pool(kind, window), Output::Floats(to)) => {
                pool::run(isa, threads, *kind, window, from.floats(), from.size, from.stride, to);
            }
            (Self::Pointwise(activation), Output::Floats(to)) => {
                let operation = other.map_or(Pointwise::Nothing, |o| Pointwise::Add(o.floats()));
                pointwise::run(isa, threads, from.floats(), operation, *activation, to);
            }
            (Self::Scale(activation), Output::Floats(to)) => {
                pointwise::run(isa, threads, from.floats(), Pointwise::Scale(second().floats()), *activation, to);
            }
            (Self::Product, Output::Floats(to)) => {
                for ((to, a), b) in to.iter_mut().zip(from.floats()).zip(second().floats()) {
                    *to = a * b;
                }
            }
            (Self::Affine { factor, term }, Output::Floats(to)) => {
                to.iter_mut().zip(from.floats()).for_each(|(to, x)| *to = x * factor + term);
            }
            (Self::Softmax, Output::Floats(to)) => {
                let logits = &from.floats()[..from.channels];
                softmax(logits, &mut to[..logits.len()]);
            }
            (Self::ByteConv(conv), to) => conv.run(threads, from.byte_source(), other.map(|o| o.bytes()), to),
            (Self::ByteDepthwise(conv), Output::Bytes(to)) => conv.run(threads, from.byte_source(), to),
            (Self::BytePool(kind, window, steps), Output::Bytes(to)) => {
                int8::pool::run(isa, threads, *kind, window, from.byte_source(), *steps, to);
            }
            (Self::ByteAdd(activation, steps), to) => {
                let (a, b) = (from.bytes(), second().bytes());
                let operation = int8::pointwise::Pointwise::Add { a, b, activation: *activation };
                int8::pointwise::run(isa, threads, operation, Some(*steps), to);
            }
            (Self::ByteScale(steps), to) => {
                let operation = int8::pointwise::Pointwise::Scale { a: from.bytes(), b: second().bytes() };
                int8::pointwise::run(isa, threads, operation, Some(*steps), to);
            }
            (Self::Table(table), Output::Bytes(to)) => int8::pointwise::look_up(threads, table, from.bytes().0, to),
            (Self::ToBytes(steps), to) => {
                int8::pointwise::run(isa, threads, int8::pointwise::Pointwise::Floats(from.floats()), Some(*steps), to);
            }
            (Self::ToFloats, to) => {
                let (data, grid) = from.bytes();
                int8::pointwise::run(isa, threads, int8::pointwise::Pointwise::Bytes(data, grid), None, to);
            }
            _ => unreachable!("work writes the kind of its kernel"),
        }
    }
}

fn look_up<T: Copy>(layout: Layout, tables: &[[T; 256]], bytes: &[u8], to: &mut [T], stride: usize) {
    // Colours, without a loop over three.
    if let (Layout::ChannelsLast, [red, green, blue]) = (layout, tables) {
        for ([r, g, b], out) in bytes.as_chunks().0.iter().zip(to.chunks_exact_mut(stride)) {
            if let [to_r, to_g, to_b, ..] = out {
                (*to_r, *to_g, *to_b) = (red[usize::from(*r)], green[usize::from(*g)], blue[usize::from(*b)]);
            }
        }
        return;
    }
    match layout {
        Layout::ChannelsLast => {
            for (pixel, out) in bytes.chunks_exact(tables.len()).zip(to.chunks_exact_mut(stride)) {
                for ((value, byte), table) in out.iter_mut().zip(pixel).zip(tables) {
                    *value = table[usize::from(*byte)];
                }
            }
        }
        Layout::Planes => {
            let planes = bytes.chunks_exact(bytes.len() / tables.len());
            for (c, (plane, table)) in planes.zip(tables).enumerate() {
                let to = to[c..].iter_mut().step_by(stride);
                to.zip(plane).for_each(|(value, byte)| *value = table[usize::from(*byte)]);
            }
        }
    }
}

/// Brings the channels of each pixel together, and adjusts them.
fn arrange(
    layout: Layout,
    channels: usize,
    numbers: &[f32],
    adjustments: &[Adjustment],
    to: &mut [f32],
    stride: usize,
) {
    let pixels = numbers.len() / channels;
    let (pixel, channel) = match layout {
        Layout::ChannelsLast => (channels, 1),
        Layout::Planes => (1, pixels),
    };
    // What most exporters write: numbers adjusted before, in planes.
    if let (true, Layout::Planes, 3, 4) = (adjustments.is_empty(), layout, channels, stride) {
        let (a, rest) = numbers.split_at(pixels);
        let (b, c) = rest.split_at(pixels);
        let to = to.as_chunks_mut::<4>().0.iter_mut();
        to.zip(a).zip(b).zip(c).for_each(|(((to, a), b), c)| *to = [*a, *b, *c, 0.0]);
        return;
    }
    for c in 0..channels {
        let from = numbers[c * channel..].iter().step_by(pixel);
        to[c..].iter_mut().step_by(stride).zip(from).take(pixels).for_each(|(to, from)| *to = *from);
        for adjustment in adjustments {
            to[c..].iter_mut().step_by(stride).take(pixels).for_each(|to| *to = adjustment.at(c, *to));
        }
    }
}
