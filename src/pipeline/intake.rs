//! The intake thread: takes what the sources read, appends it to the spool in groups and counts it. The only place
//! that appends blocks and the only one that counts totals (design rule R5).
//!
//! Group commit: blocks wait until `sync_interval` is over or a block is full, at most [`SYNCS_PER_SECOND`] times a
//! second; the node also runs etcd. While the spool is full nothing is taken from the sources, which then wait with
//! their files (design D3); control messages still come through.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::inbox::{Inbox, Taken};
use super::ledger::{BLOCK_BYTES, Ledger, OriginLedger};
use super::pressure::Pressure;
use super::sink_gap::{encode_sink_gap, sink_key};
use crate::clock::Clock;
use crate::delivery::{Delivery, Overtaking, SinkGap};
use crate::event::Origin;
use crate::event::encoding::{OriginState, SourceGap};
use crate::sources::{Chunk, SourceError};
use crate::spool::{AppendError, Spool};
use crate::telemetry::Telemetry;

/// Syncs are at least this far apart.
const SYNC_GAP: Duration = Duration::from_millis(1000 / SYNCS_PER_SECOND);

/// At most so many syncs a second; each costs etcd's log on the same disk.
pub(super) const SYNCS_PER_SECOND: u64 = 20;

/// Payload that may wait for a sync; beyond it nothing is taken until the next one.
const PENDING_MAX: usize = 6 * BLOCK_BYTES;

/// What the sources may have in the queue before the intake thread takes it.
pub(super) const INBOX_BYTES: usize = 2 * BLOCK_BYTES;

/// A moved position alone is worth a sync this often.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);

/// Sources that were told to stop hand over what they have read within this time; one that hangs in a read of a dead
/// disk is not waited for.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// How often a full spool is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// The queue between the source threads and this one.
pub(super) type IntakeInbox = Inbox<Work, Control>;

/// What sources give.
pub(super) enum Work {
    /// Source number `source` read something.
    Chunk { source: usize, chunk: Box<Chunk> },
    /// A source has nothing more (`--once`, or standard input ended), or cannot go on.
    Ended { result: Result<(), SourceError> },
}

/// What others ask for.
pub(super) enum Control {
    /// A sink does not get a range.
    SinkGap {
        sink: String,
        gap: SinkGap,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The lowest cursor has moved: segments may be free.
    CursorMoved,
    /// Take what is there, make it durable and end.
    Stop,
}

/// What others may know of the intake, as of the last durable block.
#[derive(Default)]
pub(super) struct IntakeState {
    /// In the order of the sources.
    pub(super) origins: Vec<OriginFacts>,
    /// Why nothing can be appended now.
    pub(super) blocked: Option<String>,
    /// Newest gaps of sinks, by name.
    pub(super) sink_gaps: std::collections::BTreeMap<String, Vec<SinkGap>>,
}

/// Durable facts of one origin.
#[derive(Clone)]
pub(super) struct OriginFacts {
    pub(super) origin: Origin,
    pub(super) state: OriginState,
    pub(super) gaps: Vec<SourceGap>,
}

impl OriginFacts {
    /// As the ledger has them.
    pub(super) fn of(origin: &OriginLedger) -> Self {
        OriginFacts {
            origin: origin.origin.clone(),
            state: origin.state.clone(),
            gaps: origin.gaps.clone(),
        }
    }
}

/// How the intake ended.
#[derive(Debug)]
pub(super) enum IntakeEnd {
    /// It was told to; all that it took is durable.
    Done,
    /// The disk failed twice; only a restart into recovery helps.
    Lost(String),
}

/// Every source has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Records below this are durable, and no more will come.
    pub next_record: u64,
    /// Sources that could not go on, one line each.
    pub problems: Vec<String>,
}

/// The thread's own things.
pub(super) struct Intake {
    pub(super) spool: Spool,
    pub(super) ledger: Ledger,
    pub(super) inbox: Arc<IntakeInbox>,
    pub(super) state: Arc<Mutex<IntakeState>>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sync_interval: Duration,
    pub(super) pressure: Arc<Pressure>,
    /// `spool.on_full = "drop_oldest"`.
    pub(super) drop_oldest: bool,
    /// Sources that have not ended.
    pub(super) running: usize,
    /// Told once, when every source has ended and all that they gave is durable.
    pub(super) finished: watch::Sender<Option<Finished>>,
    /// Whether segments are freed; not where only some of the sinks are at work.
    pub(super) frees: bool,
}

impl Intake {
    /// Runs until [`Control::Stop`]. It stays when every source has ended: sinks may still have gaps to record.
    pub(super) fn run(mut self) -> IntakeEnd {
        let end = self.until_the_end();
        self.inbox.close();
        end.unwrap_or_else(|lost| IntakeEnd::Lost(lost.0))
    }

