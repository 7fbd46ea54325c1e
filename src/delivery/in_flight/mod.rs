//! What became of every record between a sink's cursor and the end of what it has taken from the spool. Pure: outcomes
//! in, the next attempts and the durable counts out.
//!
//! Invariants:
//! - Every record of `[cursor, next)` is in exactly one place: a batch that fills, an open attempt, a task that waits,
//!   held by [`Refusals`], condemned, or done. (`check` in the tests.)
//! - The cursor is the lowest record not done; counts move with the cursor alone, so that
//!   `cursor = delivered + not_selected + dead_letter + gap` and, with `pending = spooled - cursor`, the law of design
//!   D12 holds from one [`CursorRecord`], at whatever moment the process dies.
//! - A record that an attempt may have stored is never in another one that is not `in_doubt`.

mod task;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::delivery::numbers::Numbers;
use crate::delivery::refusal::{Answer, Judgement, Refusals};
use crate::sinks::{Alarm, Form, Outcome, Rejection, Seal, Verdict};
use crate::spool::cursor::CursorRecord;
use task::Sorted;
pub use task::Task;

/// `MarkFirst` answers to one batch before it counts as a failure: a file sink needs one.
const MARKS_MAX: u8 = 8;

/// What can become of a record for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Stored at the destination.
    Delivered,
    /// Kept as a dead letter.
    DeadLetter,
    /// In a recorded gap of this sink.
    Gap,
}

/// A batch that was halved, until the last part of it is decided.
#[derive(Debug)]
struct Halved {
    of: u64,
    undecided: u64,
    accepted: u64,
}

/// Counts of records that are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    dead_letter: u64,
    gap: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.delivered += other.delivered;
        self.dead_letter += other.dead_letter;
        self.gap += other.gap;
    }
}

/// What the end of an attempt means to the worker.
#[derive(Debug, Default, PartialEq)]
pub struct Finish {
    /// Records that are stored now.
    pub accepted: u64,
    /// Some or all are to be sent again, after a wait (what the destination asked for, why).
    pub retry: Option<(Option<Duration>, String)>,
    /// What is to be sent again is left of a batch of which the rest was accepted, and nothing of it was accepted
    /// now: it may be these records alone that the destination cannot take at present.
    pub leftover: bool,
    /// The sink stops, for this reason.
    pub stop: Option<String>,
    /// The mark that goes with the cursor from now on.
    pub mark: Option<Vec<u8>>,
    /// That mark must be durable before anything else is sent.
    pub mark_first: bool,
    /// For the operator.
    pub alarms: Vec<Alarm>,
    /// Label of `sink_attempts_total`.
    pub outcome: &'static str,
}

/// The books of one sink.
#[derive(Debug)]
pub struct InFlight {
    record: CursorRecord,
    next: u64,
    in_doubt_end: u64,
    seq: u64,
    done: BTreeMap<u64, (u64, Counts)>,
    /// Done without being stored, at or beyond the cursor that was durable when it was last asked for.
    unstored: Numbers,
    /// Batches that fill, by the number that the worker gave them.
    filling: BTreeMap<u64, Task>,
    open: BTreeMap<u64, Task>,
    waiting: BTreeMap<u64, Task>,
    refusals: Refusals,
    /// Batches that were halved, by their first attempt.
    halved: BTreeMap<u64, Halved>,
    condemned: BTreeMap<u64, Rejection>,
    /// Behind the highest record that was refused in an attempt in doubt: an earlier one may have stored it.
    refused_in_doubt_end: u64,
}

impl InFlight {
    /// Goes on from what was stored. After a clean stop `send_limit` is the cursor; else all up to it is in doubt.
    pub fn resume(record: CursorRecord) -> Self {
        InFlight {
            next: record.cursor,
            in_doubt_end: record.send_limit,
            record,
            seq: 0,
            done: BTreeMap::new(),
            unstored: Numbers::default(),
            filling: BTreeMap::new(),
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            refusals: Refusals::default(),
            halved: BTreeMap::new(),
            condemned: BTreeMap::new(),
            refused_in_doubt_end: 0,
        }
    }

    /// As [`InFlight::resume_sealed`] where there are seals, else as [`InFlight::resume`].
    pub fn resume_with(record: CursorRecord, seals: Option<Vec<(Numbers, Seal)>>) -> Self {
        match seals {
            Some(seals) => InFlight::resume_sealed(record, seals),
            None => InFlight::resume(record),
        }
    }

