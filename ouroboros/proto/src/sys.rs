//! The only `unsafe` of this crate: memory that held a key.

#![allow(unsafe_code)]

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    ops::Deref,
    slice,
};

use zeroize::Zeroize;

/// A value whose memory is overwritten with zeros when it is dropped, padding
/// included, for key objects of crates that do not do so. Moving it leaves a
/// copy behind, so it is made in a box.
pub(crate) struct Erased<T>(ManuallyDrop<T>);

impl<T> Erased<T> {
    /// Returns the output of `make` in a box. What making it left on the stack is overwritten,
    /// too.
    pub(crate) fn boxed(make: impl FnOnce() -> T) -> Box<Self> {
        let erased = on_heap(make);
        erase_stack();
        erased
    }
}

impl<T> Deref for Erased<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Erased<T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped here only, and not used afterwards: all
        // that follows is its bytes, which may be anything.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        let place = (&raw mut self.0).cast::<MaybeUninit<u8>>();
        // SAFETY: the place of the value is as many bytes as its size and is
        // borrowed exclusively; bytes that may be uninitialized have no
        // alignment and no invariant.
        let bytes = unsafe { slice::from_raw_parts_mut(place, size_of::<T>()) };
        bytes.zeroize();
    }
}

#[inline(never)]
fn on_heap<T>(make: impl FnOnce() -> T) -> Box<Erased<T>> {
    Box::new(Erased(ManuallyDrop::new(make())))
}

/// Overwrites the stack below its caller: more than a cipher's key schedule
/// takes.
#[inline(never)]
pub(crate) fn erase_stack() {
    // In words: byte by byte it took a seventh of a flow's opening.
    let mut below = [0u64; 2 * 1024];
    below.zeroize();
    std::hint::black_box(&mut below);
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[test]
    fn a_value_is_dropped_once_and_its_memory_is_zero() {
        #[allow(dead_code)]
        struct Counted(Rc<Cell<u8>>, [u8; 32]);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let count = Rc::new(Cell::new(0));
        let mut place =
            MaybeUninit::new(Erased(ManuallyDrop::new(Counted(count.clone(), [7; 32]))));
        // SAFETY: it was initialized above and is not used again as a value.
        unsafe { place.assume_init_drop() };
        assert_eq!(count.get(), 1);
        let size = size_of::<Counted>();
        // SAFETY: the place lives, and every byte of it was written with zero.
        let bytes = unsafe { slice::from_raw_parts(place.as_ptr().cast::<u8>(), size) };
        assert_eq!(bytes, vec![0; size]);
    }
}
