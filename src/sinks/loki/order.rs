//! What Loki would refuse or lose for its time: too old, too far ahead, too far behind the newest line of its stream. A
//! 204 can hide such a loss, so it is found before anything is sent. Pure: times go in, a plan comes out.
//!
//! Loki takes the lines of a stream in any order within an hour (`max_chunk_age / 2`) of the newest one it ever took.
//! Two things follow beside the plain check:
//!
//! - A push that spans more than that could not be sent a second time: its own newest line would be in the way of its
//!   oldest. So such a push is never made ([`Plan::Halve`]).
//! - Nor could several pushes, one after the other, all of which are sent again after a crash because the cursor was
//!   not stored since. So before a push takes the stream further than that beyond the oldest line whose delivery may
//!   not be durable, the mark is stored ([`Plan::MarkFirst`]), and the cursor with it.
//!
//! Invariants: a line that is sent is never further behind than `max_behind`, nor is it when all that was sent since the
//! last stored mark is sent again, in the same order. The mark is at most [`MARK_BYTES_MAX`] long: 255 streams, of
//! which the ones unused for longest are forgotten (Loki's own answer is all there is for those).
//!
//! ```text
//! mark: 1 · (first 8 bytes of SHA-256 of the label string · newest timestamp in ns, i64 little-endian)*
//! ```

use std::time::Duration;

use sha2::{Digest, Sha256};

/// Longest mark that delivery stores.
const MARK_BYTES_MAX: usize = 4096;

const MARK_VERSION: u8 = 1;

const ENTRY_BYTES: usize = 16;

/// Streams that are remembered.
const STREAMS_MAX: usize = (MARK_BYTES_MAX - 1) / ENTRY_BYTES;

/// Nanoseconds since the Unix epoch; what does not fit stands at the end of the range.
pub(super) type Nanos = i64;

/// The three windows, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// `max_age`: older than this, as of now, is refused.
    pub(super) age: Nanos,
    /// `max_ahead`: further in the future than this is refused.
    pub(super) ahead: Nanos,
    /// `max_behind`: further behind the newest line of the stream than this is refused or lost.
    pub(super) behind: Nanos,
}

impl Limits {
    /// From the configured durations.
    pub(super) fn new(age: Duration, ahead: Duration, behind: Duration) -> Self {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Limits {
            age: nanos(age),
            ahead: nanos(ahead),
            behind: nanos(behind),
        }
    }
}

/// What is known of one line's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timeliness {
    /// Loki takes it.
    Good,
    /// Older than `max_age`.
    TooOld,
    /// Further in the future than `max_ahead`.
    TooNew,
    /// Further behind the stream's newest than `max_behind`.
    Behind {
        /// That newest timestamp.
        newest: Nanos,
    },
}

/// What to do with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Push the good ones, in time order; one verdict for each line, in the order asked.
    Push(Vec<Timeliness>),
    /// The good ones are too far apart for one push.
    Halve,
    /// The mark must be durable first.
    MarkFirst,
}

/// A stream by the first 8 bytes of SHA-256 of its label string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamKey([u8; 8]);

impl StreamKey {
    /// Of a label string.
    pub(super) fn of(labels: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(labels.as_bytes()).into();
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        StreamKey(key)
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    key: StreamKey,
    /// Of any line that was, or may have been, taken.
    newest: Nanos,
    /// The oldest line sent since the mark was last known to be stored.
    exposed: Option<Nanos>,
}

/// What was sent to each stream.
#[derive(Debug)]
pub(super) struct Order {
    limits: Limits,
    /// Most recently used last; at most [`STREAMS_MAX`].
    streams: Vec<Stream>,
    /// The batch for which a mark was asked for last: its stream, its first time and its length.
    asked: Option<(StreamKey, Nanos, usize)>,
}

impl Order {
    /// Nothing was sent yet.
    pub(super) fn new(limits: Limits) -> Self {
        Order {
            limits,
            streams: Vec::new(),
            asked: None,
        }
    }

