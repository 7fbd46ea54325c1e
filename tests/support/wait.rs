//! Waiting for a condition with a deadline, and the only clock of the tests. A test never sleeps for time to pass: it
//! waits until something is so, and says what it waited for when that does not come.

#![expect(clippy::disallowed_methods, reason = "the tests' owner of time")]

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `condition` gives a value; panics with `what` when `limit` is over.
#[track_caller]
pub(crate) fn until<T>(
    limit: Duration,
    what: impl Display,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} in vain for: {what}"
        );
        std::thread::sleep(LOOK);
    }
}

/// Waits until `condition` is `Ok`; panics with its last error when `limit` is over.
#[track_caller]
pub(crate) fn until_ok<T>(limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < limit, "waited {limit:?} in vain: {error}"),
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until_true(limit: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    until(limit, what, || condition().then_some(()));
}

/// Something that is measured in time: a load, a slow answer, a moment at which to kill.
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// A running stopwatch.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at zero.
    pub(crate) fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// What it shows.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Milliseconds since the Unix epoch, for names of backups and event times.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock stands after 1970");
    i64::try_from(since.as_millis()).expect("the clock stands before the year 292 million")
}
