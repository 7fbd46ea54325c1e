//! Dead letters: burying the condemned, and what the command line asks for.

use std::sync::Arc;
use std::time::Duration;

use super::{AGAIN_AFTER, Attempt, Ended, Worker};
use crate::delivery::batcher::Trouble;
use crate::delivery::dead_letter::{Action, KeepError};
use crate::delivery::numbers::Numbers;
use crate::delivery::replay::{self, Replay, Replayed};
use crate::delivery::retry::{Epoch, Permit};
use crate::sinks::Rejection;

impl Worker {
    /// Makes dead letters of the condemned; a full store stops the sink and its probe is to try again.
    pub(super) async fn bury(&mut self) {
        let may = match self.retry.permit(self.now()) {
            Permit::Any => true,
            Permit::One => self.work.attempts.is_empty(),
            Permit::NotBefore(_) | Permit::Probing => false,
        };
        let condemned: Vec<(u64, Rejection)> = self
            .books
            .condemned()
            .map(|(n, r)| (n, r.clone()))
            .collect();
        if condemned.is_empty() || !may || self.work.again_at.is_some() {
            return;
        }
        let epoch = self.retry.started();
        let (kept, trouble) = self.keep(condemned).await;
        if !kept.is_empty() {
            self.books.dead_lettered(&kept);
            self.retry.accepted(epoch);
        }
        match trouble {
            None => {}
            Some(Buried::Full(reason)) => self.stop(reason),
            Some(Buried::Io(problem)) => {
                self.alarm("dead_letter", problem);
                self.work.again_at = Some(self.now() + AGAIN_AFTER);
                self.retry.withdrawn(epoch);
            }
            Some(Buried::Spool(trouble)) => {
                self.retry.withdrawn(epoch);
                self.trouble(Some(trouble)).await;
            }
        }
    }

    async fn keep(&mut self, condemned: Vec<(u64, Rejection)>) -> (Numbers, Option<Buried>) {
        let (batcher, letters) = (self.batcher.clone(), Arc::clone(&self.letters));
        let (sink, now) = (self.spec.name.clone(), self.shared.clock.now());
        let keep = move || {
            let mut kept = Numbers::default();
            for (number, rejection) in condemned {
                let record = match batcher.record(number) {
                    Ok(record) => record,
                    Err(trouble) => return (kept, Some(Buried::Spool(trouble))),
                };
                match letters.keep(&sink, &record, &rejection, now) {
                    Ok(()) => kept.push(number),
                    Err(error @ KeepError::Full { .. }) => {
                        return (kept, Some(Buried::Full(error.to_string())));
                    }
                    Err(error) => return (kept, Some(Buried::Io(error.to_string()))),
                }
            }
            (kept, None)
        };
        let kept = tokio::task::spawn_blocking(keep).await;
        kept.unwrap_or_else(|panic| (Numbers::default(), Some(Buried::Io(panic.to_string()))))
    }

    pub(super) async fn take_up_requests(&mut self) {
        let (letters, sink) = (Arc::clone(&self.letters), self.spec.name.clone());
        let requests = match tokio::task::spawn_blocking(move || letters.requests(&sink)).await {
            Ok(Ok(requests)) => requests,
            Ok(Err(error)) => return self.alarm("dead_letter", format!("read requests: {error}")),
            Err(panic) => return self.alarm("dead_letter", format!("read requests: {panic}")),
        };
        for request in requests
            .iter()
            .filter(|request| request.action == Action::Remove)
        {
            let gaps = Arc::clone(&self.shared.gaps);
            let removed =
                replay::remove(&self.letters, &*gaps, &self.spec.name, &request.records).await;
            let done = removed.and_then(|_| {
                self.letters
                    .done(request)
                    .map_err(|error| error.to_string())
            });
            if let Err(problem) = done {
                self.alarm("dead_letter", format!("remove dead letters: {problem}"));
            }
        }
        if self.work.replay.is_none()
            && requests
                .iter()
                .any(|request| request.action == Action::Replay)
        {
            match Replay::take_up(&self.letters, &self.spec.name) {
                Ok(replay) => self.work.replay = replay,
                Err(error) => self.alarm("dead_letter", format!("take up a replay: {error}")),
            }
        }
    }

    pub(super) async fn start_letter(&mut self) -> bool {
        let Some(replay) = &self.work.replay else {
            return true;
        };
        let Some(record) = replay.left.front().copied() else {
            if let Err(error) = self.letters.done(&replay.request) {
                self.alarm("dead_letter", format!("end a replay: {error}"));
            }
            self.work.replay = None;
            return true;
        };
        let in_doubt = replay.in_doubt;
        let Some(claim) = self.claim() else {
            return false;
        };
        let (letters, name) = (Arc::clone(&self.letters), self.spec.name.clone());
        let loaded = tokio::task::spawn_blocking(move || letters.load(&name, record)).await;
        let letter = match loaded.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
            Ok(letter) => letter,
            Err(error) => {
                self.alarm("dead_letter", error.to_string());
                self.next_letter();
                return true;
            }
        };
        let (sink, limit) = (Arc::clone(&self.spec.sink), self.spec.timeout * 2);
        let epoch = self.retry.started();
        let task = async move {
            let replayed = replay::send_letter(&*sink, letter, in_doubt, limit).await;
            drop(claim);
            Ended::Letter(replayed)
        };
        let id = self.work.attempts.spawn(task).id();
        self.work.what.insert(id, (Attempt::Letter(record), epoch));
        false
    }

    pub(super) fn replayed(&mut self, record: u64, replayed: Replayed, epoch: Epoch) {
        match replayed {
            Replayed::Stored(mark) => {
                if mark.is_some() {
                    self.mark = mark;
                }
                self.books.count_replayed();
                self.retry.accepted(epoch);
                self.work.mark_first = true;
                self.work.stored_letter = Some(record);
                self.next_letter();
            }
            Replayed::Refused(rejection) => {
                tracing::warn!(
                    sink = self.spec.name,
                    record,
                    class = rejection.class,
                    "a replayed event is refused again"
                );
                self.retry.answered(epoch, self.now());
                self.next_letter();
            }
            Replayed::Retry {
                after,
                reason,
                in_doubt,
            } => self.letter_again(after, reason, in_doubt, epoch),
            Replayed::Stop(reason) => self.stop(reason),
            Replayed::MarkFirst(mark) => {
                self.mark = Some(mark);
                self.work.mark_first = true;
                self.retry.answered(epoch, self.now());
            }
        }
    }

    fn next_letter(&mut self) {
        if let Some(replay) = &mut self.work.replay {
            replay.left.pop_front();
            replay.in_doubt = replay.request.begun;
        }
    }

    pub(super) fn letter_again(
        &mut self,
        after: Option<Duration>,
        reason: String,
        in_doubt: bool,
        epoch: Epoch,
    ) {
        if let Some(replay) = &mut self.work.replay {
            replay.in_doubt |= in_doubt;
        }
        self.failed(epoch, after, reason);
    }
}

/// Why condemned records are not dead letters yet.
enum Buried {
    Full(String),
    Io(String),
    Spool(Trouble),
}