    /// Takes over what a stored mark says, beside what is known already. `false`: it is no mark of this version, and
    /// nothing is taken over.
    pub(super) fn restore(&mut self, mark: &[u8]) -> bool {
        let Some((&MARK_VERSION, entries)) = mark.split_first() else {
            return mark.is_empty();
        };
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return false;
        }
        for entry in entries {
            let (mut key, mut newest) = ([0; 8], [0; 8]);
            key.copy_from_slice(&entry[..8]);
            newest.copy_from_slice(&entry[8..]);
            self.raise(StreamKey(key), i64::from_le_bytes(newest));
        }
        true
    }

    /// What is to be stored with the cursor.
    pub(super) fn mark(&self) -> Vec<u8> {
        let mut mark = vec![MARK_VERSION];
        for stream in &self.streams {
            mark.extend_from_slice(&stream.key.0);
            mark.extend_from_slice(&stream.newest.to_le_bytes());
        }
        mark
    }

    /// What to do with lines of these times at this moment. An empty [`Plan::Push`] is nothing to push.
    pub(super) fn plan(&mut self, key: StreamKey, now: Nanos, times: &[Nanos]) -> Plan {
        let newest = self.find(key).map(|stream| stream.newest);
        let verdicts: Vec<Timeliness> = times
            .iter()
            .map(|time| self.timeliness(*time, now, newest))
            .collect();
        let good = times
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| **verdict == Timeliness::Good)
            .map(|(time, _)| *time);
        let (Some(first), Some(last)) = (good.clone().min(), good.max()) else {
            return Plan::Push(verdicts);
        };
        if last.saturating_sub(first) > self.limits.behind {
            return Plan::Halve;
        }
        let batch = (key, first, times.len());
        if self.asked.take() == Some(batch) {
            // Delivery sends a batch again only once the mark that it asked for is stored, and the cursor with it. Where
            // another batch came in between, the cursor may have been held back by that one: then it is asked for again.
            self.streams.iter_mut().for_each(|s| s.exposed = None);
        }
        let exposed = self.find(key).and_then(|stream| stream.exposed);
        let oldest = exposed.map_or(first, |exposed| exposed.min(first));
        let reach = newest.map_or(last, |newest| newest.max(last));
        if exposed.is_some() && reach.saturating_sub(oldest) > self.limits.behind {
            self.asked = Some(batch);
            return Plan::MarkFirst;
        }
        Plan::Push(verdicts)
    }

    /// A push of lines from `first` to `last` is about to be sent; whatever its answer, it may be taken.
    pub(super) fn sending(&mut self, key: StreamKey, first: Nanos, last: Nanos) {
        let stream = self.raise(key, last);
        stream.exposed = Some(stream.exposed.map_or(first, |exposed| exposed.min(first)));
    }

    fn timeliness(&self, time: Nanos, now: Nanos, newest: Option<Nanos>) -> Timeliness {
        if time > now.saturating_add(self.limits.ahead) {
            return Timeliness::TooNew;
        }
        if time < now.saturating_sub(self.limits.age) {
            return Timeliness::TooOld;
        }
        match newest {
            Some(newest) if time < newest.saturating_sub(self.limits.behind) => {
                Timeliness::Behind { newest }
            }
            _ => Timeliness::Good,
        }
    }

    fn find(&self, key: StreamKey) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.key == key)
    }

    /// The stream, used most recently, with its newest timestamp at least this.
    fn raise(&mut self, key: StreamKey, newest: Nanos) -> &mut Stream {
        let found = self.streams.iter().position(|stream| stream.key == key);
        let mut stream = match found {
            Some(at) => self.streams.remove(at),
            None => Stream {
                key,
                newest,
                exposed: None,
            },
        };
        stream.newest = stream.newest.max(newest);
        if self.streams.len() >= STREAMS_MAX {
            self.streams.remove(0);
        }
        self.streams.push(stream);
        let last = self.streams.len() - 1;
        &mut self.streams[last]
    }
}

#[cfg(test)]
mod tests;
