//! One attempt at one batch: looks for what may be stored already, sends the rest, reads back what is refused as
//! taken, and gives a second id to an event whose own is held by another document.
//!
//! Invariants: an event counts as delivered only when the server said that it stored it, or when it was read back and
//! is the same; what happened to some of the batch is kept when a later request of the attempt fails; the attempt ends
//! after at most [`IDS_MAX`] ids for one event.

use std::sync::Arc;

use bytes::Bytes;

use super::Elasticsearch;
use super::body::{Create, Line};
use super::conflict::{self, Asked, Stored};
use super::connection::{Attempt, Call, Refused as _};
use super::verdict::{self, Item};
use crate::net::http_client::Method;
use crate::sinks::{Alarm, Batch, Outcome, Rejection, RejectionKind, Verdict};

/// Ids tried for one event: `<id>`, `<id>-c`, `<id>-c2`, … Whoever holds all of them has seen to it on purpose.
const IDS_MAX: u32 = 16;

const DOING: &str = "bulk request";

/// What became of one record so far.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// To be stored under the id with this number.
    Pending { conflicts: u32 },
    /// Stored.
    Done,
    /// Judged for this attempt.
    Judged(Verdict),
    /// Could not be stored for reasons that are not its own.
    Stopped { reason: String },
    /// Never sent: longer than any line that is held whole.
    Oversize,
}

/// The attempt.
pub(super) struct Bulk<'a> {
    sink: &'a Elasticsearch,
    attempt: Attempt<'a>,
    batch: Arc<Batch>,
    states: Vec<State>,
    /// The index of each record; empty where the request's path names it.
    indices: Arc<Vec<String>>,
    tally: Tally,
}

/// What is told once per attempt.
#[derive(Default)]
struct Tally {
    conflicts: u64,
    first_conflict: Option<String>,
    failure_store: u64,
    unchecked: u64,
    look_up_refused: Option<String>,
}

impl<'a> Bulk<'a> {
    pub(super) fn new(sink: &'a Elasticsearch, batch: Arc<Batch>) -> Self {
        let state = |record| match Line::of(record, batch.form) {
            Some(_) => State::Pending { conflicts: 0 },
            None => State::Oversize,
        };
        let states = batch.records.iter().map(state).collect();
        let attempt = sink.connection.attempt();
        Bulk {
            sink,
            attempt,
            states,
            indices: Arc::default(),
            tally: Tally::default(),
            batch,
        }
    }

    /// Carries it out.
    pub(super) async fn run(mut self) -> Outcome {
        match self.rounds().await {
            Ok(()) => self.report(None),
            Err(interruption) => self.report(Some(interruption)),
        }
    }

    async fn rounds(&mut self) -> Result<(), Outcome> {
        self.indices = Arc::new(self.sink.index_names(&self.batch).await?);
        let mut backing = self.backing_indices().await?;
        while self.pending().next().is_some() {
            if !backing.is_empty() {
                let looked = self.look_up(&backing).await;
                if self.without_looking(looked)?.is_none() {
                    backing.clear();
                }
            }
            self.send_pending().await?;
        }
        Ok(())
    }

    /// Where the configuration says that nothing can be read back, not being allowed to look is no reason to stop:
    /// it cannot be known then, and is told as an alarm.
    fn without_looking<T>(&mut self, looked: Result<T, Outcome>) -> Result<Option<T>, Outcome> {
        match looked {
            Err(Outcome::Stop { reason }) if !self.sink.settings.verify_conflicts => {
                self.tally.look_up_refused = Some(reason);
                Ok(None)
            }
            looked => looked.map(Some),
        }
    }

    /// Where in-doubt events may stand that a 409 would not find.
    async fn backing_indices(&mut self) -> Result<Vec<String>, Outcome> {
        let Some(data_stream) = self
            .sink
            .settings
            .target
            .data_stream()
            .filter(|_| self.batch.in_doubt)
        else {
            return Ok(Vec::new());
        };
        let found = conflict::newest_backing_indices(&self.attempt, data_stream).await;
        Ok(self.without_looking(found)?.unwrap_or_default())
    }

    fn pending(&self) -> impl Iterator<Item = (usize, u32)> {
        self.states
            .iter()
            .enumerate()
            .filter_map(|(at, state)| match state {
                State::Pending { conflicts } => Some((at, *conflicts)),
                _ => None,
            })
    }

