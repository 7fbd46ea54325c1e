//! What can be known of a sink at any time, as plain data: for metrics, status, `/readyz` and `--once`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Micros;
use crate::spool::cursor::CursorRecord;

/// What a sink is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Attempts are open or about to be.
    Sending,
    /// Everything spooled is confirmed.
    #[default]
    Idle,
    /// The last attempt failed, or what was refused waits for an acceptance.
    Retrying,
    /// Wrong configuration, credentials, or everything is refused: only probes.
    Stopped,
}

impl State {
    /// As status, metrics and logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Sending => "sending",
            State::Idle => "idle",
            State::Retrying => "retrying",
            State::Stopped => "stopped",
        }
    }
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub struct SinkReport {
    /// Its name.
    pub name: String,
    /// Whether `--once` and `/readyz` wait for it.
    pub required: bool,
    /// What it is doing.
    pub state: State,
    /// One line, nothing of an event; `None` after a success.
    pub last_error: Option<String>,
    /// Wall clock of the next attempt, where it waits for one.
    pub retry_at: Option<Micros>,
    /// Cursor and counts as they are stored durably.
    pub durable: CursorRecord,
    /// The lowest record not confirmed, as far as this process knows; at or ahead of the durable one.
    pub confirmed: u64,
    /// Append time of the oldest record not confirmed.
    pub oldest_pending: Option<Micros>,
    /// Monotonic time of the last acceptance, or when there was last nothing to do; of the start before the first.
    pub last_success: Duration,
    /// Alarms since the start, by reason.
    pub alarms: BTreeMap<&'static str, u64>,
    /// Attempts since the start, by outcome: delivered, rejected, retry, split, stopped.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Encoded bytes of all attempts since the start, before compression.
    pub sent_bytes: u64,
    /// When the first of the certificates in use expires, in seconds since the Unix epoch.
    pub certificate_expiry: Option<i64>,
    /// How long attempts took.
    pub request_seconds: RequestSeconds,
}

/// A histogram of attempts by duration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestSeconds {
    /// Attempts of at most [`RequestSeconds::BOUNDS`] each; not cumulative, the last is for all that took longer.
    pub buckets: [u64; RequestSeconds::BOUNDS.len() + 1],
    /// Seconds of all together.
    pub sum: f64,
}

impl RequestSeconds {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

    /// One more attempt.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = Self::BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(Self::BOUNDS.len());
        self.buckets[at] += 1;
        self.sum += seconds;
    }
}
