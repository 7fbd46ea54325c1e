//! What follows from an attempt that has ended.

use std::time::Duration;

use tokio::task::{Id, JoinError};

use super::{Attempt, Ended, PANICKED, SECRETS_EVERY, Worker, cut_off};
use crate::delivery::in_flight::Finish;
use crate::delivery::numbers::Numbers;
use crate::delivery::retry::{Epoch, PROBE_EVERY};
use crate::sinks::{Alarm, Holds, Opened, Outcome};

impl Worker {
    pub(super) fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some((attempt, epoch)) = self.work.what.remove(&id) else {
            return;
        };
        if ended.is_err() {
            // The message of a panic may hold a part of an event, so it is left to the panic hook.
            self.alarm("panic", PANICKED.to_owned());
        }
        match (attempt, ended) {
            (Attempt::Open, Ok(Ended::Open(answer))) => self.opened(answer, epoch),
            (Attempt::Batch { seq, bytes }, Ok(Ended::Batch { outcome, took })) => {
                self.published.change(|report| {
                    report.sent_bytes += bytes;
                    report.request_seconds.observe(took);
                });
                let outcome = outcome.unwrap_or_else(|| cut_off(self.spec.timeout));
                let finish = self.books.finish(seq, outcome);
                self.finished(finish, epoch);
            }
            (Attempt::Batch { seq, .. } | Attempt::LookUp { seq }, Err(_)) => {
                let outcome = Outcome::Retry {
                    after: None,
                    reason: PANICKED.to_owned(),
                    in_doubt: true,
                };
                let finish = self.books.finish(seq, outcome);
                self.finished(finish, epoch);
            }
            (Attempt::LookUp { seq }, Ok(Ended::LookUp(answer))) => {
                self.looked_up(seq, answer, epoch);
            }
            (Attempt::Letter(record), Ok(Ended::Letter(replayed))) => {
                self.replayed(record, replayed, epoch)
            }
            (Attempt::Letter(_), Err(_)) => {
                self.letter_again(None, PANICKED.to_owned(), true, epoch)
            }
            (_, _) => self.failed(epoch, None, PANICKED.to_owned()),
        }
    }

    fn finished(&mut self, finish: Finish, epoch: Epoch) {
        let now = self.now();
        self.published
            .change(|report| *report.attempts.entry(finish.outcome).or_default() += 1);
        for Alarm { reason, message } in finish.alarms {
            self.alarm(reason, message);
        }
        if finish.mark.is_some() {
            self.mark = finish.mark;
            self.work.mark_first |= finish.mark_first;
        }
        if finish.accepted > 0 {
            self.accepted(epoch);
            // An attempt from before the gate closed says nothing about why it did.
            let open = self.retry.retry_at().is_none();
            self.published.change(|report| {
                report.last_success = now;
                report.last_error = report.last_error.take().filter(|_| !open);
            });
        }
        if let Some(why) = self.books.refusals().why() {
            self.work.held_at.get_or_insert(now + PROBE_EVERY);
            self.published
                .change(|report| report.last_error = Some(why));
        } else {
            self.work.held_at = None;
        }
        self.work.leftover |= finish.leftover;
        match (finish.stop, finish.retry) {
            (Some(reason), _) => self.stop(reason),
            (None, Some((after, reason))) => self.failed(epoch, after, reason),
            (None, None) if finish.accepted == 0 => self.retry.answered(epoch, now),
            (None, None) => {}
        }
    }

    /// What the destination says about a sealed batch that cannot be made again.
    fn looked_up(&mut self, seq: u64, answer: Option<Result<Holds, Outcome>>, epoch: Epoch) {
        let outcome = match answer {
            Some(Ok(Holds::Yes)) => Outcome::Delivered {
                mark: None,
                except: Vec::new(),
                alarms: Vec::new(),
            },
            Some(Ok(holds)) => {
                tracing::info!(
                    sink = self.spec.name,
                    "a sealed batch that can no longer be made as it was is sent anew"
                );
                self.books.withdraw_seal(seq, holds == Holds::Unknown);
                return self.retry.answered(epoch, self.now());
            }
            Some(Err(outcome)) => outcome,
            None => cut_off(self.spec.timeout),
        };
        let finish = self.books.finish(seq, outcome);
        self.finished(finish, epoch);
    }

    fn opened(&mut self, answer: Option<Result<Opened, Outcome>>, epoch: Epoch) {
        let now = self.now();
        let opened = match answer {
            None => {
                return self.failed(
                    epoch,
                    None,
                    format!("open: no answer in {} s", (self.spec.timeout * 2).as_secs()),
                );
            }
            Some(Err(Outcome::Stop { reason })) => return self.stop(reason),
            Some(Err(Outcome::Retry { after, reason, .. })) => {
                return self.failed(epoch, after, reason);
            }
            Some(Err(Outcome::MarkFirst { mark })) => {
                self.mark = Some(mark);
                self.work.mark_first = true;
                return self.retry.answered(epoch, now);
            }
            Some(Err(other)) => return self.failed(epoch, None, format!("open gave {other:?}")),
            Some(Ok(opened)) => opened,
        };
        self.work.opened = true;
        for Alarm { reason, message } in opened.alarms {
            self.alarm(reason, message);
        }
        if let Some(last) = opened
            .confirmed_to
            .filter(|last| *last >= self.books.cursor())
        {
            if last < self.spooled() {
                let mut holes = Numbers::default();
                for (first, last) in opened.holes {
                    holes.push_range(first..last.saturating_add(1));
                }
                self.release_filling();
                self.books.confirmed_to(last, &holes);
            } else {
                let end = self.spooled();
                self.alarm(
                    "marker",
                    format!("the destination confirms record {last}, the spool ends before {end}"),
                );
            }
        }
        // A stop that came from opening is over; one that came from sending is over when something is accepted.
        if self.books.lowest_waiting().is_none() {
            self.accepted(epoch);
            self.published.change(|report| report.last_error = None);
        } else {
            self.retry.answered(epoch, now);
        }
    }

    fn accepted(&mut self, epoch: Epoch) {
        let stopped = self.retry.stopped().is_some();
        self.retry.accepted(epoch);
        if stopped && self.retry.stopped().is_none() {
            tracing::info!(sink = self.spec.name, "goes on: what stopped it is mended");
        }
    }

    pub(super) fn failed(&mut self, epoch: Epoch, after: Option<Duration>, reason: String) {
        tracing::warn!(sink = self.spec.name, "{reason}");
        self.release_filling();
        self.retry.failed(epoch, self.now(), after);
        self.published
            .change(|report| report.last_error = Some(reason));
    }

    pub(super) fn stop(&mut self, reason: String) {
        self.release_filling();
        self.work.opened = false;
        self.work.secrets_at = self.now() + SECRETS_EVERY;
        if self.retry.stop(self.now(), reason.clone()) {
            self.alarm("stopped", reason);
        } else {
            self.published
                .change(|report| report.last_error = Some(reason));
        }
    }
}
