//! What a worker makes durable: cursor, mark and send limit, and the gaps of what could not be had.

use super::{AGAIN_AFTER, GAP_WITHIN, Worker};
use crate::clock;
use crate::delivery::batcher::Trouble;
use crate::delivery::in_flight::InFlight;
use crate::delivery::numbers::Numbers;
use crate::delivery::seal::Seals;
use crate::delivery::{SinkGap, SinkGapReason};
use crate::spool::cursor::CursorRecord;

impl Worker {
    /// Reading did not give what was wanted; whether it is worth going on at once.
    pub(super) async fn trouble(&mut self, trouble: Option<Trouble>) -> bool {
        let now = self.now();
        match trouble {
            None => false,
            Some(Trouble::Lost(records, problem)) => {
                self.alarm("damaged", problem);
                self.gap(&records, SinkGapReason::Damaged)
                    .await
                    .then(|| self.books.lost(&records))
                    .is_some()
            }
            Some(Trouble::Io(problem)) => {
                self.alarm("spool", problem);
                self.work.again_at = Some(now + AGAIN_AFTER);
                false
            }
            Some(Trouble::Undecodable(problem)) => {
                let reason = format!("{problem}; use the version of auditship that wrote it");
                self.stop(reason);
                false
            }
        }
    }

    /// Records gaps durably; whether all are.
    async fn gap(&mut self, records: &Numbers, reason: SinkGapReason) -> bool {
        for range in records.ranges() {
            let gap = SinkGap {
                reason,
                first: range.start,
                last: range.end - 1,
            };
            let recorded =
                clock::timeout(GAP_WITHIN, self.shared.gaps.record(&self.spec.name, gap)).await;
            if let Err(problem) = recorded.unwrap_or_else(|| Err("it took too long".to_owned())) {
                self.alarm(
                    "gap",
                    format!("record gap {} to {}: {problem}", gap.first, gap.last),
                );
                self.work.again_at = Some(self.now() + AGAIN_AFTER);
                return false;
            }
        }
        true
    }

    pub(super) async fn record_gone(&mut self) {
        if let Some(gone) = self.gone.take() {
            match self.gap(&gone, SinkGapReason::Damaged).await {
                true => self.books.lost(&gone),
                false => self.gone = Some(gone),
            }
        }
    }

    /// Gives up the records below a limit once no attempt is open on them.
    pub(super) async fn overtake(&mut self) {
        let Some(to) = self.work.overtake else { return };
        if to <= self.place.durable().cursor {
            self.work.overtake = None;
            return;
        }
        let Some(records) = self.books.unconfirmed_below(to) else {
            return;
        };
        if !records.is_empty() && !self.gap(&records, SinkGapReason::Overtaken).await {
            return;
        }
        self.release_filling();
        self.books.overtake(to);
        self.work.overtake = None;
        self.store_now().await;
    }

    pub(super) fn dirty(&self) -> bool {
        let (durable, now) = (self.place.durable(), self.books.record());
        durable.cursor != now.cursor
            || durable.replayed != now.replayed
            || durable.mark != self.mark
    }

    pub(super) async fn store_if_due(&mut self) {
        let flush = self
            .work
            .flush_to
            .is_some_and(|to| self.books.cursor() >= to);
        let due = self.dirty()
            && self.work.again_at.is_none()
            && (flush || self.now() >= self.place.due());
        if due {
            self.store_now().await;
        }
        if flush && !self.dirty() {
            self.work.flush_to = None;
        }
    }

    /// Stores cursor, counts and mark with the send limit in turn; whether that is done.
    pub(super) async fn store_now(&mut self) -> bool {
        self.store_limit(self.books.next()).await
    }

    /// The same, so that everything below `end` may be sent.
    pub(super) async fn store_limit(&mut self, end: u64) -> bool {
        let limit = self.place.limit_ahead(self.books.next(), end, self.now());
        self.store(limit).await
    }

    pub(super) async fn store(&mut self, send_limit: u64) -> bool {
        let record = CursorRecord {
            send_limit,
            mark: self.mark.clone(),
            ..self.books.record().clone()
        };
        let settled = clock::timeout(self.spec.timeout * 2, self.spec.sink.settle()).await;
        if let Err(problem) = settled.unwrap_or_else(|| Err("it took too long".to_owned())) {
            self.alarm(
                "settle",
                format!("make durable what was delivered: {problem}"),
            );
            self.work.rewind = true;
            self.work.again_at = Some(self.now() + AGAIN_AFTER);
            return false;
        }
        if let Err(problem) = self.place.store(record, self.now()).await {
            self.alarm("cursor", problem);
            self.work.again_at = Some(self.now() + AGAIN_AFTER);
            return false;
        }
        self.work.mark_first = false;
        if let Some(record) = self.work.stored_letter.take()
            && let Err(error) = self.letters.remove(&self.spec.name, &[record])
        {
            self.alarm(
                "dead_letter",
                format!("remove a replayed dead letter: {error}"),
            );
        }
        self.published.stored(self.place.durable());
        true
    }

    /// What was reported as delivered since the last store may be lost at the sink: the same as after a crash.
    pub(super) fn rewind(&mut self) {
        let durable = self.place.durable().clone();
        if let Err(error) = self.letters.forget_from(&self.spec.name, durable.cursor) {
            return self.alarm("dead_letter", error.to_string());
        }
        let sealed = match self.seals.as_mut().map(Seals::read).transpose() {
            Ok(sealed) => sealed,
            Err(error) => {
                self.work.again_at = Some(self.now() + AGAIN_AFTER);
                return self.alarm("seal", error.to_string());
            }
        };
        self.mark = durable.mark.clone();
        self.books = InFlight::resume_with(durable, sealed);
        self.work.filling = None;
        self.work.opened = false;
        self.work.mark_first = false;
        self.work.rewind = false;
    }
}
