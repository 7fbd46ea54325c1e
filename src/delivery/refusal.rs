//! The rule of systematic refusal (design D7): is it the event that is bad, or the destination? Pure.
//!
//! A refused event becomes a dead letter only when the destination accepted another one in the same batch or in an
//! attempt that started later; of a batch that was halved, when all its parts are decided. Until then it is *held*:
//! pending, blocking nobody but the cursor. Twenty held for one reason, a hundred held for any, or twenty and half of one
//! batch, are the destination's doing: the sink stops and nothing of it becomes a dead letter.
//!
//! A single refused event at the end of the log, with nothing accepted behind it, is held until something is. When
//! the sink has nothing else to send it sends the held ones again, every 8 s: each time they may be accepted, and
//! the status says why they wait. `--once` ends such a wait by its give-up rule, with exit 1, and the next run goes
//! on from there. To dead-letter it at once would be to trust a destination that has not shown that it takes anything.

use std::collections::BTreeMap;

use crate::sinks::Rejection;

/// Refused for one reason without an acceptance in between: the sink stops.
pub const SYSTEMATIC: usize = 20;
/// Refused for any reasons without an acceptance in between: the bound of what is held.
const HELD_MAX: usize = 100;

/// What one attempt showed.
#[derive(Debug, Default)]
pub struct Answer {
    /// The attempt's number; later attempts have greater ones.
    pub seq: u64,
    /// Records accepted by it.
    pub accepted: u64,
    /// Whether an earlier attempt of the same batch accepted some (this one carries what was left of it).
    pub siblings_accepted: bool,
    /// Records of the batch that this attempt is all or a part of.
    pub of: u64,
    /// The batch that was halved, of which this attempt is a part.
    pub halved: Option<u64>,
    /// Refused for good, their fallback too.
    pub refused: Vec<(u64, Rejection)>,
}

/// What follows from it.
#[derive(Debug, Default, PartialEq)]
pub struct Judgement {
    /// These are to become dead letters.
    pub condemned: Vec<(u64, Rejection)>,
    /// The destination is at fault, for this reason; these records (all that were held, too) stay pending.
    pub systematic: Option<(String, Vec<u64>)>,
}

#[derive(Debug)]
struct Held {
    /// The attempt that refused it.
    seq: u64,
    halved: Option<u64>,
    rejection: Rejection,
}

/// Refused records that wait for an acceptance.
#[derive(Debug, Default)]
pub struct Refusals {
    held: BTreeMap<u64, Held>,
    accepted_seq: Option<u64>,
}

impl Refusals {
    /// Judges what one attempt showed.
    pub fn judge(&mut self, answer: Answer) -> Judgement {
        let refused = answer.refused.len();
        if refused >= SYSTEMATIC && 2 * refused as u64 >= answer.of {
            let (_, rejection) = &answer.refused[0];
            let reason = format!(
                "{refused} of {} events of one batch were refused: {}",
                answer.of,
                words(rejection)
            );
            return self.systematic(reason, answer.refused);
        }
        if answer.accepted > 0 {
            self.accepted_seq = self.accepted_seq.max(Some(answer.seq));
        }
        let mut condemned = Vec::new();
        if let Some(accepted) = self.accepted_seq {
            // Held ones are few (`HELD_MAX`), so looking at all of them is cheap.
            let later: Vec<u64> = self
                .held
                .iter()
                .filter(|(_, held)| held.seq <= accepted)
                .map(|(n, _)| *n)
                .collect();
            for number in later {
                condemned.extend(
                    self.held
                        .remove(&number)
                        .map(|held| (number, held.rejection)),
                );
            }
        }
        if answer.siblings_accepted
            || self
                .accepted_seq
                .is_some_and(|accepted| answer.seq <= accepted)
        {
            condemned.extend(answer.refused);
            condemned.sort_by_key(|(number, _)| *number);
            return Judgement {
                condemned,
                systematic: None,
            };
        }
        for (number, rejection) in answer.refused {
            let held = Held {
                seq: answer.seq,
                halved: answer.halved,
                rejection,
            };
            self.held.insert(number, held);
        }
        match self.too_many() {
            Some(reason) => self.systematic(reason, Vec::new()),
            None => Judgement {
                condemned,
                systematic: None,
            },
        }
    }

