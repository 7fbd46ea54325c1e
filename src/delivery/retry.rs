//! When a sink may try again: one gate for the whole sink, so that a destination in trouble sees one attempt at a
//! time and the backlog then drains in order. Pure: time and randomness are parameters.
//!
//! Not here: what is sent next (`in_flight`) and whether an event is refused for good (`refusal`).
//!
//! Rules (design D7): full jitter under a ceiling that doubles from 1 s to 60 s; `Retry-After` is honoured up to
//! 300 s; there is no limit in time. A stopped sink probes every 8 s and at once when its secrets changed. A gate
//! that is not open lets one attempt through when its time has come, and only what was accepted opens it.

use std::time::Duration;

/// The greatest ceiling of the backoff.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The ceiling after the first failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Full jitter can give nothing at all; a destination is never asked again sooner than this.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// A destination that asks for longer is asked again after this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Between the probes of a stopped sink, so that it goes on within 10 s once it is mended.
pub const PROBE_EVERY: Duration = Duration::from_secs(8);

/// A small generator for jitter: SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Equal seeds give equal delays.
    pub fn new(seed: u64) -> Self {
        Jitter(seed)
    }

    /// Uniform between nothing and `ceiling`.
    pub fn below(&mut self, ceiling: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(z) * u128::from(nanos)) >> 64) as u64)
    }
}

/// How many attempts may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// As many as the sink's concurrency allows.
    Any,
    /// One, and only when none is out: it decides whether the gate opens.
    One,
    /// None before this moment (monotonic).
    NotBefore(Duration),
    /// None until the attempt that is out has ended.
    Probing,
}

/// Which closing of the gate an attempt started under: what an older attempt reports says nothing about now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Backoff {
        until: Duration,
        probing: bool,
    },
    Stopped {
        until: Duration,
        probing: bool,
        reason: String,
    },
}

/// The gate of one sink.
#[derive(Debug)]
pub struct Retry {
    gate: Gate,
    streak: u32,
    epoch: u64,
    jitter: Jitter,
}

impl Retry {
    /// An open gate.
    pub fn new(jitter: Jitter) -> Self {
        Retry {
            gate: Gate::Open,
            streak: 0,
            epoch: 0,
            jitter,
        }
    }

    /// Whether an attempt may start.
    pub fn permit(&self, now: Duration) -> Permit {
        match &self.gate {
            Gate::Open => Permit::Any,
            Gate::Backoff { probing: true, .. } | Gate::Stopped { probing: true, .. } => {
                Permit::Probing
            }
            Gate::Backoff { until, .. } | Gate::Stopped { until, .. } if now < *until => {
                Permit::NotBefore(*until)
            }
            Gate::Backoff { .. } | Gate::Stopped { .. } => Permit::One,
        }
    }

    /// An attempt starts; hand the epoch back with what became of it.
    pub fn started(&mut self) -> Epoch {
        match &mut self.gate {
            Gate::Open => {}
            Gate::Backoff { probing, .. } | Gate::Stopped { probing, .. } => *probing = true,
        }
        Epoch(self.epoch)
    }

    /// Something was accepted. An attempt from before the gate closed does not open it.
    pub fn accepted(&mut self, epoch: Epoch) {
        if epoch.0 == self.epoch {
            self.gate = Gate::Open;
            self.streak = 0;
            self.epoch += 1;
        }
    }

    /// An attempt was answered, but nothing was accepted or failed (a split, a mark to be stored, a refusal that is
    /// still to be judged): the next one may start at once. A stopped sink stays stopped.
    pub fn answered(&mut self, epoch: Epoch, now: Duration) {
        match &mut self.gate {
            Gate::Open => {}
            Gate::Backoff { .. } if epoch.0 == self.epoch => self.accepted(epoch),
            Gate::Backoff { .. } => {}
            Gate::Stopped { until, probing, .. } if epoch.0 == self.epoch => {
                *probing = false;
                *until = now;
            }
            Gate::Stopped { .. } => {}
        }
    }

    /// An attempt, or a part of one, is to be made again. A stopped sink stays stopped and probes on.
    pub fn failed(&mut self, epoch: Epoch, now: Duration, after: Option<Duration>) {
        let after = after.map_or(Duration::ZERO, |a| a.min(RETRY_AFTER_MAX));
        let current = epoch.0 == self.epoch;
        if let Gate::Stopped { until, probing, .. } = &mut self.gate {
            if current {
                *probing = false;
                *until = now + after.max(PROBE_EVERY);
            }
            return;
        }
        if let (Gate::Backoff { until, .. }, false) = (&mut self.gate, current) {
            // One of several attempts that failed together: one failure, but the longest wait that was asked for.
            *until = (*until).max(now + after);
            return;
        }
        self.streak = self.streak.saturating_add(1);
        let delay = self
            .jitter
            .below(ceiling(self.streak))
            .max(BACKOFF_MIN)
            .max(after);
        self.epoch += 1;
        self.gate = Gate::Backoff {
            until: now + delay,
            probing: false,
        };
    }

    /// The configuration or the credentials are wrong, or everything is refused: only probes from now on. Whether
    /// this is news: what is wrong may change while it is stopped (first the password, then the index template).
    pub fn stop(&mut self, now: Duration, reason: String) -> bool {
        let news = self.stopped().is_none_or(|before| before != reason);
        self.epoch += 1;
        self.gate = Gate::Stopped {
            until: now + PROBE_EVERY,
            probing: false,
            reason,
        };
        news
    }

