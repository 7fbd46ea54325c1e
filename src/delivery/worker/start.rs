//! Which attempt comes next: opening, a letter, what waits, what is new, what is held.

use std::sync::Arc;

use super::{Attempt, Ended, Filling, Open, Worker, batch_memory};
use crate::clock;
use crate::delivery::batcher::{Cut, Limits, Trouble};
use crate::delivery::in_flight::Task;
use crate::delivery::memory::Claim;
use crate::delivery::retry::Permit;
use crate::sinks::Seal;

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
        let new = self.spooled() > self.books.next() || self.work.filling.is_some();
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
        self.release_filling();
        let Some(task) = self.books.lowest_waiting().cloned() else {
            return false;
        };
        let first = task.records.first().unwrap_or(0);
        if task.seal.is_none() && !self.has_slot(first).await {
            return self.send_held_again();
        }
        let Some(claim) = self.claim() else {
            return false;
        };
        if let Some(seal) = task.seal.clone().filter(|_| !task.seal_is_whole()) {
            return self.ask_for_waiting(&task, seal);
        }
        let mut batcher = self.batcher.clone();
        if task.seal.is_some() {
            // As it was cut then, whatever the limits are now.
            batcher.limits = Limits::NONE;
        }
        let wanted = task.records.clone();
        let read = move || batcher.fill(&wanted, Cut::default());
        let mut cut = tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|panic| Cut {
                trouble: Some(unreadable(&panic)),
                ..Cut::default()
            });
        if cut.numbers.is_empty() || spoiled(&cut.trouble, cut.body.is_some()) {
            return self.trouble(cut.trouble.take()).await;
        }
        if let Some(seal) = task.seal.clone().filter(|_| cut.numbers != task.records) {
            return self.ask_for_waiting(&task, seal);
        }
        match self.books.open_waiting(&cut.numbers) {
            Some(seq) => self.send(seq, cut, claim).await,
            None => true,
        }
    }

    /// The sealed batch that waits cannot be made as it was: its destination is asked for it.
    fn ask_for_waiting(&mut self, task: &Task, seal: Seal) -> bool {
        match self.books.open_waiting(&task.records) {
            Some(seq) => self.start_look_up(seq, seal),
            None => true,
        }
    }

    /// Sends what lies behind everything taken so far, or waits for more of it.
    async fn start_new(&mut self) -> bool {
        let mut filling = match self.work.filling.take() {
            Some(filling) => filling,
            None => match self.claim() {
                Some(claim) => Filling {
                    batches: Vec::new(),
                    claim,
                    until: self.read_until(),
                },
                None => return false,
            },
        };
        let mut trouble = None;
        if self.ready(&filling).is_none() {
            trouble = match self.read_into(&mut filling).await {
                Ok(trouble) => trouble,
                Err(trouble) => {
                    self.release_filling();
                    return self.trouble(Some(trouble)).await;
                }
            };
        }
        let lowest = trouble.as_ref().map(|_| 0);
        let chosen = self.ready(&filling).or(lowest);
        let Some(at) = chosen.filter(|at| *at < filling.batches.len()) else {
            self.work.filling = Some(filling).filter(|filling| !filling.batches.is_empty());
            return self.trouble(trouble).await;
        };
        let chosen = &filling.batches[at].cut.numbers;
        let (first, end) = (chosen.first().unwrap_or(0), chosen.end().unwrap_or(0));
        if !self.has_slot(first).await {
            self.work.filling = Some(filling);
            return self.send_held_again();
        }
        if end > self.place.durable().send_limit && !self.store_limit(self.books.next()).await {
            self.work.filling = Some(filling);
            return false;
        }
        self.work.leftover = false;
        let Open {
            number, mut cut, ..
        } = filling.batches.remove(at);
        cut.trouble = trouble;
        let Some(seq) = self.books.open_filled(number) else {
            return true;
        };
        let claim = self.share(filling);
        self.send(seq, cut, claim).await
    }

    /// The memory for the batch that was taken out; what else fills goes on with memory of its own, or is given up.
    fn share(&mut self, filling: Filling) -> Claim {
        if filling.batches.is_empty() {
            return filling.claim;
        }
        match self.claim() {
            Some(claim) => self.work.filling = Some(Filling { claim, ..filling }),
            None => self.books.release_filling(),
        }
        filling.claim
    }

    /// What an earlier process may have sent is not mixed with what it did not.
    fn read_until(&self) -> u64 {
        let (start, in_doubt) = (self.books.next(), self.books.in_doubt_end());
        match start < in_doubt {
            true => in_doubt.min(start.saturating_add(IN_DOUBT_EVENTS)),
            false => u64::MAX,
        }
    }

    /// Which of the batches is to be sent now.
    fn ready(&self, filling: &Filling) -> Option<usize> {
        let batches = &filling.batches;
        if batches.is_empty() {
            return None;
        }
        if self.few_slots() {
            return Some(0);
        }
        if let Some(full) = batches.iter().position(|open| open.cut.full) {
            return Some(full);
        }
        let (next, now) = (self.books.next(), self.now());
        let lowest = next >= filling.until
            || self.work.flush_to.is_some_and(|to| next >= to)
            || (!self.spec.waits && self.work.attempts.is_empty() && next >= self.spooled());
        if lowest {
            return Some(0);
        }
        batches
            .iter()
            .position(|open| now >= open.since + self.spec.batch_wait)
    }

    /// Reads on into the batches that fill. The error: what was being built is of no use.
    async fn read_into(&mut self, filling: &mut Filling) -> Result<Option<Trouble>, Trouble> {
        let from = self.books.next();
        let to = filling.until.min(self.spooled());
        if from >= to {
            return Ok(None);
        }
        let (batcher, batches) = (self.batcher.clone(), std::mem::take(&mut filling.batches));
        let (places, cuts): (Vec<_>, Vec<_>) = batches
            .into_iter()
            .map(|open| ((open.number, open.since), open.cut))
            .unzip();
        let read = tokio::task::spawn_blocking(move || batcher.spread(from..to, cuts)).await;
        let spread = read.map_err(|panic| unreadable(&panic))?;
        let built = spread.cuts.iter().any(|cut| cut.body.is_some());
        if spoiled(&spread.trouble, built) {
            return spread.trouble.map_or(Ok(None), Err);
        }
        let now = self.now();
        let mut places = places.into_iter();
        for cut in spread
            .cuts
            .into_iter()
            .filter(|cut| !cut.numbers.is_empty())
        {
            let (number, since) = places.next().unwrap_or_else(|| {
                self.work.filled += 1;
                (self.work.filled, now)
            });
            filling.batches.push(Open { number, cut, since });
        }
        let parts = filling.batches.iter();
        let parts = parts.map(|open| (open.number, open.cut.numbers.split_at(from).1));
        self.books.fill(parts.collect(), spread.next);
        Ok(spread.trouble)
    }

    /// Memory for one batch, encoded and as it came from the spool.
    pub(super) fn claim(&mut self) -> Option<Claim> {
        self.freed.mark_unchanged();
        let claim = self.account.claim(batch_memory(&self.spec));
        self.work.starved = claim.is_none();
        claim
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

fn unreadable(panic: &tokio::task::JoinError) -> Trouble {
    Trouble::Undecodable(format!("read the spool: {panic}"))
}

/// A body that met an error in the middle of a record cannot be gone on with.
fn spoiled(trouble: &Option<Trouble>, built: bool) -> bool {
    built && matches!(trouble, Some(Trouble::Io(_)))
}