    fn until_the_end(&mut self) -> Result<IntakeEnd, Lost> {
        let mut failed: Vec<SourceError> = Vec::new();
        let mut waiting: Vec<oneshot::Sender<Result<(), String>>> = Vec::new();
        let mut oldest_pending: Option<Duration> = None;
        let mut last_sync = self.clock.monotonic();
        // When told to stop: until when what the sources still hand over is taken.
        let mut stop_by: Option<Duration> = None;
        loop {
            let now = self.clock.monotonic();
            if self.ledger.is_empty() {
                oldest_pending = None;
            } else {
                let since = *oldest_pending.get_or_insert(now);
                let due = self.due_at(since, last_sync);
                if now >= due || stop_by.is_some() {
                    if !self.commit(&mut waiting)? {
                        return Ok(IntakeEnd::Done);
                    }
                    last_sync = self.clock.monotonic();
                    oldest_pending = None;
                    continue;
                }
            }
            if stop_by.is_some_and(|by| self.running == 0 || now >= by) && self.ledger.is_empty() {
                return Ok(IntakeEnd::Done);
            }
            if self.running == 0 && self.ledger.is_empty() && self.finished.borrow().is_none() {
                self.finished.send_replace(Some(Finished {
                    next_record: self.spool.reader().report().next_record,
                    problems: failed.iter().map(SourceError::to_string).collect(),
                }));
            }
            let wait = oldest_pending
                .map(|since| self.due_at(since, last_sync))
                .or(stop_by)
                .map(|until| until.saturating_sub(now));
            let message = if self.ledger.pending_bytes() >= PENDING_MAX {
                self.inbox
                    .take_urgent(wait.unwrap_or(SYNC_GAP))
                    .map(Taken::Control)
            } else {
                self.inbox.take(wait)
            };
            match message {
                Some(Taken::Work(Work::Chunk { source, chunk })) => {
                    self.ledger.absorb(source, *chunk)
                }
                Some(Taken::Work(Work::Ended { result })) => {
                    self.running -= 1;
                    failed.extend(result.err());
                }
                Some(Taken::Control(Control::SinkGap { sink, gap, done })) => {
                    self.sink_gap(&sink, gap);
                    waiting.push(done);
                }
                Some(Taken::Control(Control::CursorMoved)) => self.release(),
                Some(Taken::Control(Control::Stop)) => stop_by = Some(now + STOP_WAIT),
                None => {}
            }
        }
    }

    /// When what waits since `since` must be synced.
    fn due_at(&self, since: Duration, last_sync: Duration) -> Duration {
        let wanted = if self.ledger.pending_bytes() >= BLOCK_BYTES || self.running == 0 {
            since
        } else if self.ledger.has_records() {
            since + self.sync_interval
        } else {
            since + POSITION_INTERVAL
        };
        wanted.max(last_sync + SYNC_GAP)
    }

    /// Makes everything that waits durable; waits for room in the spool as long as it takes. `false`: told to stop
    /// meanwhile; what waited was never acknowledged and is read again at the next start.
    fn commit(
        &mut self,
        waiting: &mut Vec<oneshot::Sender<Result<(), String>>>,
    ) -> Result<bool, Lost> {
        let began = self.clock.monotonic();
        loop {
            match self.spool.append(&self.ledger.blocks()) {
                Ok(_) => break,
                Err(AppendError::Full(reason)) => {
                    if !self.wait_for_room(reason) {
                        self.ledger.committed();
                        return Ok(false);
                    }
                }
                Err(error @ (AppendError::Lost(_) | AppendError::Refused(_))) => {
                    return Err(Lost(error.to_string()));
                }
            }
        }
        self.ledger.committed();
        let took = self.clock.monotonic().saturating_sub(began);
        self.publish(took);
        for done in waiting.drain(..) {
            // The worker that asked may have ended meanwhile; the gap is recorded all the same.
            drop(done.send(Ok(())));
        }
        self.release();
        Ok(true)
    }

    /// The spool is full: frees what is free, overtakes a sink where design D3 says so, and waits a little. `false`:
    /// told to stop.
    fn wait_for_room(&mut self, reason: String) -> bool {
        self.lock_state().blocked = Some(reason);
        self.release();
        if let Some(last) = self.spool.oldest_segment_last_record() {
            match self
                .delivery
                .overtake(last, self.pressure.losing(), self.drop_oldest)
            {
                Overtaking::NotNeeded | Overtaking::Refused => {}
                Overtaking::Asked(sinks) => {
                    tracing::warn!(
                        ?sinks,
                        record = last,
                        "the spool is full: sinks are overtaken, with a gap"
                    );
                }
            }
        }
        match self.inbox.take_urgent(FULL_RETRY) {
            Some(Control::SinkGap { sink, gap, done }) => {
                // A gap is small and frees space: it goes past the limit, before everything that waits for room.
                let result = self.append_gap_now(&sink, gap);
                drop(done.send(result));
            }
            Some(Control::CursorMoved) => self.release(),
            Some(Control::Stop) => return false,
            None => {}
        }
        true
    }

    fn append_gap_now(&mut self, sink: &str, gap: SinkGap) -> Result<(), String> {
        let mut alone = Ledger::new(Vec::new());
        alone.sink_gap(sink_key(sink), encode_sink_gap(&gap));
        self.spool
            .append(&alone.blocks())
            .map_err(|error| error.to_string())?;
        self.note_sink_gap(sink, gap);
        Ok(())
    }

    fn sink_gap(&mut self, sink: &str, gap: SinkGap) {
        self.ledger.sink_gap(sink_key(sink), encode_sink_gap(&gap));
        self.note_sink_gap(sink, gap);
    }

    fn note_sink_gap(&self, sink: &str, gap: SinkGap) {
        let mut state = self.lock_state();
        let gaps = state.sink_gaps.entry(sink.to_owned()).or_default();
        if gaps.len() == super::ledger::GAPS_SHOWN {
            gaps.remove(0);
        }
        gaps.push(gap);
    }

    fn release(&mut self) {
        if self.frees
            && let Some(cursor) = self.delivery.lowest_cursor()
            && let Err(error) = self.spool.release(cursor)
        {
            tracing::error!(%error, "free spool segments");
        }
    }

    fn publish(&self, took: Duration) {
        let facts = self.ledger.origins().iter().map(OriginFacts::of);
        let mut state = self.lock_state();
        state.origins = facts.collect();
        state.blocked = None;
        drop(state);
        self.telemetry.spool_synced(took);
    }

    fn lock_state(&self) -> std::sync::MutexGuard<'_, IntakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk failed twice.
struct Lost(String);