    /// A stopped sink probes at once.
    pub fn secrets_changed(&mut self, now: Duration) {
        if let Gate::Stopped {
            until,
            probing: false,
            ..
        } = &mut self.gate
        {
            *until = (*until).min(now);
        }
    }

    /// The probe that was out is not coming back (nothing was left to send).
    pub fn withdrawn(&mut self, epoch: Epoch) {
        if epoch.0 == self.epoch
            && let Gate::Backoff { probing, .. } | Gate::Stopped { probing, .. } = &mut self.gate
        {
            *probing = false;
        }
    }

    /// Why it is stopped.
    pub fn stopped(&self) -> Option<&str> {
        match &self.gate {
            Gate::Stopped { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// When the next attempt may start, where the gate is not open.
    pub fn retry_at(&self) -> Option<Duration> {
        match &self.gate {
            Gate::Open => None,
            Gate::Backoff { until, .. } | Gate::Stopped { until, .. } => Some(*until),
        }
    }
}

/// The greatest wait after this many failures in a row.
fn ceiling(streak: u32) -> Duration {
    let doublings = streak.saturating_sub(1).min(16);
    (BACKOFF_FIRST * 2u32.pow(doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn gate(seed: u64) -> Retry {
        Retry::new(Jitter::new(seed))
    }

    /// Fails `times` times in a row, each as soon as the gate lets it; the waits.
    fn waits(seed: u64, times: usize, after: Option<Duration>) -> Vec<Duration> {
        let mut retry = gate(seed);
        let mut now = s(100);
        let mut waits = Vec::new();
        for _ in 0..times {
            let epoch = retry.started();
            retry.failed(epoch, now, after);
            let Permit::NotBefore(until) = retry.permit(now) else {
                panic!("open after a failure")
            };
            waits.push(until - now);
            now = until;
            assert_eq!(retry.permit(now), Permit::One);
        }
        waits
    }

    #[test]
    fn the_wait_is_spread_under_a_ceiling_that_doubles_to_sixty_seconds() {
        let all: Vec<_> = (0..500).map(|seed| waits(seed, 12, None)).collect();
        for (n, ceiling) in [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
            .into_iter()
            .enumerate()
        {
            let longest = all.iter().map(|w| w[n]).max().unwrap();
            let shortest = all.iter().map(|w| w[n]).min().unwrap();
            assert!(
                longest <= s(ceiling) && longest > s(ceiling) * 9 / 10,
                "{n}: {longest:?}"
            );
            assert!(
                shortest < s(ceiling) / 10,
                "{n}: {shortest:?} is not full jitter"
            );
            assert!(shortest >= BACKOFF_MIN);
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_three_hundred_seconds() {
        assert_eq!(waits(1, 1, Some(s(17))), [s(17)]);
        assert_eq!(waits(1, 1, Some(s(86_400))), [s(300)]);
    }

    #[test]
    fn attempts_that_fail_together_count_as_one_failure_and_the_longest_wait() {
        let mut retry = gate(3);
        let epochs: Vec<_> = (0..4).map(|_| retry.started()).collect();
        for epoch in &epochs {
            retry.failed(*epoch, s(1), None);
        }
        assert_eq!(retry.streak, 1);
        retry.failed(epochs[3], s(1), Some(s(40)));
        assert_eq!(retry.retry_at(), Some(s(41)));
    }

    #[test]
    fn success_of_an_attempt_from_before_does_not_open_the_gate() {
        let mut retry = gate(3);
        let (a, b) = (retry.started(), retry.started());
        retry.failed(a, s(1), None);
        retry.accepted(b);
        assert_ne!(retry.permit(s(1)), Permit::Any);
        let probe = retry.started();
        assert_eq!(retry.permit(s(1000)), Permit::Probing);
        retry.accepted(probe);
        assert_eq!(retry.permit(s(1000)), Permit::Any);
    }

    #[test]
    fn a_stopped_sink_probes_every_eight_seconds_until_something_is_accepted() {
        let mut retry = gate(3);
        assert!(retry.stop(s(10), "401".to_owned()));
        assert_eq!(retry.permit(s(10)), Permit::NotBefore(s(18)));
        assert_eq!(retry.permit(s(18)), Permit::One);
        let probe = retry.started();
        assert!(!retry.stop(s(19), "401".to_owned()));
        assert_eq!(retry.permit(s(20)), Permit::NotBefore(s(27)));
        let probe_2 = retry.started();
        retry.accepted(probe);
        assert_eq!(retry.stopped(), Some("401"));
        retry.failed(probe_2, s(28), None);
        assert_eq!(retry.permit(s(28)), Permit::NotBefore(s(36)));
        let probe = retry.started();
        retry.accepted(probe);
        assert_eq!((retry.stopped(), retry.permit(s(36))), (None, Permit::Any));
    }

    #[test]
    fn changed_secrets_let_a_stopped_sink_probe_at_once() {
        let mut retry = gate(3);
        retry.stop(s(10), "401".to_owned());
        retry.secrets_changed(s(11));
        assert_eq!(retry.permit(s(11)), Permit::One);
    }

    #[test]
    fn a_stopped_sink_that_answers_with_a_split_probes_on_at_once_but_stays_stopped() {
        let mut retry = gate(3);
        retry.stop(s(10), "all refused".to_owned());
        let probe = retry.started();
        retry.answered(probe, s(18));
        assert_eq!(retry.permit(s(18)), Permit::One);
        assert_eq!(retry.stopped(), Some("all refused"));
    }
}
