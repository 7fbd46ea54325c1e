//! How much the sources need room in a full spool (design D3): told by their threads, asked by the intake.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Sources that are about to lose unread data.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    about_to_lose: AtomicUsize,
}

impl Pressure {
    /// A source is about to lose data now, or is not any more.
    pub(super) fn change(&self, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.about_to_lose.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.about_to_lose.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Whether any source is.
    pub(super) fn losing(&self) -> bool {
        self.about_to_lose.load(Ordering::Relaxed) > 0
    }
}
