//! How the C library's allocator is to treat this process: what is freed after a large load is to go back to the system.

/// To be called before there are threads.
#[cfg(target_env = "gnu")]
pub fn give_back_what_is_freed() {
    /// Of what is larger each piece is mapped by itself, and unmapped when it is freed. Left alone, the allocator keeps ever
    /// larger ones back after the first was freed.
    const LARGE: libc::c_int = 128 << 10;
    /// The loop's own heap, and one for all other threads: they hardly allocate at the same time.
    const HEAPS: libc::c_int = 2;
    // SAFETY: it sets two numbers of the allocator, which has its own lock. Refused, they stay as they are.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn give_back_what_is_freed() {}