    /// All parts of a halved batch of `of` records are decided, so many of them accepted: judges what is held of it.
    pub fn judge_halved(&mut self, batch: u64, of: u64, accepted: u64) -> Judgement {
        let of_it = |held: &Held| held.halved == Some(batch);
        let refused = self.held.values().filter(|held| of_it(held)).count();
        if accepted == 0 || refused == 0 {
            return Judgement::default();
        }
        if refused >= SYSTEMATIC && 2 * refused as u64 >= of {
            let one = self.held.values().find(|held| of_it(held));
            let reason = format!(
                "{refused} of {of} events of one batch were refused: {}",
                one.map(|held| words(&held.rejection)).unwrap_or_default()
            );
            return self.systematic(reason, Vec::new());
        }
        let (condemned, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(_, held)| of_it(held));
        self.held = held;
        let condemned: BTreeMap<u64, Held> = condemned;
        Judgement {
            condemned: condemned
                .into_iter()
                .map(|(number, held)| (number, held.rejection))
                .collect(),
            systematic: None,
        }
    }

    /// Gives up all that is held, to be sent again.
    pub fn take_held(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.held).into_keys().collect()
    }

    /// These records are in a gap now.
    pub fn forget_below(&mut self, record: u64) -> Vec<u64> {
        let kept = self.held.split_off(&record);
        std::mem::replace(&mut self.held, kept)
            .into_keys()
            .collect()
    }

    /// How many wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Their numbers, ascending.
    #[cfg(test)]
    pub fn held_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.keys().copied()
    }

    /// One line on why they wait.
    pub fn why(&self) -> Option<String> {
        let (number, Held { rejection, .. }) = self.held.first_key_value()?;
        Some(format!(
            "{} refused, the first is record {number} ({}): waiting for the destination to accept any other event",
            self.held.len(),
            words(rejection)
        ))
    }

    fn too_many(&self) -> Option<String> {
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for Held { rejection, .. } in self.held.values() {
            let count = classes.entry(rejection.class.as_str()).or_default();
            *count += 1;
            if *count >= SYSTEMATIC {
                return Some(format!(
                    "{count} events in a row were refused: {}",
                    words(rejection)
                ));
            }
        }
        let (_, Held { rejection, .. }) = self.held.first_key_value()?;
        (self.held.len() >= HELD_MAX).then(|| {
            format!(
                "{} events in a row were refused, one of them: {}",
                self.held.len(),
                words(rejection)
            )
        })
    }

    fn systematic(&mut self, reason: String, refused: Vec<(u64, Rejection)>) -> Judgement {
        let mut records = self.take_held();
        records.extend(refused.into_iter().map(|(number, _)| number));
        records.sort_unstable();
        Judgement {
            condemned: Vec::new(),
            systematic: Some((reason, records)),
        }
    }
}

