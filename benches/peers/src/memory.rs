//! Counts what is allocated: the bytes that were asked for, live ones only, without what an allocator adds of its own; and
//! how often each thread has asked.
//!
//! Counted only while somebody asks, so that the workloads which measure time pay one load per allocation and no write
//! to a shared line. The difference of resident memory was refused: it comes in pages, and keeps what was freed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
};

/// Relaxed, both: statistics only; whoever reads them has waited for what it counts.
static COUNTED: AtomicBool = AtomicBool::new(false);
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Without a destructor, so that it is there for as long as its thread allocates.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a count.
pub struct Counting;

fn count(bytes: usize, sign: i64) {
    if COUNTED.load(Relaxed) {
        HELD.fetch_add(sign * bytes as i64, Relaxed);
        if sign > 0 {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        }
    }
}

// SAFETY: each call is the system allocator's, unchanged; what is counted beside it neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, held: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        unsafe { System.realloc(held, layout, size) }
    }

    unsafe fn dealloc(&self, held: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        unsafe { System.dealloc(held, layout) }
    }
}

/// Begins to count.
pub fn count_from_here() {
    HELD.store(0, Relaxed);
    COUNTED.store(true, Relaxed);
}

/// The bytes allocated since then and not freed.
pub fn held() -> i64 {
    HELD.load(Relaxed)
}

/// How often this thread has allocated since then, or had something it holds grow.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}
