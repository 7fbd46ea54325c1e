//! The loop of one sink: commands, ended attempts, timers and new records in; attempts, dead letters, gaps and the
//! stored cursor out. What to do is decided by the pure parts (`in_flight`, `retry`, `refusal`); here it is only done.
//!
//! Invariants: nothing is sent beyond the durable send limit; a mark that must come first is durable before the next
//! attempt; a letter or a gap is durable before its records are done; whatever cannot be made durable is done again.

mod start;

mod send;

mod ended;

mod letters;

mod keep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinSet};

use super::batcher::{Batcher, Cut};
use super::dead_letter::DeadLetters;
use super::in_flight::InFlight;
use super::memory::{Account, Claim};
use super::numbers::Numbers;
use super::place::Place;
use super::replay::{Replay, Replayed};
use super::report::State;
use super::retry::{Epoch, Retry};
use super::seal::Seals;
use super::{Published, Shared, SinkSpec};
use crate::clock::{self, Micros};
use crate::sinks::{Holds, Opened, Outcome};
use crate::spool::cursor::CursorRecord;

/// Between two looks for requests of the command line, and for changed secrets while stopped.
const REQUESTS_EVERY: Duration = Duration::from_secs(5);
const SECRETS_EVERY: Duration = Duration::from_secs(1);
/// Until something that the disk or the intake refused is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A gap is recorded by the intake thread, which looks at its work several times a second.
const GAP_WITHIN: Duration = Duration::from_secs(30);
/// What building a body takes beside the body.
const BODY_OVERHEAD: u64 = 3 << 20;
const PANICKED: &str = "the sink's code panicked; its batch is sent again";

/// What others ask of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Give up what is not confirmed below this record.
    Overtake(u64),
    /// Store the cursor as soon as everything below this record is confirmed.
    Flush(u64),
    /// Send nothing more; let attempts end until this moment (monotonic), then store and end.
    Stop(Duration),
}

/// What an attempt was about.
enum Attempt {
    Open,
    Batch { seq: u64, bytes: u64 },
    LookUp { seq: u64 },
    Letter(u64),
}

/// What a task of the sink came back with.
enum Ended {
    Open(Option<Result<Opened, Outcome>>),
    Batch {
        outcome: Option<Outcome>,
        took: Duration,
    },
    LookUp(Option<Result<Holds, Outcome>>),
    Letter(Replayed),
}

/// Batches that wait to be fuller, with the memory that they share.
struct Filling {
    batches: Vec<Open>,
    claim: Claim,
    /// All of them are to be sent before anything at or behind this record is read.
    until: u64,
}

/// One of them.
struct Open {
    /// Its number in the books.
    number: u64,
    cut: Cut,
    since: Duration,
}

/// One sink at work.
pub(super) struct Worker {
    pub(super) spec: SinkSpec,
    pub(super) shared: Shared,
    pub(super) letters: Arc<DeadLetters>,
    pub(super) account: Arc<Account>,
    pub(super) batcher: Batcher,
    pub(super) books: InFlight,
    pub(super) retry: Retry,
    pub(super) place: Place,
    pub(super) mark: Option<Vec<u8>>,
    pub(super) published: Arc<Published>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) spool: watch::Receiver<u64>,
    pub(super) freed: watch::Receiver<u64>,
    /// Records that were gone from the spool at start: their gap is recorded before anything is sent.
    pub(super) gone: Option<Numbers>,
    /// Where batches are written down before they are sent, for a kind that does.
    pub(super) seals: Option<Seals>,
    pub(super) work: Work,
}

