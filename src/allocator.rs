//! The only file with `unsafe` code: three settings of glibc's allocator, made before any thread starts.
//!
//! Why: by default glibc makes an arena for each thread and raises its mmap threshold to the largest buffer ever
//! freed, so a process that sends 5 MiB batches from several threads keeps tens of MiB that nobody uses. The ceiling
//! on resident memory (`agent.memory`) is a promise, so one arena serves all threads and buffers from 256 KiB on go
//! back to the system when they are freed.
#![allow(unsafe_code, reason = "mallopt has no safe wrapper")]

/// Call once, first thing in `main`.
pub fn bound_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt takes two integers by value and changes only the allocator's own settings; no other
        // thread runs yet. It reports failure by returning 0, which leaves the defaults: nothing to handle.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
        }
    }
}
