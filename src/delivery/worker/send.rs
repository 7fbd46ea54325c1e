//! Sending a batch: its body is ended, it is sealed where its kind is, and the attempt begins.

use std::sync::Arc;

use super::{AGAIN_AFTER, Attempt, BODY_OVERHEAD, Ended, Worker};
use crate::clock;
use crate::delivery::batcher::{Cut, Trouble};
use crate::delivery::in_flight::Task;
use crate::delivery::memory::Claim;
use crate::sinks::{Batch, Seal};

/// A batch on its way to its attempt.
enum Sealed {
    /// It can be sent.
    Ready(Batch),
    /// It was sealed as another one, which can no longer be made: its destination is asked.
    Changed(Seal),
    /// The seal could not be written down.
    Not(String),
}

impl Worker {
    /// Begins the attempt; whether it is worth starting another one.
    pub(super) async fn send(&mut self, seq: u64, cut: Cut, mut claim: Claim) -> bool {
        let Some(task) = self.books.task(seq).cloned() else {
            return true;
        };
        let (bytes, trouble) = (cut.bytes, cut.trouble);
        let mut batch = Batch {
            records: cut.records,
            form: task.form,
            in_doubt: task.in_doubt,
            holes: self.holes(&task),
            ..Batch::default()
        };
        claim.shrink(match cut.body {
            Some(_) => bytes.saturating_add(BODY_OVERHEAD),
            None => bytes.saturating_mul(2),
        });
        if let Some(body) = cut.body {
            let ended = tokio::task::spawn_blocking(move || body.finish()).await;
            match ended.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
                Ok(body) => batch.body = Some(body),
                Err(error) => {
                    self.books.give_back(seq);
                    let problem = format!("end the body of a batch: {error}");
                    return self.trouble(Some(Trouble::Io(problem))).await;
                }
            }
        }
        match self.seal(seq, batch, &task).await {
            Sealed::Ready(batch) => self.start_send(seq, batch, bytes, claim),
            Sealed::Changed(seal) => return self.start_look_up(seq, seal),
            Sealed::Not(problem) => {
                self.books.give_back(seq);
                self.alarm("seal", problem);
                self.work.again_at = Some(self.now() + AGAIN_AFTER);
                return false;
            }
        }
        match trouble {
            Some(trouble) => self.trouble(Some(trouble)).await,
            None => true,
        }
    }

    fn holes(&mut self, task: &Task) -> Vec<(u64, u64)> {
        let from = self.place.durable().cursor;
        let holes = self.books.holes(from, &task.records);
        holes.ranges().map(|r| (r.start, r.end - 1)).collect()
    }

    /// Writes the batch down where its kind is sealed and it is not sealed yet.
    async fn seal(&mut self, seq: u64, batch: Batch, task: &Task) -> Sealed {
        if self.seals.is_none() {
            return Sealed::Ready(batch);
        }
        let sink = Arc::clone(&self.spec.sink);
        let hashed = tokio::task::spawn_blocking(move || {
            let seal = sink.seal(&batch);
            (batch, seal)
        });
        let (mut batch, seal) = match hashed.await {
            Ok(hashed) => hashed,
            Err(panic) => return Sealed::Not(format!("seal a batch: {panic}")),
        };
        match &task.seal {
            Some(before) if Some(before) != seal.as_ref() => {
                return Sealed::Changed(before.clone());
            }
            Some(_) => {}
            None => {
                if let Some(seal) = &seal
                    && let Err(problem) = self.write_seal(seq, seal, task).await
                {
                    return Sealed::Not(problem);
                }
            }
        }
        batch.seal = seal;
        Sealed::Ready(batch)
    }

    /// Whether a batch that begins with this record may be sealed now. The last free slots are for the one that holds the
    /// cursor back: without a slot it could never be sent, and no slot would become free.
    pub(super) async fn has_slot(&mut self, first: u64) -> bool {
        // The cursor frees slots; it is stored once a second otherwise.
        if self.few_slots() && self.dirty() {
            self.store_now().await;
        }
        !self.few_slots() || first == self.books.cursor()
    }

    pub(super) fn few_slots(&self) -> bool {
        let cursor = self.place.durable().cursor;
        self.seals.as_ref().is_some_and(|seals| seals.few(cursor))
    }

    async fn write_seal(&mut self, seq: u64, seal: &Seal, task: &Task) -> Result<(), String> {
        let cursor = self.place.durable().cursor;
        if let Some(seals) = &mut self.seals {
            seals.write(&task.records, seal, cursor).await?;
        }
        self.books.sealed(seq, seal.clone());
        Ok(())
    }

    fn start_send(&mut self, seq: u64, batch: Batch, bytes: u64, claim: Claim) {
        let (sink, clock, limit) = (
            Arc::clone(&self.spec.sink),
            Arc::clone(&self.shared.clock),
            self.spec.timeout * 2,
        );
        let epoch = self.retry.started();
        let task = async move {
            let started = clock.monotonic();
            let outcome = clock::timeout(limit, sink.send(Arc::new(batch))).await;
            drop(claim);
            Ended::Batch {
                outcome,
                took: clock.monotonic().saturating_sub(started),
            }
        };
        let id = self.work.attempts.spawn(task).id();
        self.work
            .what
            .insert(id, (Attempt::Batch { seq, bytes }, epoch));
    }

    /// Asks the destination for a sealed batch that cannot be made again; nothing else is started meanwhile.
    pub(super) fn start_look_up(&mut self, seq: u64, seal: Seal) -> bool {
        let (sink, limit) = (Arc::clone(&self.spec.sink), self.spec.timeout * 2);
        let epoch = self.retry.started();
        let task = async move { Ended::LookUp(clock::timeout(limit, sink.look_up(&seal)).await) };
        let id = self.work.attempts.spawn(task).id();
        self.work.what.insert(id, (Attempt::LookUp { seq }, epoch));
        false
    }
}