/// The moving parts of a worker that begin empty.
#[derive(Default)]
pub(super) struct Work {
    attempts: JoinSet<Ended>,
    what: HashMap<Id, (Attempt, Epoch)>,
    opened: bool,
    filling: Option<Filling>,
    /// Batches that were ever filled.
    filled: u64,
    overtake: Option<u64>,
    flush_to: Option<u64>,
    stop_by: Option<Duration>,
    /// What was left of a batch failed again by itself: something new goes first.
    leftover: bool,
    /// Waits for memory that others hold.
    starved: bool,
    /// A mark must be stored before the next attempt.
    mark_first: bool,
    /// What was reported as delivered could not be made durable: begin again from the stored cursor.
    rewind: bool,
    /// When the loop last came round.
    looked_at: Duration,
    /// Disk or intake refused something: not before this.
    again_at: Option<Duration>,
    held_at: Option<Duration>,
    secrets_at: Duration,
    requests_at: Duration,
    replay: Option<Replay>,
    /// Letters that were stored by a replay, to be removed when the cursor says so.
    stored_letter: Option<u64>,
    /// End of the block whose append time is published as the oldest pending one.
    oldest_to: u64,
    oldest_at: Duration,
}

impl Worker {
    /// Runs until it is stopped.
    pub(super) async fn run(mut self) {
        loop {
            self.look_around().await;
            while self.start_one().await {}
            self.store_if_due().await;
            self.publish();
            if let Some(by) = self.work.stop_by
                && (self.work.attempts.is_empty() || self.now() >= by)
            {
                break;
            }
            self.wait().await;
        }
        self.end().await;
    }

    fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    fn spooled(&self) -> u64 {
        *self.spool.borrow()
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) {
        let pause = self.deadline().saturating_sub(self.now());
        let work = &mut self.work;
        tokio::select! {
            command = self.commands.recv() => self.command(command),
            Some(ended) = work.attempts.join_next_with_id(), if !work.attempts.is_empty() => self.ended(ended),
            Ok(()) = self.spool.changed(), if work.stop_by.is_none() => {}
            Ok(()) = self.freed.changed(), if work.starved => {}
            () = clock::sleep(pause) => {}
        }
    }

    /// When there is something to do by itself.
    fn deadline(&self) -> Duration {
        // A moment that had passed when the loop came round was acted on, or what it waits for wakes us by itself.
        let looked_at = self.work.looked_at;
        let mut at = looked_at + REQUESTS_EVERY;
        let mut sooner =
            |moment: Option<Duration>| at = at.min(moment.filter(|m| *m > looked_at).unwrap_or(at));
        sooner(self.work.stop_by);
        sooner(Some(self.work.requests_at));
        sooner(self.work.again_at);
        sooner(self.work.held_at);
        sooner(self.dirty().then(|| self.place.due()));
        sooner(
            self.work
                .filling
                .iter()
                .flat_map(|filling| &filling.batches)
                .map(|open| open.since + self.spec.batch_wait)
                .min(),
        );
        sooner(self.retry.stopped().map(|_| self.work.secrets_at));
        sooner((self.spooled() > self.books.cursor()).then_some(self.work.oldest_at));
        sooner(self.retry.retry_at());
        at
    }

