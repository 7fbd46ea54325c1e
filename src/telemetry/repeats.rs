//! Holds back a log line that keeps coming: the first few of a kind are shown, then one in a while, with the number
//! that were not. Pure: the time is handed in.

use std::collections::HashMap;
use std::time::Duration;

/// What is known of each kind of line. At most [`Repeats::KINDS_MAX`] kinds are remembered.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    kinds: HashMap<u64, Kind>,
}

#[derive(Debug)]
struct Kind {
    /// When the present window began.
    since: Duration,
    /// Shown in it.
    shown: u32,
    /// Held back since the last one that was shown.
    held: u64,
}

impl Repeats {
    /// Shown of one kind within [`Repeats::WINDOW`].
    pub(super) const BURST: u32 = 5;

    /// After this long a kind has its whole burst again.
    pub(super) const WINDOW: Duration = Duration::from_secs(30);

    const KINDS_MAX: usize = 512;

    /// Whether a line of this kind is shown now; then with how many that were held back before it.
    pub(super) fn admit(&mut self, kind: u64, now: Duration) -> Option<u64> {
        if self.kinds.len() >= Self::KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.kinds
                .retain(|_, kind| now.saturating_sub(kind.since) < Self::WINDOW);
            if self.kinds.len() >= Self::KINDS_MAX {
                // Too many kinds at once to judge: showing is the safe side.
                return Some(0);
            }
        }
        let kind = self.kinds.entry(kind).or_insert(Kind {
            since: now,
            shown: 0,
            held: 0,
        });
        if now.saturating_sub(kind.since) >= Self::WINDOW {
            (kind.since, kind.shown) = (now, 0);
        }
        if kind.shown == Self::BURST {
            kind.held += 1;
            return None;
        }
        kind.shown += 1;
        Some(std::mem::take(&mut kind.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_keeps_coming_is_shown_a_few_times_a_window_with_the_number_held_back() {
        let mut repeats = Repeats::default();
        let at = Duration::from_secs;
        let shown: Vec<_> = (0..8).map(|_| repeats.admit(1, at(1))).collect();
        assert_eq!(
            shown,
            [
                Some(0),
                Some(0),
                Some(0),
                Some(0),
                Some(0),
                None,
                None,
                None
            ]
        );
        assert_eq!(
            repeats.admit(2, at(2)),
            Some(0),
            "another kind has its own burst"
        );
        assert_eq!(repeats.admit(1, at(30)), None);
        assert_eq!(repeats.admit(1, at(31)), Some(4));
        assert_eq!(repeats.admit(1, at(31)), Some(0));
    }

    #[test]
    fn memory_is_bounded_and_doubt_shows_the_line() {
        let mut repeats = Repeats::default();
        for kind in 0..10_000 {
            assert_eq!(repeats.admit(kind, Duration::from_secs(1)), Some(0));
        }
        assert!(repeats.kinds.len() <= Repeats::KINDS_MAX);
        assert_eq!(repeats.admit(20_000, Duration::from_secs(60)), Some(0));
        assert_eq!(repeats.kinds.len(), 1, "old kinds make room");
    }
}