    fn line(&self, at: usize) -> Option<Line<'_>> {
        Line::of(&self.batch.records[at], self.batch.form)
    }

    fn id(&self, at: usize, conflicts: u32) -> String {
        document_id(&self.batch.records[at].head.id.to_hex(), conflicts)
    }

    /// Takes out of the work what is stored in one of these indices, until nothing changes any more.
    async fn look_up(&mut self, indices: &[String]) -> Result<(), Outcome> {
        let mut looked_for: Vec<(usize, u32)> = self.pending().collect();
        while !looked_for.is_empty() {
            let mut asked = Vec::with_capacity(looked_for.len() * indices.len());
            for &(at, conflicts) in &looked_for {
                let Some(line) = self.line(at) else { continue };
                asked.extend(indices.iter().map(|index| Asked {
                    line,
                    index,
                    id: self.id(at, conflicts),
                }));
            }
            let stored = conflict::read_back(&self.attempt, self.sink.comparison(), &asked).await?;
            drop(asked);
            let found: Vec<_> = stored
                .chunks(indices.len())
                .map(|some| some.iter().max().copied())
                .collect();
            let mut again = Vec::new();
            for ((at, conflicts), found) in looked_for.into_iter().zip(found) {
                match found {
                    Some(Stored::Same) => self.states[at] = State::Done,
                    Some(Stored::Different) => {
                        self.conflict(at, conflicts);
                        again.extend(self.pending().find(|(pending, _)| *pending == at));
                    }
                    Some(Stored::Missing) | None => {}
                }
            }
            looked_for = again;
        }
        Ok(())
    }

    /// Sends what is pending and judges the answer.
    async fn send_pending(&mut self) -> Result<(), Outcome> {
        let sent: Vec<(usize, u32)> = self.pending().collect();
        if sent.is_empty() {
            return Ok(());
        }
        let ids = sent
            .iter()
            .map(|&(at, conflicts)| (at, self.id(at, conflicts)))
            .collect();
        let body = self.encode(ids).await?;
        let answer = self
            .attempt
            .call(Call {
                doing: DOING,
                method: Method::POST,
                path: &self.sink.bulk_path,
                body: Some(body.clone()),
                content_type: "application/x-ndjson",
                content_encoding: self.sink.encoder.gzip().then_some("gzip"),
                stores: true,
            })
            .await?;
        self.sink.give_back(body);
        if answer.status != 200 {
            return Err(self.attempt.bulk_refused(&answer, DOING));
        }
        let items = verdict::items(&answer.body, sent.len()).map_err(|problem| {
            tracing::error!(
                sink = self.sink.name,
                endpoint = self.attempt.endpoint(),
                "{problem}"
            );
            verdict::in_doubt(format!("{DOING} at {}: {problem}", self.attempt.endpoint()))
        })?;
        drop(answer);
        let mut taken = Vec::new();
        for (&(at, conflicts), item) in sent.iter().zip(items) {
            match item {
                Item::Conflict { index } if self.sink.settings.verify_conflicts => {
                    taken.push((at, conflicts, index))
                }
                item => self.states[at] = self.judge(at, item),
            }
        }
        self.settle_taken(taken).await
    }

    fn judge(&mut self, at: usize, item: Item) -> State {
        match item {
            Item::Stored => State::Done,
            Item::FailureStore => {
                self.tally.failure_store += 1;
                State::Done
            }
            Item::Conflict { .. } => {
                self.tally.unchecked += 1;
                State::Done
            }
            Item::Rejected(rejection) => {
                State::Judged(Verdict::Rejected(self.last_resort(at, rejection)))
            }
            Item::Retry { reason, in_doubt } => State::Judged(Verdict::Retry { reason, in_doubt }),
            Item::Stop { reason } => State::Stopped { reason },
        }
    }

    /// What was sent with `event.original` already has no other form to be sent in.
    fn last_resort(&self, at: usize, mut rejection: Rejection) -> Rejection {
        let original = self
            .line(at)
            .is_some_and(|line| line.shape == super::body::Shape::Original);
        if rejection.kind == RejectionKind::Unparsable && original {
            rejection.kind = RejectionKind::Refused;
        }
        rejection
    }

    /// Reads back what stands under taken ids.
    async fn settle_taken(&mut self, taken: Vec<(usize, u32, String)>) -> Result<(), Outcome> {
        if taken.is_empty() {
            return Ok(());
        }
        let mut asked = Vec::with_capacity(taken.len());
        for (at, conflicts, index) in &taken {
            let Some(line) = self.line(*at) else { continue };
            asked.push(Asked {
                line,
                index,
                id: self.id(*at, *conflicts),
            });
        }
        let stored = conflict::read_back(&self.attempt, self.sink.comparison(), &asked).await?;
        drop(asked);
        for ((at, conflicts, _), stored) in taken.into_iter().zip(stored) {
            match stored {
                Stored::Same => self.states[at] = State::Done,
                Stored::Different => self.conflict(at, conflicts),
                // Deleted between the two requests; the next attempt will tell.
                Stored::Missing => {
                    let reason = "an id that was taken is free again".to_owned();
                    self.states[at] = State::Judged(Verdict::Retry {
                        reason,
                        in_doubt: false,
                    });
                }
            }
        }
        Ok(())
    }

    /// The id with this number is held by another document.
    fn conflict(&mut self, at: usize, conflicts: u32) {
        self.tally.conflicts += 1;
        let id = self.id(at, conflicts);
        self.tally.first_conflict.get_or_insert(id);
        self.states[at] = if conflicts + 1 < IDS_MAX {
            State::Pending {
                conflicts: conflicts + 1,
            }
        } else {
            State::Judged(Verdict::Rejected(Rejection {
                kind: RejectionKind::Refused,
                class: "conflict".to_owned(),
                reason: format!("{IDS_MAX} ids for this event are held by other documents"),
            }))
        };
    }

    /// Encodes on a thread that may block: a batch takes tens of milliseconds to compress.
    async fn encode(&self, ids: Vec<(usize, String)>) -> Result<Bytes, Outcome> {
        let (encoder, batch, indices) = (
            self.sink.encoder.clone(),
            self.batch.clone(),
            self.indices.clone(),
        );
        let buffer = self.sink.take_buffer();
        let work = move || {
            let creates = ids.iter().filter_map(|(at, id)| {
                let line = Line::of(&batch.records[*at], batch.form)?;
                Some(Create {
                    line,
                    id,
                    index: indices.get(*at).map(String::as_str),
                })
            });
            encoder.bulk(creates, buffer)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(body)) => Ok(Bytes::from(body)),
            Ok(Err(error)) => Err(verdict::again(format!("encode the batch: {error}"))),
            Err(error) => Err(verdict::again(format!("encode the batch: {error}"))),
        }
    }

    /// The outcome; `interruption` is the one of a request that ended the attempt early.
    fn report(self, interruption: Option<Outcome>) -> Outcome {
        if self.states.contains(&State::Done) {
            return self.partial(interruption);
        }
        if let Some(outcome) = interruption {
            return outcome;
        }
        // Nothing was stored: one cause for all is the cause of the batch.
        let mut retry: Option<(String, bool)> = None;
        let mut judged = false;
        for state in &self.states {
            match state {
                State::Stopped { reason } => {
                    return Outcome::Stop {
                        reason: reason.clone(),
                    };
                }
                State::Judged(Verdict::Retry { reason, in_doubt }) => {
                    retry.get_or_insert((reason.clone(), false)).1 |= in_doubt;
                }
                State::Judged(Verdict::Rejected(_)) => judged = true,
                State::Pending { .. } | State::Done | State::Oversize => {}
            }
        }
        match retry {
            Some((reason, in_doubt)) if !judged => Outcome::Retry {
                after: None,
                reason,
                in_doubt,
            },
            _ => self.partial(None),
        }
    }

    /// Some are stored, or each was judged by itself.
    fn partial(self, interruption: Option<Outcome>) -> Outcome {
        let (unfinished, doubt) = match &interruption {
            Some(Outcome::Retry {
                reason, in_doubt, ..
            }) => (reason.clone(), *in_doubt),
            Some(Outcome::Stop { reason }) => (reason.clone(), false),
            Some(Outcome::Split { verdict }) => (verdict.reason.clone(), false),
            _ => ("not sent in this attempt".to_owned(), false),
        };
        let mut except = Vec::new();
        for (record, state) in self.batch.records.iter().zip(&self.states) {
            let verdict = match state {
                State::Done => continue,
                State::Judged(verdict) => verdict.clone(),
                State::Pending { .. } => Verdict::Retry {
                    reason: unfinished.clone(),
                    in_doubt: doubt,
                },
                // Alone in its next attempt, it stops the sink.
                State::Stopped { reason } => Verdict::Retry {
                    reason: reason.clone(),
                    in_doubt: false,
                },
                State::Oversize => Verdict::Rejected(Rejection {
                    kind: RejectionKind::TooLarge,
                    class: "line_too_long".to_owned(),
                    reason: format!(
                        "the line has {} bytes, more than `line_max` of its source; it is kept whole here",
                        record.head.length
                    ),
                }),
            };
            except.push((record.number, verdict));
        }
        Outcome::Delivered {
            mark: None,
            except,
            alarms: self.alarms(),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let tally = &self.tally;
        if tally.unchecked > 0 {
            tracing::info!(
                sink = self.sink.name,
                events = tally.unchecked,
                "ids were taken already and counted as delivered, since `verify_conflicts` is false"
            );
        }
        let mut alarms = Vec::new();
        if let Some(id) = &tally.first_conflict {
            let message = format!(
                "{} ids of events are held by documents that are not those events, the first {id}; the events go under \
                 another id: find out who wrote there",
                tally.conflicts
            );
            alarms.push(Alarm {
                reason: "conflict",
                message,
            });
        }
        if tally.failure_store > 0 {
            let message = format!(
                "{} events went to the failure store of {}: searches of the data stream do not find them",
                tally.failure_store,
                self.sink.settings.target.describe()
            );
            alarms.push(Alarm {
                reason: "failure_store",
                message,
            });
        }
        if let Some(reason) = &tally.look_up_refused {
            let message = format!(
                "events of an attempt whose end was not seen may be stored twice: {reason}"
            );
            alarms.push(Alarm {
                reason: "in_doubt_unchecked",
                message,
            });
        }
        alarms
    }
}

/// The id of an event's document after so many conflicts.
fn document_id(id: &str, conflicts: u32) -> String {
    match conflicts {
        0 => id.to_owned(),
        1 => format!("{id}-c"),
        n => format!("{id}-c{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_are_counted_from_the_second_conflict() {
        let ids: Vec<_> = (0..4).map(|n| document_id("ab", n)).collect();
        assert_eq!(ids, ["ab", "ab-c", "ab-c2", "ab-c3"]);
    }
}
