//! Which endpoint the next attempt goes to: round robin over those that work, and a half-open breaker for each that
//! does not. Pure: what happened goes in, a choice comes out; the time is a parameter.
//!
//! Invariants: [`Endpoints::pick`] always gives an endpoint, so that a single one is tried at the pace of delivery's
//! own retries; an endpoint that failed gets one attempt at a time (the probe) until one succeeds; a probe whose end
//! was never reported does not hold its endpoint back for longer than [`PROBE_MAX`].

use std::time::Duration;

/// Failures in a row, short of a refused connection, that open the breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// How long an endpoint is left alone after its breaker opens; doubles with each failed probe.
const OPEN_FIRST: Duration = Duration::from_secs(2);

/// Longest time an endpoint is left alone.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// A probe that has not reported by then was dropped with its attempt; longer than any sensible `timeout`.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// How an attempt found its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered, whatever it said about the batch.
    Answered,
    /// There was no connection: left alone at once.
    Unreachable,
    /// It answered 502, 503 or 504, or the attempt broke off.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Works, as far as known.
    Closed { failures: u32 },
    /// Left alone until `until`; `wait` is how long it was left alone.
    Open { until: Duration, wait: Duration },
    /// One attempt is under way to see whether it works again.
    Probing { since: Duration, wait: Duration },
}

/// The endpoints of one sink, by index.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    states: Vec<State>,
    next: usize,
}

impl Endpoints {
    /// `count` endpoints (at least one), all taken to work.
    pub(super) fn new(count: usize) -> Self {
        Endpoints {
            states: vec![State::Closed { failures: 0 }; count.max(1)],
            next: 0,
        }
    }

