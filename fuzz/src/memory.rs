//! How much memory an input may take: what asks for more is refused, and the process ends.
#![allow(unsafe_code, reason = "an allocator is unsafe to be one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, with a limit.
struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// From now on, at most so many bytes more than there are now; `None` lifts the limit.
pub fn limit(bytes: Option<usize>) {
    let live = LIVE.load(Ordering::Relaxed);
    MOST.store(bytes.map_or(usize::MAX, |bytes| live + bytes), Ordering::Relaxed);
}

// SAFETY: whatever it gives is the system's.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if LIVE
            .fetch_add(layout.size(), Ordering::Relaxed)
            .saturating_add(layout.size())
            > MOST.load(Ordering::Relaxed)
        {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if LIVE
            .fetch_add(layout.size(), Ordering::Relaxed)
            .saturating_add(layout.size())
            > MOST.load(Ordering::Relaxed)
        {
            LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}
