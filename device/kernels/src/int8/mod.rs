//! Kernels on bytes: u8 activations, s8 weights, exact sums in 32 bits.
//!
//! A byte `q` stands for `(q - zero) * scale`, its [`Grid`]. Sums of products are exact on every instruction set; where a
//! sum becomes a byte again it is converted to single precision, multiplied once and rounded half to even, the same on
//! all of them. So every kernel gives the same bytes as its scalar twin.
//!
//! # Source
//!
//! ONNX operators QuantizeLinear, DequantizeLinear and QLinearConv; Jacob et al., arXiv:1712.05877.

pub mod conv;
pub mod depthwise;
pub mod pointwise;
pub mod pool;
pub(crate) mod simd;
#[cfg(test)]
mod tests;

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::Activation;
use crate::simd::Simd;
use crate::store::{Store, Stores};
use simd::Bytes;

/// What the bytes of an activation stand for: `(q - zero) * scale`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Size of a step; positive.
    pub scale: f32,
    /// The byte that stands for zero.
    pub zero: u8,
}

impl Grid {
    /// Loads what bytes stand for.
    ///
    /// # Safety
    ///
    /// The machine has the instructions of `S`; as many bytes as lanes lie there.
    #[inline(always)]
    pub(crate) unsafe fn numbers<S: Bytes>(&self, bytes: *const u8) -> <S::F as Simd>::V {
        let steps = S::F::add(S::load_bytes(bytes), S::F::splat(-f32::from(self.zero)));
        S::F::mul(steps, S::F::splat(self.scale))
    }
}

/// Rounding to whole steps, as a QuantizeLinear does: `min(max(round(x / scale), low), high)`, half to even.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// Size of a step.
    pub scale: f32,
    /// Smallest number of steps.
    pub low: f32,
    /// Largest number of steps.
    pub high: f32,
}

impl Steps {
    /// Returns how bytes hold the steps, or none where they cannot, or cannot hold zero (which padding is made of).
    pub fn grid(self) -> Option<Grid> {
        let fits = self.low <= 0.0 && self.high >= 0.0 && self.high - self.low <= 255.0;
        fits.then_some(Grid { scale: self.scale, zero: (-self.low) as u8 })
    }
}

/// What becomes of a sum of products before it is written.
///
/// With `first`, the sum is rounded to steps. Then what the kernel was given to add is added, `activation` applied, and
/// the result rounded to `last`; without `last` it is written in single precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// The first rounding.
    pub first: Option<Steps>,
    /// The function after it, and after the addition.
    pub activation: Activation,
    /// The second rounding; bytes are written after one rounding alone if this is none and `activation` the identity.
    pub last: Option<Steps>,
    /// What each byte becomes in the end.
    pub table: Option<Table>,
}

impl Closing {
    /// Returns the steps that are written as bytes, or none where single precision is written.
    pub fn written(&self, adds: bool) -> Option<Steps> {
        match self.last {
            Some(last) => Some(last),
            None if self.activation == Activation::NONE && !adds => self.first,
            None => None,
        }
    }
}

/// What becomes of each byte; written as its bytes in turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", try_from = "Vec<u8>")]
pub struct Table {
    bytes: Box<[u8; 256]>,
    /// Each byte with the bits of the one sixteen before it turned over, but for the first sixteen of each half.
    turned: Box<[u8; 256]>,
}

impl Table {
    /// Returns what makes every sixteen bytes of those before them; the first of each half are themselves.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) fn turned(&self) -> &[u8; 256] {
        &self.turned
    }
}

impl From<[u8; 256]> for Table {
    fn from(bytes: [u8; 256]) -> Self {
        let turned = std::array::from_fn(|i| if i % 128 < 16 { bytes[i] } else { bytes[i] ^ bytes[i - 16] });
        Self { bytes: Box::new(bytes), turned: Box::new(turned) }
    }
}

impl From<Table> for Vec<u8> {
    fn from(table: Table) -> Self {
        table.bytes.to_vec()
    }
}

impl TryFrom<Vec<u8>> for Table {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let wrong = |b: Vec<u8>| format!("expected a table of 256 bytes, found {}", b.len());
        <[u8; 256]>::try_from(bytes).map(Self::from).map_err(wrong)
    }
}

impl Deref for Table {
    type Target = [u8; 256];

    fn deref(&self) -> &[u8; 256] {
        &self.bytes
    }
}

/// A kernel's output: bytes or numbers in single precision.
#[derive(Debug)]
pub enum Output<'a> {
    /// The bytes of a grid.
    Bytes(&'a mut [u8]),
    /// Numbers.
    Floats(&'a mut [f32]),
}

impl Output<'_> {
    /// Returns the number of numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(b) => b.len(),
            Self::Floats(f) => f.len(),
        }
    }

    /// Whether it holds no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An activation of bytes that is read: `[h, w]` pixels of `stride` bytes each.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Row-major pixels.
    pub data: &'a [u8],
    /// Height and width.
    pub size: [usize; 2],
    /// Bytes from one pixel to the next, a multiple of 4.
    pub stride: usize,
    /// What the bytes stand for.
    pub grid: Grid,
    /// Rows of padding above and below instead of the window's own, where these are some rows of a picture.
    pub edges: Option<[usize; 2]>,
}

/// [`Closing`] as the kernels run it, over the sums of all channels.
#[derive(Debug, Clone)]
pub(crate) struct Requantize {
    /// What one unit of a channel's sum is worth: in steps of `first`, or in the unit of the numbers. `[padded(c)]`.
    pub factors: Store,
    pub closing: Closing,
    /// One over the size of a step of the last rounding.
    pub reciprocal: f32,
    /// No sum is worth as much as 2^30 steps, so that whole numbers hold it.
    pub is_small: bool,
}

