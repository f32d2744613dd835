//! What a case may take: memory and time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No case needs so much at once: who asks for it gets none, as where memory has run out.
const REFUSED: usize = 32 << 20;
/// Long on a machine that is busy, short for a hang.
const SLOW: Duration = Duration::from_secs(20);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One case at a time, whatever runs the targets: memory is counted for all threads.
static ALONE: Mutex<()> = Mutex::new(());

/// The system's memory, counted.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn took(size: usize) {
    PEAK.fetch_max(LIVE.fetch_add(size, Relaxed) + size, Relaxed);
}

// SAFETY: everything is handed on to the system's allocator, or refused with null.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > REFUSED {
            return std::ptr::null_mut();
        }
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > REFUSED {
            return std::ptr::null_mut();
        }
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs a case; panics if it takes more than so many bytes, or far too long.
pub fn within<T>(most: usize, case: impl FnOnce() -> T) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (before, start) = (LIVE.load(Relaxed), Instant::now());
    PEAK.store(before, Relaxed);
    case();
    let (took, time) = (PEAK.load(Relaxed).saturating_sub(before), start.elapsed());
    assert!(took <= most, "{took} bytes were taken, above {most}");
    assert!(time <= SLOW, "it took {time:?}");
}
