//! Which attempt comes next, and starting it: opening, a letter, what waits, what is new, what is held.

use std::sync::Arc;

use super::{Attempt, Ended, Filling, Worker, batch_memory};
use crate::clock;
use crate::delivery::batcher::{Cut, Trouble};
use crate::delivery::memory::Claim;
use crate::delivery::numbers::Numbers;
use crate::delivery::retry::Permit;
use crate::sinks::Batch;

/// Beyond this many tasks that wait, nothing new is taken: the bound of what a pinned cursor can cost.
const LEFTOVERS_MAX: usize = 64;

/// Most events of a batch that an earlier process may have sent. A sink looks each of them up before it sends it, which
/// takes time; small batches let the cursor move on even when the agent is killed again and again within a second.
const IN_DOUBT_EVENTS: u64 = 500;

impl Worker {
    /// Starts one attempt if one may start now; whether it is worth asking again.
    pub(super) async fn start_one(&mut self) -> bool {
        let blocked = self.work.stop_by.is_some()
            || self.work.rewind
            || self.work.again_at.is_some()
            || self.gone.is_some()
            || self.books.condemned().next().is_some();
        if blocked || (self.work.mark_first && !self.store_now().await) {
            return false;
        }
        let may = match self.retry.permit(self.now()) {
            Permit::Any => self.work.attempts.len() < self.spec.concurrency,
            Permit::One => self.work.attempts.is_empty(),
            Permit::NotBefore(_) | Permit::Probing => false,
        };
        if !may {
            return false;
        }
        if !self.work.opened {
            return self.work.attempts.is_empty() && self.start_open();
        }
        if self.work.replay.is_some() && self.work.attempts.is_empty() {
            return self.start_letter().await;
        }
        let new = self.spooled() > self.books.next();
        let waiting = self.books.waiting_count();
        // A record that the destination cannot take for hours must not hold back all that come after it.
        if waiting > 0 && !(self.work.leftover && new && waiting < LEFTOVERS_MAX) {
            return self.start_waiting().await;
        }
        if new {
            return self.start_new().await;
        }
        self.send_held_again()
    }

    fn start_open(&mut self) -> bool {
        let (sink, mark, limit) = (
            Arc::clone(&self.spec.sink),
            self.mark.clone(),
            self.spec.timeout * 2,
        );
        let epoch = self.retry.started();
        let task =
            async move { Ended::Open(clock::timeout(limit, sink.open(mark.as_deref())).await) };
        let id = self.work.attempts.spawn(task).id();
        self.work.what.insert(id, (Attempt::Open, epoch));
        false
    }

    /// Builds the lowest waiting task's batch from the spool once more and sends it.
    async fn start_waiting(&mut self) -> bool {
        // What is being filled comes later in the log and is in the spool: it must not hold the memory for this one.
        self.work.filling = None;
        let Some(claim) = self.claim() else {
            return false;
        };
        let Some(records) = self.books.lowest_waiting().map(|task| task.records.clone()) else {
            return false;
        };
        let cut = self.fill(records, Cut::default()).await;
        let Some(last) = cut.records.last().map(|record| record.number) else {
            return self.trouble(cut.trouble).await;
        };
        match self.books.open_waiting(last + 1) {
            Some(seq) => self.send(seq, cut, claim).await,
            None => true,
        }
    }

    /// Sends what lies behind everything taken so far, or waits for more of it.
    async fn start_new(&mut self) -> bool {
        let now = self.now();
        let mut filling = match self.work.filling.take() {
            Some(filling) => filling,
            None => match self.claim() {
                Some(claim) => Filling {
                    cut: Cut::default(),
                    claim,
                    since: now,
                },
                None => return false,
            },
        };
        let from = filling
            .cut
            .records
            .last()
            .map_or(self.books.next(), |record| record.number + 1);
        // What an earlier process may have sent is not mixed with what it did not.
        let start = self.books.next();
        let in_doubt = self.books.in_doubt_end();
        let doubtful_to = in_doubt.min(start.saturating_add(IN_DOUBT_EVENTS));
        let to = if start < in_doubt {
            doubtful_to.min(self.spooled())
        } else {
            self.spooled()
        };
        filling.cut = self.fill(Numbers::range(from..to), filling.cut).await;
        let Some(last) = filling.cut.records.last().map(|record| record.number) else {
            return self.trouble(filling.cut.trouble).await;
        };
        let send = filling.cut.full
            || filling.cut.trouble.is_some()
            || self.work.attempts.is_empty()
            || last + 1 == doubtful_to
            || now >= filling.since + self.spec.batch_wait;
        if !send {
            self.work.filling = Some(filling);
            return false;
        }
        if last >= self.place.durable().send_limit && !self.store_limit(last + 1).await {
            self.work.filling = Some(filling);
            return false;
        }
        self.work.leftover = false;
        let seq = self.books.open_new(last + 1);
        self.send(seq, filling.cut, filling.claim).await
    }

    async fn send(&mut self, seq: u64, cut: Cut, mut claim: Claim) -> bool {
        let Some(task) = self.books.task(seq) else {
            return true;
        };
        claim.shrink(cut.bytes.saturating_mul(2));
        let batch = Arc::new(Batch {
            records: cut.records,
            form: task.form,
            in_doubt: task.in_doubt,
            ..Batch::default()
        });
        let (sink, clock, limit) = (
            Arc::clone(&self.spec.sink),
            Arc::clone(&self.shared.clock),
            self.spec.timeout * 2,
        );
        let epoch = self.retry.started();
        let task = async move {
            let started = clock.monotonic();
            let outcome = clock::timeout(limit, sink.send(batch)).await;
            drop(claim);
            Ended::Batch {
                outcome,
                took: clock.monotonic().saturating_sub(started),
            }
        };
        let id = self.work.attempts.spawn(task).id();
        self.work.what.insert(
            id,
            (
                Attempt::Batch {
                    seq,
                    bytes: cut.bytes,
                },
                epoch,
            ),
        );
        match cut.trouble {
            Some(trouble) => self.trouble(Some(trouble)).await,
            None => true,
        }
    }

    /// Memory for one batch, encoded and as it came from the spool.
    pub(super) fn claim(&mut self) -> Option<Claim> {
        self.freed.mark_unchanged();
        let claim = self.account.claim(batch_memory(&self.spec));
        self.work.starved = claim.is_none();
        claim
    }

    async fn fill(&mut self, wanted: Numbers, cut: Cut) -> Cut {
        let batcher = self.batcher.clone();
        let read = tokio::task::spawn_blocking(move || batcher.fill(&wanted, cut)).await;
        read.unwrap_or_else(|panic| Cut {
            trouble: Some(Trouble::Undecodable(format!("read the spool: {panic}"))),
            ..Cut::default()
        })
    }

    /// With nothing else to send, what is held may as well be tried again.
    fn send_held_again(&mut self) -> bool {
        let due = self.work.held_at.is_some_and(|at| at <= self.now());
        let again = due && self.work.attempts.is_empty() && self.books.refusals().held() > 0;
        if again {
            self.work.held_at = None;
            self.books.send_held_again();
        }
        again
    }
}
