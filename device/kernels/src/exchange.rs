//! An output that several threads write, each its own part.

use std::marker::PhantomData;

/// A pointer to a slice that may cross threads.
///
/// Whoever writes through it says why no two threads write the same place.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Returns the address of an element, or one past the last.
    pub(crate) fn at(self, index: usize) -> *mut T {
        assert!(index <= self.len);
        // SAFETY: within the slice, or one past its end.
        unsafe { self.start.add(index) }
    }
}

// SAFETY: it is an address; reading and writing through it is each caller's own `unsafe`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