fn words(rejection: &Rejection) -> String {
    if rejection.reason.is_empty() {
        return rejection.class.clone();
    }
    format!("{}: {}", rejection.class, rejection.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::RejectionKind;

    fn no(class: &str) -> Rejection {
        Rejection {
            kind: RejectionKind::Refused,
            class: class.to_owned(),
            reason: String::new(),
        }
    }

    fn refused(
        seq: u64,
        accepted: u64,
        of: u64,
        records: std::ops::Range<u64>,
        class: &str,
    ) -> Answer {
        Answer {
            seq,
            accepted,
            of,
            halved: None,
            siblings_accepted: false,
            refused: records.map(|n| (n, no(class))).collect(),
        }
    }

    fn numbers(judgement: &Judgement) -> Vec<u64> {
        assert_eq!(judgement.systematic, None);
        judgement.condemned.iter().map(|(n, _)| *n).collect()
    }

    #[test]
    fn a_refused_event_is_condemned_with_another_accepted_in_its_batch() {
        let judgement = Refusals::default().judge(refused(0, 9, 10, 4..5, "a"));
        assert_eq!(numbers(&judgement), [4]);
    }

    #[test]
    fn a_refused_event_alone_waits_for_a_later_acceptance() {
        let mut refusals = Refusals::default();
        assert_eq!(
            numbers(&refusals.judge(refused(5, 0, 1, 4..5, "a"))),
            [] as [u64; 0]
        );
        assert!(refusals.why().unwrap().contains("record 4 (a)"));
        // Started before the refused one: says nothing about the destination after it.
        assert_eq!(
            numbers(&refusals.judge(refused(3, 1, 1, 0..0, "a"))),
            [] as [u64; 0]
        );
        assert_eq!(numbers(&refusals.judge(refused(6, 1, 1, 0..0, "a"))), [4]);
        assert_eq!(refusals.held(), 0);
    }

    #[test]
    fn a_refusal_that_is_reported_after_a_later_attempt_was_accepted_is_condemned() {
        let mut refusals = Refusals::default();
        refusals.judge(refused(6, 1, 1, 0..0, "a"));
        assert_eq!(numbers(&refusals.judge(refused(5, 0, 1, 4..5, "a"))), [4]);
    }

    #[test]
    fn what_is_left_of_a_batch_counts_with_its_siblings() {
        let mut refusals = Refusals::default();
        let answer = Answer {
            siblings_accepted: true,
            ..refused(1, 0, 100, 30..55, "a")
        };
        assert_eq!(
            numbers(&refusals.judge(answer)),
            (30..55).collect::<Vec<_>>()
        );
    }

    #[test]
    fn twenty_refused_in_a_row_across_batches_stop_the_sink_and_condemn_nobody() {
        let mut refusals = Refusals::default();
        for n in 0..19 {
            assert_eq!(
                refusals.judge(refused(n, 0, 1, n..n + 1, "a")),
                Judgement::default()
            );
        }
        let (reason, records) = refusals
            .judge(refused(19, 0, 1, 19..20, "a"))
            .systematic
            .unwrap();
        assert!(reason.contains("20 events in a row"), "{reason}");
        assert_eq!(records, (0..20).collect::<Vec<_>>());
        assert_eq!(refusals.held(), 0);
    }

    #[test]
    fn an_acceptance_in_between_begins_the_row_anew() {
        let mut refusals = Refusals::default();
        for n in 0..100 {
            let accepted = u64::from(n % 15 == 14);
            assert_eq!(
                refusals
                    .judge(refused(n, accepted, 2, n..n + 1, "a"))
                    .systematic,
                None,
                "{n}"
            );
        }
    }

    #[test]
    fn twenty_of_different_reasons_do_not_stop_it_but_a_hundred_do() {
        let mut refusals = Refusals::default();
        for n in 0..99 {
            assert_eq!(
                refusals.judge(refused(n, 0, 1, n..n + 1, &format!("class {n}"))),
                Judgement::default()
            );
        }
        assert!(
            refusals
                .judge(refused(99, 0, 1, 99..100, "other"))
                .systematic
                .is_some()
        );
    }

    #[test]
    fn twenty_and_half_of_one_batch_stop_it_though_the_others_were_accepted() {
        assert!(
            Refusals::default()
                .judge(refused(0, 20, 40, 0..20, "a"))
                .systematic
                .is_some()
        );
        assert_eq!(
            numbers(&Refusals::default().judge(refused(0, 21, 41, 0..20, "a"))).len(),
            20
        );
        assert_eq!(
            numbers(&Refusals::default().judge(refused(0, 1, 20, 0..19, "a"))).len(),
            19
        );
    }
}
