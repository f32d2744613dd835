//! Host memory that outputs own, and the pool it returns to.
//!
//! The system hands out large memory as pages that it clears at the first touch, which costs about
//! five times the write itself; memory that comes back keeps its pages.

use crate::RunError;
use crate::desc::sealed::Element;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Fewer bytes are not worth asking for: the question is two calls to the system, some microseconds, and these are
/// written in a millisecond.
const WORTH_ASKING: u64 = 8 << 20;

/// Whether there is memory for what was asked for, where that may be any number of bytes: an error then, not the end of
/// the process. Where the system promises memory that it does not have, nobody can tell.
pub fn check(bytes: u64) -> Result<(), RunError> {
    if bytes < WORTH_ASKING {
        return Ok(());
    }
    let fits = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    if fits { Ok(()) } else { Err(RunError::OutOfMemory { bytes }) }
}

/// So many zeros, if there is memory for them.
pub fn zeros<T: Element>(len: usize) -> Result<Vec<T>, RunError> {
    let bytes = len as u64 * size_of::<T>() as u64;
    bytemuck::try_zeroed_vec(len).map_err(|()| RunError::OutOfMemory { bytes })
}

/// Free blocks of a type that a pool keeps. A network has about two sizes of activations in flight per
/// stage.
const POOL_MAX: usize = 16;
/// Bytes of free blocks of a type, the latest one excepted: an application that changes its sizes
/// must not pay for all of its past.
const POOL_BYTES: usize = 512 << 20;
/// Smaller blocks come from the allocator's own pools (128 KiB is where glibc's end).
const BLOCK_MIN: usize = 128 << 10;

/// Free blocks, the latest last, handed out again by exact length.
pub struct Free<T>(Mutex<Vec<Vec<T>>>);

impl<T> Default for Free<T> {
    fn default() -> Self {
        Free(Mutex::default())
    }
}

impl<T> Free<T> {
    fn take(&self, len: usize) -> Option<Vec<T>> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.iter().rposition(|block| block.len() == len)?;
        Some(free.remove(at))
    }

    fn put(&self, block: Vec<T>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(block);
        let size = |block: &Vec<T>| size_of_val(block.as_slice());
        let mut bytes: usize = free.iter().map(size).sum();
        while free.len() > POOL_MAX || (bytes > POOL_BYTES && free.len() > 1) {
            bytes -= size(&free.remove(0));
        }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The free memory of a context.
#[derive(Default)]
pub struct HostPool {
    pub(crate) f32: Free<f32>,
    pub(crate) f16: Free<half::f16>,
    pub(crate) bf16: Free<half::bf16>,
    pub(crate) f64: Free<f64>,
}

impl HostPool {
    /// Memory for a result: its values are any.
    pub fn take<T: Element>(self: &Arc<Self>, len: usize) -> Result<Block<T>, RunError> {
        if len * size_of::<T>() < BLOCK_MIN {
            return Ok(bytemuck::zeroed_vec(len).into());
        }
        let data = match T::free(self).take(len) {
            Some(data) => data,
            None => zeros(len)?,
        };
        Ok(Block { data, pool: Arc::downgrade(self) })
    }

    /// Lets go of all of it.
    pub fn clear(&self) {
        self.f32.clear();
        self.f16.clear();
        self.bf16.clear();
        self.f64.clear();
    }
}

/// Elements that return to a pool when they are dropped.
pub struct Block<T: Element> {
    data: Vec<T>,
    pool: Weak<HostPool>,
}

impl<T: Element> From<Vec<T>> for Block<T> {
    /// Of no pool.
    fn from(data: Vec<T>) -> Self {
        Block { data, pool: Weak::new() }
    }
}

impl<T: Element> Block<T> {
    /// The elements alone.
    pub fn into_vec(mut self) -> Vec<T> {
        self.pool = Weak::new();
        std::mem::take(&mut self.data)
    }
}

impl<T: Element> Drop for Block<T> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            T::free(&pool).put(std::mem::take(&mut self.data));
        }
    }
}

impl<T: Element> Deref for Block<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data
    }
}

impl<T: Element> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}
