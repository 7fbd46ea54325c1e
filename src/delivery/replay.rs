//! Sends dead letters again and removes them: what the worker of a sink does when a person asks for it.
//!
//! Invariants: a letter is removed only when its event is stored and the sink's mark with it, or when its gap is
//! recorded; a letter whose earlier replay was not seen to end goes out in doubt. Letters go one at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::{Action, DeadLetters, Request};
use super::numbers::Numbers;
use super::{GapLog, SinkGap, SinkGapReason};
use crate::clock;
use crate::sinks::{Batch, Form, Outcome, Record, Rejection, RejectionKind, Sink, Verdict};

/// What became of one letter.
#[derive(Debug, PartialEq)]
pub enum Replayed {
    /// Stored; the mark goes with the cursor.
    Stored(Option<Vec<u8>>),
    /// Refused again, in both forms: it stays a letter.
    Refused(Rejection),
    /// To be tried again.
    Retry {
        /// What the destination asked for.
        after: Option<Duration>,
        /// Why.
        reason: String,
        /// Whether it may have been stored.
        in_doubt: bool,
    },
    /// The sink is stopped.
    Stop(String),
    /// Store this mark, then try again.
    MarkFirst(Vec<u8>),
}

/// Sends one letter, as it is and, where the destination cannot parse it, in its fallback form. An attempt ends within
/// `limit`.
pub async fn send_letter(
    sink: &dyn Sink,
    record: Record,
    in_doubt: bool,
    limit: Duration,
) -> Replayed {
    match send_once(sink, record.clone(), Form::Normal, in_doubt, limit).await {
        Replayed::Refused(rejection) if rejection.kind == RejectionKind::Unparsable => {
            send_once(sink, record, Form::Fallback, in_doubt, limit).await
        }
        other => other,
    }
}

async fn send_once(
    sink: &dyn Sink,
    record: Record,
    form: Form,
    in_doubt: bool,
    limit: Duration,
) -> Replayed {
    let batch = match alone(sink, record) {
        Ok(batch) => batch,
        Err(error) => {
            return Replayed::Retry {
                after: None,
                reason: format!("encode a dead letter: {error}"),
                in_doubt,
            };
        }
    };
    let batch = Arc::new(Batch {
        form,
        in_doubt,
        ..batch
    });
    let Some(outcome) = clock::timeout(limit, sink.send(batch)).await else {
        let reason = format!("no answer within {} s", limit.as_secs());
        return Replayed::Retry {
            after: None,
            reason,
            in_doubt: true,
        };
    };
    match outcome {
        Outcome::Delivered {
            mark, mut except, ..
        } => match except.pop() {
            None => Replayed::Stored(mark),
            Some((_, Verdict::Retry { reason, in_doubt })) => Replayed::Retry {
                after: None,
                reason,
                in_doubt,
            },
            Some((_, Verdict::Rejected(rejection))) => Replayed::Refused(rejection),
        },
        Outcome::Split { verdict } => Replayed::Refused(verdict),
        Outcome::Retry {
            after,
            reason,
            in_doubt,
        } => Replayed::Retry {
            after,
            reason,
            in_doubt,
        },
        Outcome::Stop { reason } => Replayed::Stop(reason),
        Outcome::MarkFirst { mark } => Replayed::MarkFirst(mark),
    }
}

/// A request of the command line that the agent is working on.
#[derive(Debug)]
pub struct Replay {
    /// The request.
    pub request: Request,
    /// Letters still to be sent.
    pub left: VecDeque<u64>,
    /// Whether the first of them may be stored already.
    pub in_doubt: bool,
}

impl Replay {
    /// Takes up the oldest request to replay letters of `sink`, if there is one. Blocking.
    pub fn take_up(letters: &DeadLetters, sink: &str) -> std::io::Result<Option<Replay>> {
        let requests = letters.requests(sink)?;
        let Some(mut request) = requests.into_iter().find(|r| r.action == Action::Replay) else {
            return Ok(None);
        };
        letters.take(&mut request)?;
        let there = letters.records(sink)?;
        let left = request
            .records
            .iter()
            .copied()
            .filter(|record| there.contains(record))
            .collect();
        Ok(Some(Replay {
            in_doubt: request.begun,
            left,
            request,
        }))
    }
}

/// Removes letters of `sink`, each range as a gap `removed` first. Those that are not there are left out.
pub async fn remove(
    letters: &DeadLetters,
    gaps: &dyn GapLog,
    sink: &str,
    records: &[u64],
) -> Result<u64, String> {
    let there = letters.records(sink).map_err(|error| error.to_string())?;
    let gone: Numbers = records
        .iter()
        .copied()
        .filter(|record| there.contains(record))
        .collect();
    for range in gone.ranges() {
        let gap = SinkGap {
            reason: SinkGapReason::Removed,
            first: range.start,
            last: range.end - 1,
        };
        gaps.record(sink, gap).await?;
    }
    letters
        .remove(sink, &gone.iter().collect::<Vec<_>>())
        .map_err(|error| error.to_string())?;
    Ok(gone.len())
}

/// A batch of one record, with its body where the sink builds it.
fn alone(sink: &dyn Sink, record: Record) -> io::Result<Batch> {
    let Some(mut body) = sink.begin_body() else {
        return Ok(Batch {
            records: vec![record],
            ..Batch::default()
        });
    };
    body.push(&record)?;
    Ok(Batch {
        body: Some(body.finish()?),
        ..Batch::default()
    })
}
