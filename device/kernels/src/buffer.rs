//! Memory on cache-line borders.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use crate::BLOCK;

/// Numbers that start on a cache line, as vector loads like them. Never grows.
#[derive(Debug, Clone, Default)]
pub struct Buffer<T = f32> {
    lines: Vec<Line>,
    kind: PhantomData<T>,
}

/// A number of which every bit pattern is a value, and that fits a cache line without a gap.
///
/// # Safety
///
/// Only for numbers and addresses of 1, 2, 4 or 8 bytes.
pub unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for *const u8 {}
// SAFETY: as above.
unsafe impl Plain for *const f32 {}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

impl<T: Plain> Buffer<T> {
    /// Returns zeros, at least `len` of them; the length is rounded up to a cache line.
    pub fn zeros(len: usize) -> Self {
        let lines = len.checked_mul(size_of::<T>()).expect("a buffer that memory can hold").div_ceil(LINE);
        Self { lines: vec![Line([0; LINE]); lines], kind: PhantomData }
    }

    /// Returns as many of one number, up to the end of a cache line.
    pub(crate) fn filled(len: usize, with: T) -> Self {
        let mut buffer = Self::zeros(len);
        buffer.fill(with);
        buffer
    }

    /// Returns a copy, zeros behind it up to the end of a cache line.
    pub fn copy_of(values: &[T]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer[..values.len()].copy_from_slice(values);
        buffer
    }

    /// Returns rows as `fill` writes them: memory of weights is not zeroed first, which takes as long as writing them.
    ///
    /// # Safety
    ///
    /// `fill` writes every row.
    pub(crate) unsafe fn written(rows: usize, fill: impl FnOnce(&mut [MaybeUninit<[T; BLOCK]>])) -> Self {
        let lines = rows.checked_mul(size_of::<[T; BLOCK]>()).expect("a buffer that memory can hold").div_ceil(LINE);
        let mut memory: Vec<Line> = Vec::with_capacity(lines);
        // The last line's end, where rows are shorter.
        memory.spare_capacity_mut()[lines.saturating_sub(1)..lines].fill(MaybeUninit::new(Line([0; LINE])));
        fill(std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), rows));
        memory.set_len(lines);
        Self { lines: memory, kind: PhantomData }
    }

    /// Returns the same memory as numbers of another kind.
    pub fn view<U: Plain>(&mut self) -> &mut [U] {
        let len = self.lines.len() * LINE / size_of::<U>();
        // SAFETY: lines of a vector follow each other without gaps and are aligned for every plain number, of which every
        // bit pattern is a value; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// Returns the same memory as numbers of another kind, to be read.
    pub fn read<U: Plain>(&self) -> &[U] {
        let len = self.lines.len() * LINE / size_of::<U>();
        // SAFETY: as in `view`, and the borrow is shared.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), len) }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.read()
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.view()
    }
}