    /// The same for a sink that seals its batches: in doubt are the batches that were sealed (newest first), and they
    /// alone, since no other was sent.
    pub fn resume_sealed(record: CursorRecord, seals: Vec<(Numbers, Seal)>) -> Self {
        let mut books = InFlight::resume(record);
        let cursor = books.cursor();
        books.in_doubt_end = cursor;
        let end = seals.iter().filter_map(|(records, _)| records.end()).max();
        books.next = end.unwrap_or(cursor).max(cursor);
        let mut free = Numbers::range(cursor..books.next);
        for (records, seal) in seals {
            let left = free.and(&records);
            free = free.without(&left);
            books.wait(Task {
                seal: Some(seal),
                seal_of: records.len(),
                ..Task::new(left, true)
            });
        }
        books.wait(Task::new(free, false));
        books
    }

    /// The lowest record not done.
    pub fn cursor(&self) -> u64 {
        self.record.cursor
    }

    /// The lowest record never taken.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Records below this may have been sent by an earlier process whose end was not seen.
    pub fn in_doubt_end(&self) -> u64 {
        self.in_doubt_end
    }

    /// Cursor and counts, to be stored; the worker adds mark and send limit.
    pub fn record(&self) -> &CursorRecord {
        &self.record
    }

    /// What the send limit may be after an orderly stop: nothing at or beyond it, and nothing of unknown state below
    /// it, was sent. The cursor where nothing is in doubt.
    pub fn clean_send_limit(&self) -> u64 {
        let cursor = self.cursor();
        let done = self.done.last_key_value().map(|(_, (end, _))| *end);
        let open = self.open.values().filter_map(|t| t.records.end()).max();
        let waiting = self
            .waiting
            .values()
            .filter(|t| t.in_doubt)
            .filter_map(|t| t.records.end())
            .max();
        // What stands in a task is counted there; this is what no attempt has come to yet.
        let untaken = Some(self.in_doubt_end).filter(|end| *end > self.next);
        let refused = Some(self.refused_in_doubt_end)
            .filter(|_| self.refusals.held() + self.condemned.len() > 0);
        [done, open, waiting, untaken, refused]
            .into_iter()
            .flatten()
            .fold(cursor, u64::max)
    }

    /// Attempts that are open.
    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Whether an attempt on a record below this is open.
    pub fn open_below(&self, record: u64) -> bool {
        self.open.values().any(|t| t.first() < record)
    }

    /// The lowest task that waits to be sent again.
    pub fn lowest_waiting(&self) -> Option<&Task> {
        self.waiting.values().next()
    }

