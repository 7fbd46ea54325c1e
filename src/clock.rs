//! Time. The only wall clock, timer and sleep of the agent; everything else takes a [`Clock`] or awaits [`sleep`].
//!
//! Invariants: [`Clock::monotonic`] never goes back; durations and deadlines are measured with it alone.
//! [`Clock::now`] is a label for people and destinations and decides nothing that a jump could break.
#![expect(clippy::disallowed_methods, reason = "the owner of time")]

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where code gets the time from.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock: microseconds since the Unix epoch, UTC.
    fn now(&self) -> Micros;
    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}

/// A moment in UTC, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

impl Micros {
    /// The moment as `2026-01-02T03:04:05.678901Z`, as audit events write it.
    pub fn rfc3339(self) -> String {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => format!("{t:.6}"),
            Err(_) => "1970-01-01T00:00:00.000000Z".to_owned(),
        }
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> Self {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(d) => Micros(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
            Err(_) => Micros(0),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when it is told to, for tests and golden output.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_us: AtomicI64,
    monotonic_us: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Micros) -> Self {
        ManualClock {
            now_us: AtomicI64::new(now.0),
            monotonic_us: AtomicU64::new(0),
        }
    }

    /// Moves wall clock and monotonic time on together.
    pub fn advance(&self, by: Duration) {
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.monotonic_us.fetch_add(us, Ordering::SeqCst);
        self.now_us
            .fetch_add(i64::try_from(us).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        Micros(self.now_us.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::SeqCst))
    }
}

/// Waits on the runtime's timer.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs `future` for at most `limit`; `None` when the time is up.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Blocks this thread. For plain threads that have nothing better to wait on.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
