//! The numbers of packed weights: in memory of their own, or in a file that is mapped into memory.
//!
//! A kernel holds a [`Store`] and reads it as a slice, wherever it lies. Nothing that a store holds is ever used as an
//! address or a length: whatever a file says, a kernel computes with it and no more. Knows nothing of what else is in a
//! file.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

#[cfg(not(miri))]
use memmap2::Mmap;

use crate::Buffer;
use crate::buffer::{LINE, Plain};

/// Numbers that start on a cache line and fill whole lines. Never changes.
pub struct Store<T: Plain = f32> {
    /// Held beside the owner, so that reading is as fast as from a slice.
    start: *const T,
    len: usize,
    owner: Owner<T>,
}

/// What keeps the numbers of a store where they are.
#[derive(Clone)]
#[expect(dead_code, reason = "held for what it points to, which is read through `start`")]
enum Owner<T> {
    Memory(Arc<Buffer<T>>),
    File(Arc<Mapping>),
}

// SAFETY: it is a shared slice of plain numbers, and what owns them may be dropped by any thread.
unsafe impl<T: Plain + Send + Sync> Send for Store<T> {}
// SAFETY: as above; nothing writes through it.
unsafe impl<T: Plain + Send + Sync> Sync for Store<T> {}

impl<T: Plain> Store<T> {
    /// Returns its memory.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: numbers without gaps, of which every bit pattern is bytes; the borrow is shared.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len * size_of::<T>()) }
    }
}

impl<T: Plain> From<Buffer<T>> for Store<T> {
    fn from(buffer: Buffer<T>) -> Self {
        // Within the `Arc` it is nobody's to change.
        let owner = Arc::new(buffer);
        Self { start: owner.as_ptr(), len: owner.len(), owner: Owner::Memory(owner) }
    }
}

impl<T: Plain> Deref for Store<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` and `len` are those of a slice of the owner, which lives as long as this and changes nothing.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { start: self.start, len: self.len, owner: self.owner.clone() }
    }
}

impl<T: Plain> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.owner {
            Owner::Memory(_) => "memory",
            Owner::File(_) => "a file",
        };
        write!(f, "{} numbers in {place}", self.len)
    }
}

/// A file that is mapped into memory, to be read.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps a whole file, which may be closed afterwards. It must be one that is only ever replaced by another of its name:
    /// who reads what a shortened file no longer has is ended by the system.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: that the file stays as it is cannot be had from the system; whoever maps it owns its folder and renames
        // new files over old ones. Should another program write into it all the same, numbers change: what is taken from
        // a mapping by reference are numbers of which every bit pattern is a value, and none is an address or a length.
        Ok(Self(unsafe { Mmap::map(file)? }))
    }

    /// Returns the file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Takes numbers out of a mapping, one store after the other.
#[derive(Debug)]
pub struct Stores {
    mapping: Arc<Mapping>,
    /// Where the next one begins; a multiple of a line.
    at: usize,
}

impl Stores {
    /// Begins at the first cache line from `start` on.
    pub fn new(mapping: Arc<Mapping>, start: usize) -> Self {
        Self { mapping, at: start.checked_next_multiple_of(LINE).unwrap_or(usize::MAX) }
    }

    /// Takes `len` numbers, rounded up to a cache line as [`Buffer::zeros`] does; none where the file does not have them.
    pub fn take<T: Plain>(&mut self, len: usize) -> Option<Store<T>> {
        let size = len.checked_mul(size_of::<T>())?.checked_next_multiple_of(LINE)?;
        let end = self.at.checked_add(size)?;
        let bytes = self.mapping.bytes().get(self.at..end)?;
        // A mapping begins on a page, which is larger than a line; on a system where it did not, there is no store.
        let start = bytes.as_ptr().cast::<T>();
        start.is_aligned().then_some(())?;
        self.at = end;
        Some(Store { start, len: size / size_of::<T>(), owner: Owner::File(Arc::clone(&self.mapping)) })
    }

    /// Whether all of the file was taken.
    pub fn is_empty(&self) -> bool {
        self.at == self.mapping.bytes().len()
    }
}

/// Returns the product of counts, or none where memory could not hold as many.
pub(crate) fn count(factors: &[usize]) -> Option<usize> {
    let product = factors.iter().try_fold(1_usize, |product, factor| product.checked_mul(*factor))?;
    (product <= isize::MAX as usize / size_of::<f64>()).then_some(product)
}

/// Stands for a mapping where Miri watches, which maps no files: their bytes, in memory.
#[cfg(miri)]
#[derive(Debug)]
struct Mmap(Buffer<u8>, usize);

#[cfg(miri)]
impl Mmap {
    unsafe fn map(mut file: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut file)?;
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(Self(Buffer::copy_of(&bytes), bytes.len()))
    }
}

#[cfg(miri)]
impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn mapping(bytes: &[u8]) -> Arc<Mapping> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(Mapping::of(&file).unwrap())
    }

    #[test]
    fn numbers_of_a_file_outlive_all_but_the_store() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut stores = Stores::new(mapping(&bytes), 3);
        let (first, second): (Store<u8>, Store<i32>) = (stores.take(65).unwrap(), stores.take(1).unwrap());
        assert!(stores.is_empty());
        drop(stores);
        let copy = first.clone();
        drop(first);
        assert_eq!(*copy, bytes[64..192], "whole lines");
        assert_eq!(second.bytes(), &bytes[192..]);
        assert_eq!(second[0], i32::from_ne_bytes([192, 193, 194, 195]));
        assert!(second.as_ptr().addr().is_multiple_of(64));
    }

    #[test]
    fn what_a_file_does_not_have_is_not_taken() {
        for start in [0, 128, 129, usize::MAX] {
            let mut stores = Stores::new(mapping(&[0; 128]), start);
            for len in [33, usize::MAX / 4, usize::MAX / 2, usize::MAX] {
                assert!(stores.take::<f32>(len).is_none(), "{start} {len}");
            }
            assert_eq!(stores.take::<f32>(17).is_some(), start == 0);
        }
        let mut cut = Stores::new(mapping(&[0; 100]), 0);
        assert!(cut.take::<u8>(64).is_some() && cut.take::<u8>(1).is_none(), "half a line is none");
    }

    #[test]
    fn memory_is_read_as_the_buffer_it_was() {
        let buffer = Buffer::copy_of(&[1.0_f32, 2.0]);
        let expected = buffer.to_vec();
        let store = Store::from(buffer);
        let copy = store.clone();
        drop(store);
        assert_eq!(*copy, expected[..]);
    }
}
