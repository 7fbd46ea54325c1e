//! When a rate limit is smaller than a batch: a push that is larger than the limit's burst is answered 429 for ever, so
//! after a few such answers in a row the batch is halved. Pure.
//!
//! Invariant: a single line is never refused for a rate limit; it waits.

use crate::sinks::{Outcome, Rejection, RejectionKind};

/// 429 to the same batch before it is halved: delivery has waited between them, so it is not the load of the moment.
const IN_A_ROW: u32 = 6;

/// What was answered to the batch that was last refused.
#[derive(Debug, Default)]
pub(super) struct Pace {
    batch: Option<(u64, usize)>,
    refused: u32,
}

impl Pace {
    /// A push was taken.
    pub(super) fn taken(&mut self) {
        *self = Pace::default();
    }

    /// A 429 to the batch with this first record and so many of them: what it means for the batch.
    pub(super) fn refused(&mut self, first: u64, count: usize, outcome: Outcome) -> Outcome {
        if self.batch != Some((first, count)) {
            *self = Pace {
                batch: Some((first, count)),
                refused: 0,
            };
        }
        self.refused += 1;
        match outcome {
            Outcome::Retry { reason, .. } if self.refused >= IN_A_ROW && count > 1 => {
                self.refused = 0;
                Outcome::Split {
                    verdict: Rejection {
                        kind: RejectionKind::TooLarge,
                        class: "rate limit".to_owned(),
                        reason,
                    },
                }
            }
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[(u64, usize)], halved: &[usize]) {
        let mut pace = Pace::default();
        let retry = Outcome::Retry {
            after: None,
            reason: "429".to_owned(),
            in_doubt: true,
        };
        let found: Vec<usize> = (0..answers.len())
            .filter(|at| {
                let (first, count) = answers[*at];
                pace.refused(first, count, retry.clone()) != retry
            })
            .collect();
        assert_eq!(found, halved);
    }

    #[test]
    fn a_batch_that_no_limit_lets_through_is_halved_and_again() {
        check(&[(7, 4); 13], &[5, 11]);
    }

    #[test]
    fn another_batch_begins_anew() {
        let answers = [[(7, 4); 5], [(7, 2); 5], [(9, 2); 5]].concat();
        check(&answers, &[]);
    }

    #[test]
    fn a_single_line_waits_for_ever() {
        check(&[(7, 1); 50], &[]);
    }
}