    /// Tasks that wait to be sent again.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Refused records that wait for an acceptance.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Records that are to become dead letters, lowest first.
    pub fn condemned(&self) -> impl Iterator<Item = (u64, &Rejection)> + '_ {
        self.condemned.iter().map(|(n, r)| (*n, r))
    }

    /// Takes all of `[next, end)` into batches that fill: these records into those batches.
    pub fn fill(&mut self, parts: Vec<(u64, Numbers)>, end: u64) {
        let taken: u64 = parts.iter().map(|(_, records)| records.len()).sum();
        assert_eq!(taken, end - self.next, "each record fills one batch");
        let in_doubt = self.next < self.in_doubt_end;
        for (batch, records) in parts.into_iter().filter(|(_, r)| !r.is_empty()) {
            let filling = self.filling.entry(batch);
            let task = filling.or_insert_with(|| Task::new(Numbers::default(), in_doubt));
            records
                .ranges()
                .for_each(|range| task.records.push_range(range));
            task.of = task.records.len();
        }
        self.next = end;
    }

    /// Opens an attempt at a batch that was filled; its number.
    pub fn open_filled(&mut self, batch: u64) -> Option<u64> {
        let task = self.filling.remove(&batch)?;
        Some(self.open_task(task))
    }

    /// Batches that fill are given up: what came last is not taken after all, the rest waits.
    pub fn release_filling(&mut self) {
        let filling = std::mem::take(&mut self.filling);
        let mut last_first: Vec<Task> = filling.into_values().collect();
        last_first.sort_by_key(|task| std::cmp::Reverse(task.first()));
        for task in last_first {
            if task.records == Numbers::range(task.first()..self.next) {
                self.next = task.first();
            } else {
                self.wait(task);
            }
        }
    }

    /// Opens an attempt at these of the lowest waiting task's records; what else there is in it waits on.
    pub fn open_waiting(&mut self, records: &Numbers) -> Option<u64> {
        let (_, task) = self.waiting.pop_first()?;
        let rest = task.records.without(records);
        if rest.is_empty() {
            return Some(self.open_task(task));
        }
        let task = Task { seal: None, ..task };
        let opened = task.records.without(&rest);
        self.wait(Task {
            records: rest,
            ..task.clone()
        });
        (!opened.is_empty()).then(|| {
            self.open_task(Task {
                records: opened,
                ..task
            })
        })
    }

    /// The seal of an open attempt was written down.
    pub fn sealed(&mut self, seq: u64, seal: Seal) {
        if let Some(task) = self.open.get_mut(&seq) {
            task.seal = Some(seal);
            task.seal_of = task.records.len();
        }
    }

    /// The batch that was sealed can no longer be made, and its destination does not hold it, or cannot tell: it is
    /// sent anew.
    pub fn withdraw_seal(&mut self, seq: u64, in_doubt: bool) {
        if let Some(task) = self.open.remove(&seq) {
            self.wait(Task {
                seal: None,
                in_doubt,
                ..task
            });
        }
    }

    /// Records from `from` to the end of `batch` that are neither in it nor stored.
    pub fn holes(&mut self, from: u64, batch: &Numbers) -> Numbers {
        let end = batch.end().unwrap_or(from);
        self.unstored = self.unstored.split_at(from).1;
        let mut stored = Numbers::range(from..self.cursor().max(from));
        for (first, (end, _)) in &self.done {
            stored.push_range(*first..*end);
        }
        Numbers::range(from..end.max(from))
            .without(batch)
            .without(&stored.without(&self.unstored))
    }

    /// The task of an open attempt.
    pub fn task(&self, seq: u64) -> Option<&Task> {
        self.open.get(&seq)
    }

    /// An attempt that was opened could not start; its records wait.
    pub fn give_back(&mut self, seq: u64) {
        if let Some(task) = self.open.remove(&seq) {
            self.wait(task);
        }
    }

    /// All that is held is to be sent again.
    pub fn send_held_again(&mut self) {
        let held = self.refusals.take_held();
        self.wait_again(held);
    }

    /// An attempt has ended.
    pub fn finish(&mut self, seq: u64, outcome: Outcome) -> Finish {
        let Some(task) = self.open.remove(&seq) else {
            return Finish::default();
        };
        match outcome {
            Outcome::Delivered {
                mark,
                except,
                alarms,
            } => self.delivered(seq, task, mark, except, alarms),
            Outcome::Retry {
                after,
                reason,
                in_doubt,
            } => {
                let leftover = task.siblings_accepted;
                self.wait(Task {
                    in_doubt: task.in_doubt || in_doubt,
                    marks: 0,
                    ..task
                });
                Finish {
                    retry: Some((after, reason)),
                    leftover,
                    outcome: "retry",
                    ..Finish::default()
                }
            }
            Outcome::Split { verdict } => self.split(seq, task, verdict),
            Outcome::MarkFirst { mark } if task.marks < MARKS_MAX => {
                self.wait(Task {
                    marks: task.marks + 1,
                    ..task
                });
                Finish {
                    mark: Some(mark),
                    mark_first: true,
                    outcome: "retry",
                    ..Finish::default()
                }
            }
            Outcome::MarkFirst { .. } => {
                self.wait(Task { marks: 0, ..task });
                let reason =
                    format!("asked {MARKS_MAX} times for a mark to be stored and wrote nothing");
                Finish {
                    retry: Some((None, reason)),
                    outcome: "retry",
                    ..Finish::default()
                }
            }
            Outcome::Stop { reason } => {
                self.wait(task);
                self.send_held_again();
                Finish {
                    stop: Some(reason),
                    outcome: "stopped",
                    ..Finish::default()
                }
            }
        }
    }

    /// These are dead letters now, durably.
    pub fn dead_lettered(&mut self, records: &Numbers) {
        for number in records.iter() {
            self.condemned.remove(&number);
        }
        self.close(records, Fate::DeadLetter);
    }

    /// These could not be had from the spool and are in a recorded gap now. They are taken out of every place but an
    /// open attempt, and those that no one had taken yet count as taken.
    pub fn lost(&mut self, records: &Numbers) {
        self.close_anywhere(records, Fate::Gap);
    }

    /// The destination says that it holds everything up to and with `last`, but for `holes`. Nothing may be open.
    pub fn confirmed_to(&mut self, last: u64, holes: &Numbers) {
        let next = self.next;
        let Some(records) = self.unconfirmed_below(last.saturating_add(1)) else {
            return;
        };
        self.refusals.forget_below(last.saturating_add(1));
        let records = records.without(holes);
        self.close_anywhere(&records, Fate::Delivered);
        // What it does not hold and nobody has taken yet is sent as anything else that waits.
        let (_, untaken) = holes.split_at(next);
        let (untaken, _) = untaken.split_at(self.next);
        self.wait(Task::new(untaken, false));
    }

    /// A dead letter was stored after all.
    pub fn count_replayed(&mut self) {
        self.record.replayed += 1;
    }

    fn close_anywhere(&mut self, records: &Numbers, fate: Fate) {
        // Parts of a halved batch may be among them: what is held of it waits for a later acceptance.
        self.halved.clear();
        let end = records.end().unwrap_or(0);
        if end > self.next {
            self.next = end;
        }
        let waiting = std::mem::take(&mut self.waiting);
        for task in waiting.into_values() {
            let left = task.records.without(records);
            // Without one of its records a sealed batch is still asked for: the destination may hold it whole.
            self.wait(Task {
                records: left,
                ..task
            });
        }
        self.condemned
            .retain(|number, _| !records.contains(*number));
        self.close(records, fate);
    }

    /// The records below `end` that are not done, if none of them is in an open attempt: what overtaking the sink to
    /// there gives up. Record the gap, then call [`InFlight::overtake`].
    pub fn unconfirmed_below(&self, end: u64) -> Option<Numbers> {
        if self.open_below(end) {
            return None;
        }
        let mut done = Numbers::default();
        for (first, (end, _)) in &self.done {
            done.push_range(*first..*end);
        }
        Some(Numbers::range(self.cursor()..end.max(self.cursor())).without(&done))
    }

    /// Gives up everything below `end` that is not done.
    pub fn overtake(&mut self, end: u64) {
        let Some(records) = self.unconfirmed_below(end) else {
            return;
        };
        self.refusals.forget_below(end);
        self.lost(&records);
    }

    fn open_task(&mut self, task: Task) -> u64 {
        let seq = self.seq;
        self.seq += 1;
        self.open.insert(seq, task);
        seq
    }

    fn wait(&mut self, task: Task) {
        if !task.records.is_empty() {
            self.waiting.insert(task.first(), task);
        }
    }

    fn wait_again(&mut self, records: Vec<u64>) {
        let records: Numbers = records.into_iter().collect();
        let in_doubt = records
            .first()
            .is_some_and(|first| first < self.refused_in_doubt_end);
        self.wait(Task::new(records, in_doubt));
    }

    fn split(&mut self, seq: u64, task: Task, verdict: Rejection) -> Finish {
        if task.records.len() == 1 {
            let except = vec![(task.first(), Verdict::Rejected(verdict))];
            return self.delivered(seq, task, None, except, Vec::new());
        }
        let of = task.records.len();
        let halved = task.halved.unwrap_or(seq);
        self.halved.entry(halved).or_insert(Halved {
            of,
            undecided: of,
            accepted: 0,
        });
        let (lower, upper) = task.records.halves();
        for records in [lower, upper] {
            self.wait(Task {
                of: records.len(),
                records,
                seal: None,
                seal_of: 0,
                halved: Some(halved),
                siblings_accepted: false,
                marks: 0,
                ..task.clone()
            });
        }
        Finish {
            outcome: "split",
            ..Finish::default()
        }
    }

    fn delivered(
        &mut self,
        seq: u64,
        task: Task,
        mark: Option<Vec<u8>>,
        except: Vec<(u64, Verdict)>,
        alarms: Vec<Alarm>,
    ) -> Finish {
        let stranger = except.iter().find(|(n, _)| !task.records.contains(*n));
        if let Some((number, _)) = stranger {
            let reason = format!("the sink reported on record {number}, not in its batch");
            return self.disbelieve(task, reason, alarms);
        }
        let stored = task
            .records
            .without(&except.iter().map(|(number, _)| *number).collect());
        self.close(&stored, Fate::Delivered);
        let siblings_accepted = task.siblings_accepted || !stored.is_empty();
        let sorted = Sorted::from(except, task.form);
        let fallback = !sorted.fallback.is_empty();
        for (form, records, in_doubt) in [
            (task.form, sorted.again, sorted.in_doubt),
            (Form::Fallback, sorted.fallback, false),
        ] {
            let in_doubt = task.in_doubt || in_doubt;
            self.wait(Task {
                records,
                form,
                in_doubt,
                seal: None,
                seal_of: 0,
                siblings_accepted,
                halved: task.halved,
                marks: 0,
                of: task.of,
            });
        }
        let rejected = fallback || !sorted.refused.is_empty() || !sorted.beyond_limits.is_empty();
        let beyond_limits = sorted.beyond_limits.len() as u64;
        self.condemned.extend(sorted.beyond_limits);
        let decided = stored.len() + sorted.refused.len() as u64 + beyond_limits;
        let stop = self.judge(seq, &task, stored.len(), sorted.refused);
        let stop = stop.or_else(|| self.decide_halved(task.halved, decided, stored.len()));
        let outcome = match (&stop, &sorted.retry, rejected) {
            (Some(_), _, _) => "stopped",
            (_, Some(_), _) => "retry",
            (_, _, true) => "rejected",
            _ => "delivered",
        };
        let retry = sorted.retry.map(|reason| (None, reason));
        let leftover = retry.is_some() && stored.is_empty() && task.siblings_accepted;
        Finish {
            accepted: stored.len(),
            retry,
            leftover,
            stop,
            mark,
            mark_first: false,
            alarms,
            outcome,
        }
    }

    /// Who names a record that was not in the batch may have left out one that was: all of it goes again, in doubt.
    fn disbelieve(&mut self, task: Task, reason: String, alarms: Vec<Alarm>) -> Finish {
        self.wait(Task {
            in_doubt: true,
            ..task
        });
        let retry = Some((None, reason));
        Finish {
            retry,
            alarms,
            outcome: "retry",
            ..Finish::default()
        }
    }

    /// Holds, condemns or sends again what was refused; why the sink is to stop, if it is.
    fn judge(
        &mut self,
        seq: u64,
        task: &Task,
        accepted: u64,
        refused: Vec<(u64, Rejection)>,
    ) -> Option<String> {
        if let (true, Some((last, _))) = (task.in_doubt, refused.last()) {
            self.refused_in_doubt_end = self.refused_in_doubt_end.max(last + 1);
        }
        let judgement = self.refusals.judge(Answer {
            seq,
            accepted,
            siblings_accepted: task.siblings_accepted,
            of: task.of,
            halved: task.halved,
            refused,
        });
        self.act(judgement)
    }

    /// A part of a halved batch was decided. With the last part, what was refused of the whole is judged by what was
    /// accepted of it.
    fn decide_halved(&mut self, batch: Option<u64>, decided: u64, accepted: u64) -> Option<String> {
        let batch = batch?;
        let halved = self.halved.get_mut(&batch)?;
        halved.undecided = halved.undecided.saturating_sub(decided);
        halved.accepted += accepted;
        if halved.undecided > 0 {
            return None;
        }
        let halved = self.halved.remove(&batch)?;
        let judgement = self
            .refusals
            .judge_halved(batch, halved.of, halved.accepted);
        self.act(judgement)
    }

    /// Condemns, or sends again; why the sink is to stop, if it is.
    fn act(&mut self, judgement: Judgement) -> Option<String> {
        self.condemned.extend(judgement.condemned);
        let (reason, records) = judgement.systematic?;
        self.wait_again(records);
        Some(reason)
    }

    /// Books records as done and moves the cursor over what is done without a break.
    fn close(&mut self, records: &Numbers, fate: Fate) {
        if fate != Fate::Delivered {
            self.unstored = self.unstored.with(records);
        }
        for range in records.ranges() {
            let count = range.end - range.start;
            let counts = match fate {
                Fate::Delivered => Counts {
                    delivered: count,
                    ..Counts::default()
                },
                Fate::DeadLetter => Counts {
                    dead_letter: count,
                    ..Counts::default()
                },
                Fate::Gap => Counts {
                    gap: count,
                    ..Counts::default()
                },
            };
            self.close_range(range, counts);
        }
        while let Some(entry) = self.done.first_entry() {
            if *entry.key() != self.record.cursor {
                break;
            }
            let (end, counts) = entry.remove();
            self.record.cursor = end;
            self.record.delivered += counts.delivered;
            self.record.dead_letter += counts.dead_letter;
            self.record.gap += counts.gap;
        }
        assert_eq!(
            self.record.cursor,
            self.record.delivered
                + self.record.not_selected
                + self.record.dead_letter
                + self.record.gap,
            "the law of a sink's counts"
        );
    }

    /// Adjacent ranges become one, so that a pinned cursor costs no memory however far the sink goes on.
    fn close_range(&mut self, range: std::ops::Range<u64>, mut counts: Counts) {
        let (mut first, mut end) = (range.start, range.end);
        if let Some((&before, &(before_end, before_counts))) = self.done.range(..first).next_back()
            && before_end == first
        {
            counts.add(before_counts);
            first = before;
        }
        if let Some((behind_end, behind_counts)) = self.done.remove(&end) {
            counts.add(behind_counts);
            end = behind_end;
        }
        self.done.insert(first, (end, counts));
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod sealed;