    fn command(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Overtake(to)) => self.work.overtake = self.work.overtake.max(Some(to)),
            Some(Command::Flush(to)) => self.work.flush_to = self.work.flush_to.max(Some(to)),
            Some(Command::Stop(by)) => self.work.stop_by = Some(by),
            // Nobody is left who could want anything: stop at once.
            None => self.work.stop_by = Some(self.work.stop_by.unwrap_or(self.now())),
        }
        if self.work.stop_by.is_some() {
            self.release_filling();
        }
    }

    /// What is to be done before the next attempt.
    async fn look_around(&mut self) {
        let now = self.now();
        self.work.looked_at = now;
        if self.work.again_at.is_some_and(|at| at <= now) {
            self.work.again_at = None;
        }
        if self.work.rewind && self.work.attempts.is_empty() {
            self.rewind();
        }
        if self.work.again_at.is_none() {
            self.record_gone().await;
            self.overtake().await;
        }
        self.bury().await;
        if self.retry.stopped().is_some() && now >= self.work.secrets_at {
            self.work.secrets_at = now + SECRETS_EVERY;
            if self.spec.sink.secrets_changed() {
                self.retry.secrets_changed(now);
            }
        }
        if now >= self.work.requests_at && self.work.stop_by.is_none() {
            self.work.requests_at = now + REQUESTS_EVERY;
            self.take_up_requests().await;
        }
        self.look_at_oldest().await;
    }

    /// Gives up what fills, and its memory: it is in the spool.
    fn release_filling(&mut self) {
        self.work.filling = None;
        self.books.release_filling();
    }

    fn alarm(&self, reason: &'static str, message: String) {
        tracing::error!(sink = self.spec.name, alarm = reason, "{message}");
        self.published.change(|report| {
            *report.alarms.entry(reason).or_default() += 1;
            report.last_error = Some(message);
        });
    }

    /// Keeps the append time of the oldest pending record up to date.
    async fn look_at_oldest(&mut self) {
        let (cursor, now) = (self.books.cursor(), self.now());
        if cursor >= self.spooled() {
            return self.published.change(|report| report.oldest_pending = None);
        }
        if now < self.work.oldest_at {
            return;
        }
        self.work.oldest_at = now + AGAIN_AFTER;
        if cursor < self.work.oldest_to {
            return;
        }
        let batcher = self.batcher.clone();
        if let Ok(Some((end, appended))) =
            tokio::task::spawn_blocking(move || batcher.appended(cursor)).await
        {
            self.work.oldest_to = end;
            self.published
                .change(|report| report.oldest_pending = Some(appended));
        }
    }

    fn publish(&self) {
        let (now, cursor, spooled) = (self.now(), self.books.cursor(), self.spooled());
        let state = match self.retry.retry_at() {
            _ if self.retry.stopped().is_some() => State::Stopped,
            Some(_) => State::Retrying,
            None if self.books.refusals().held() > 0 => State::Retrying,
            None if cursor < spooled || !self.work.attempts.is_empty() => State::Sending,
            None => State::Idle,
        };
        let waits = self
            .retry
            .retry_at()
            .or(self.work.held_at)
            .filter(|_| matches!(state, State::Retrying | State::Stopped));
        let wall = self.shared.clock.now().0;
        let retry_at = waits.map(|at| {
            let us = i64::try_from(at.saturating_sub(now).as_micros()).unwrap_or(i64::MAX);
            Micros(wall.saturating_add(us))
        });
        self.published.state(state, cursor, retry_at);
        let expiry = self.spec.sink.certificate_expiry();
        self.published
            .change(|report| report.certificate_expiry = expiry);
        if state == State::Idle {
            // Nothing to do is as good as success: a failure after a quiet hour is a new one.
            self.published.change(|report| report.last_success = now);
        }
    }

    /// The orderly end: what was not seen to end is in doubt, all else is not.
    async fn end(&mut self) {
        self.work.attempts.abort_all();
        while let Some(ended) = self.work.attempts.join_next_with_id().await {
            match ended {
                Err(error) if error.is_cancelled() => {
                    if let Some((Attempt::Batch { seq, .. } | Attempt::LookUp { seq }, _)) =
                        self.work.what.remove(&error.id())
                    {
                        self.books.finish(seq, cut_off(self.spec.timeout));
                    }
                }
                ended => self.ended(ended),
            }
        }
        if self.work.rewind {
            return;
        }
        self.bury().await;
        let limit = self.books.clean_send_limit();
        if *self.place.durable()
            != (CursorRecord {
                send_limit: limit,
                mark: self.mark.clone(),
                ..self.books.record().clone()
            })
        {
            self.store(limit).await;
        }
        self.publish();
    }
}

/// Bytes that one batch of a sink holds: as it came from the spool, and encoded; or its finished body, and what the
/// encoder and one block of the spool take.
pub(super) fn batch_memory(spec: &SinkSpec) -> u64 {
    match spec.sink.begin_body() {
        Some(_) => spec.batch_bytes.saturating_add(BODY_OVERHEAD),
        None => spec.batch_bytes.saturating_mul(2),
    }
}

fn cut_off(timeout: Duration) -> Outcome {
    let reason = format!("no answer within {} s", (timeout * 2).as_secs());
    Outcome::Retry {
        after: None,
        reason,
        in_doubt: true,
    }
}