/// What a [`Requantize`] is, but for its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequantizeForm {
    closing: Closing,
    is_small: bool,
}

impl Requantize {
    /// `units` is what one unit of each channel's sum is worth, `largest` how large that can become.
    pub fn new(units: &[f32], largest: &[f32], closing: Closing) -> Self {
        let mut factors = crate::Buffer::zeros(crate::padded(units.len()));
        for (f, u) in factors.iter_mut().zip(units) {
            *f = closing.first.map_or(*u, |s| *u / s.scale);
        }
        let is_small = factors.iter().zip(largest).all(|(f, l)| f * l < (1 << 30) as f32);
        let reciprocal = closing.last.map_or(1.0, |s| 1.0 / s.scale);
        Self { factors: factors.into(), closing, reciprocal, is_small }
    }

    /// Returns what it is but for its numbers, which are `factors`.
    pub fn form(&self) -> RequantizeForm {
        RequantizeForm { closing: self.closing.clone(), is_small: self.is_small }
    }

    /// Takes `len` factors for a form; none where there are fewer.
    pub fn whole(form: RequantizeForm, len: usize, numbers: &mut Stores) -> Option<Self> {
        let RequantizeForm { closing, is_small } = form;
        let reciprocal = closing.last.map_or(1.0, |s| 1.0 / s.scale);
        Some(Self { factors: numbers.take(len)?, closing, reciprocal, is_small })
    }

    /// Returns the steps if one rounding is all there is, a table aside.
    pub fn only_steps(&self, adds: bool) -> Option<Steps> {
        let only = |first: &Steps| self.closing.last.is_none() && self.closing.written(adds) == Some(*first);
        self.closing.first.filter(|first| self.is_small && only(first))
    }

    /// Returns how a sum is closed that is rounded, added to what lies on a grid, and rounded again, if that is all, a clamp
    /// and a table aside.
    pub fn residual(&self, grid: Grid) -> Option<Residual> {
        let (Some(first), Some(last), Activation::Clamp { low, high }) =
            (self.closing.first, self.closing.last, self.closing.activation)
        else {
            return None;
        };
        // A division is monotonic, so that the bounds of the clamp are bounds after it too.
        let bound = |x: f32| (x / last.scale).clamp(last.low, last.high);
        let within = Steps { low: bound(low), high: bound(high), ..last };
        Some(Residual { first, grid, within, last, span: last.span(), reciprocal: self.reciprocal })
    }

    /// Turns sums into what is written, still to be rounded if it is bytes.
    ///
    /// # Safety
    ///
    /// The machine has the instructions of `S`; `added` holds the addend of these channels.
    #[inline(always)]
    pub unsafe fn close<S: Bytes>(
        &self,
        sum: S::I,
        factors: <S::F as Simd>::V,
        added: Option<(*const u8, Grid)>,
    ) -> <S::F as Simd>::V {
        let c = &self.closing;
        let mut x = S::F::mul(S::float(sum), factors);
        if let Some(first) = c.first {
            x = bound::<S>(x, first);
        }
        if added.is_none() && c.last.is_none() && c.activation == Activation::NONE {
            return x;
        }
        if let Some(first) = c.first {
            x = S::F::mul(S::F::round(x), S::F::splat(first.scale));
        }
        if let Some((bytes, grid)) = added {
            x = S::F::add(x, grid.numbers::<S>(bytes));
        }
        let mut v = [x];
        crate::activation::apply::<S::F, 1>(&mut v, c.activation);
        match c.last {
            Some(last) => bound::<S>(S::over(v[0], last.scale, self.reciprocal), last),
            None => v[0],
        }
    }
}

/// How a sum becomes a byte of a residual connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Residual {
    first: Steps,
    grid: Grid,
    /// The last rounding, with the bounds of the clamp before it.
    within: Steps,
    last: Steps,
    /// How what it rounds to lies in bytes.
    pub span: Span,
    reciprocal: f32,
}

impl Residual {
    /// Returns steps of the last rounding, still to be rounded, for sums times their factors and for what is added.
    ///
    /// # Safety
    ///
    /// The machine has the instructions of `S`; `added` holds the addend of these channels.
    #[inline(always)]
    pub unsafe fn close<S: Bytes>(&self, sums: <S::F as Simd>::V, added: *const u8) -> <S::F as Simd>::V {
        let x = S::F::mul(S::F::round(bound::<S>(sums, self.first)), S::F::splat(self.first.scale));
        let x = S::F::add(x, self.grid.numbers::<S>(added));
        bound::<S>(S::over(x, self.last.scale, self.reciprocal), self.within)
    }
}

/// How steps lie in bytes. Found once a call rather than once a tile, as a processor takes some instructions for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// The byte that stands for zero steps.
    pub zero: i32,
    /// The one that stands for the largest.
    pub top: i32,
}

impl Steps {
    /// Returns how they lie in bytes.
    pub(crate) fn span(self) -> Span {
        Span { zero: -self.low as i32, top: (self.high - self.low) as i32 }
    }
}

/// Keeps numbers within the bounds of steps; as those are whole, it makes no difference whether rounding comes after.
///
/// # Safety
///
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn bound<S: Bytes>(x: <S::F as Simd>::V, steps: Steps) -> <S::F as Simd>::V {
    S::F::min(S::F::max(x, S::F::splat(steps.low)), S::F::splat(steps.high))
}
