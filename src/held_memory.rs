//! How much memory a test's data take, counted by the allocator of the test program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// What this thread has allocated and not freed, in bytes.
pub fn held() -> isize {
    HELD.get()
}

/// glibc's chunks have a header of 8 bytes, multiples of 16 and at least 32.
fn chunk(layout: Layout) -> isize {
    ((layout.size() + 8).next_multiple_of(16).max(32)) as isize
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + chunk(layout));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - chunk(layout));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