    /// The endpoint for the next attempt.
    pub(super) fn pick(&mut self, now: Duration) -> usize {
        let due = self.states.iter().position(|state| match state {
            State::Closed { .. } => false,
            State::Open { until, .. } => *until <= now,
            State::Probing { since, .. } => *since + PROBE_MAX <= now,
        });
        if let Some(index) = due {
            if let State::Open { wait, .. } | State::Probing { wait, .. } = self.states[index] {
                self.states[index] = State::Probing { since: now, wait };
            }
            return index;
        }
        let count = self.states.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            if matches!(self.states[index], State::Closed { .. }) {
                self.next = (index + 1) % count;
                return index;
            }
        }
        // None works: the one that is due first, so that a sink never stands still on account of its breakers.
        let soonest = |state: &State| match state {
            State::Closed { .. } => Duration::ZERO,
            State::Open { until, .. } => *until,
            State::Probing { since, .. } => *since + PROBE_MAX,
        };
        (0..count)
            .min_by_key(|index| soonest(&self.states[*index]))
            .unwrap_or(0)
    }

    /// What came of an attempt at `index`.
    pub(super) fn report(&mut self, index: usize, health: Health, now: Duration) {
        let Some(state) = self.states.get_mut(index) else {
            return;
        };
        *state = match (health, *state) {
            (Health::Answered, _) => State::Closed { failures: 0 },
            (_, State::Open { wait, .. } | State::Probing { wait, .. }) => {
                let wait = (wait * 2).min(OPEN_MAX);
                State::Open {
                    until: now + wait,
                    wait,
                }
            }
            (Health::Failed, State::Closed { failures }) if failures + 1 < FAILURES_TO_OPEN => {
                State::Closed {
                    failures: failures + 1,
                }
            }
            (_, State::Closed { .. }) => State::Open {
                until: now + OPEN_FIRST,
                wait: OPEN_FIRST,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn working_endpoints_take_turns() {
        let mut endpoints = Endpoints::new(3);
        let picks: Vec<usize> = (0..6).map(|_| endpoints.pick(secs(0))).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn an_unreachable_endpoint_is_left_alone_then_probed_once() {
        let mut endpoints = Endpoints::new(2);
        assert_eq!(endpoints.pick(secs(0)), 0);
        endpoints.report(0, Health::Unreachable, secs(0));
        assert_eq!([endpoints.pick(secs(1)), endpoints.pick(secs(1))], [1, 1]);
        assert_eq!(endpoints.pick(secs(2)), 0, "due: one probe");
        assert_eq!(
            [endpoints.pick(secs(2)), endpoints.pick(secs(3))],
            [1, 1],
            "no second probe beside it"
        );
        endpoints.report(0, Health::Failed, secs(3));
        assert_eq!(endpoints.pick(secs(6)), 1, "left alone for twice as long");
        assert_eq!(endpoints.pick(secs(7)), 0);
        endpoints.report(0, Health::Answered, secs(7));
        let picks: Vec<usize> = (0..4).map(|_| endpoints.pick(secs(7))).collect();
        assert!(
            picks.contains(&0) && picks.contains(&1),
            "both take turns again: {picks:?}"
        );
    }

    #[test]
    fn a_few_failures_do_not_open_the_breaker_but_three_in_a_row_do() {
        let mut endpoints = Endpoints::new(2);
        for health in [
            Health::Failed,
            Health::Failed,
            Health::Answered,
            Health::Failed,
            Health::Failed,
        ] {
            endpoints.report(0, health, secs(0));
        }
        assert!((0..2).any(|_| endpoints.pick(secs(0)) == 0));
        endpoints.report(0, Health::Failed, secs(0));
        assert!((0..4).all(|_| endpoints.pick(secs(0)) == 1));
    }

    #[test]
    fn a_single_endpoint_is_always_tried() {
        let mut endpoints = Endpoints::new(1);
        for second in 0..100 {
            assert_eq!(endpoints.pick(secs(second)), 0);
            endpoints.report(0, Health::Unreachable, secs(second));
        }
    }

    #[test]
    fn a_probe_that_never_reports_does_not_hold_its_endpoint_back_for_ever() {
        let mut endpoints = Endpoints::new(2);
        endpoints.report(0, Health::Unreachable, secs(0));
        assert_eq!(endpoints.pick(secs(2)), 0);
        assert_eq!(endpoints.pick(secs(2) + PROBE_MAX - secs(1)), 1);
        assert_eq!(endpoints.pick(secs(2) + PROBE_MAX), 0);
    }

    /// Endpoints that are really up or down, against random attempts: one that is up is found within `OPEN_MAX`,
    /// and one that is down is tried at most once per waiting time while another is up.
    #[test]
    fn random_outages_never_starve_the_endpoints_that_are_up() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(1..5);
            let mut endpoints = Endpoints::new(count);
            let mut up = vec![true; count];
            let mut now = Duration::ZERO;
            let mut failed_in_a_row = 0;
            for _ in 0..300 {
                if random.u8(..) < 8 {
                    let index = random.usize(..count);
                    up[index] = !up[index];
                    failed_in_a_row = 0;
                }
                now += Duration::from_millis(random.u64(0..1_000));
                let index = endpoints.pick(now);
                assert!(index < count);
                let health = match (up[index], random.bool()) {
                    (true, _) => Health::Answered,
                    (false, true) => Health::Unreachable,
                    (false, false) => Health::Failed,
                };
                failed_in_a_row = if up[index] { 0 } else { failed_in_a_row + 1 };
                endpoints.report(index, health, now);
                let ever_closed = endpoints
                    .states
                    .iter()
                    .zip(&up)
                    .any(|(s, up)| *up && matches!(s, State::Closed { .. }));
                if ever_closed {
                    // Each dead endpoint costs FAILURES_TO_OPEN attempts to find out, then one probe per wait.
                    assert!(
                        failed_in_a_row <= 4 * count as u32 * FAILURES_TO_OPEN,
                        "seed {seed}"
                    );
                }
            }
            now += OPEN_MAX;
            up[0] = true;
            let found = (0..=count).any(|_| {
                let index = endpoints.pick(now);
                let health = if up[index] {
                    Health::Answered
                } else {
                    Health::Unreachable
                };
                endpoints.report(index, health, now);
                up[index]
            });
            assert!(
                found,
                "seed {seed}: an endpoint that is up was not found after every wait had passed"
            );
        }
    }
}
