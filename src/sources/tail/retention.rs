//! How long until the API server's rotation deletes what is not read yet. An estimate for people and for the decision
//! of design D3; nothing is deleted here.

use std::time::Duration;

use super::backlog::Stamp;

/// The API server's flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// `--audit-log-maxbackup`; 0 or `None`: no limit.
    pub backups: Option<u64>,
    /// `--audit-log-maxage`; `None`: no limit.
    pub age: Option<Duration>,
    /// `--audit-log-maxsize`, bytes.
    pub size: Option<u64>,
}

/// What the estimate is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present<'a> {
    /// Backups that are listed, oldest first; with whether each was read.
    pub(super) backups: &'a [(Stamp, bool)],
    /// Bytes of the live file.
    pub(super) live_size: u64,
    /// Wall clock, milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
}

impl Retention {
    /// Seconds until the oldest unread backup is deleted; `None` where there is none or it cannot be told.
    pub(super) fn seconds_until_loss(&self, present: Present<'_>) -> Option<f64> {
        let oldest = present.backups.iter().position(|(_, read)| !read)?;
        let by_age = self.age.map(|age| {
            let deleted_at = present.backups[oldest].0.millis() as f64 / 1000.0 + age.as_secs_f64();
            (deleted_at - present.now_ms as f64 / 1000.0).max(0.0)
        });
        let by_count = self
            .backups
            .filter(|backups| *backups > 0)
            .and_then(|backups| {
                // Itself and those behind it; the next rotation adds one more.
                let kept = (present.backups.len() - oldest) as u64;
                let rotations = (backups + 1).saturating_sub(kept);
                Some(self.seconds_until(rotations, present)?.max(0.0))
            });
        match (by_age, by_count) {
            (Some(age), Some(count)) => Some(age.min(count)),
            (age, count) => age.or(count),
        }
    }

    /// Seconds until so many more rotations have happened, at the pace of the last eight.
    fn seconds_until(&self, rotations: u64, present: Present<'_>) -> Option<f64> {
        if rotations == 0 {
            return Some(0.0);
        }
        let recent = &present.backups[present.backups.len().saturating_sub(9)..];
        let (first, last) = (recent.first()?.0.millis(), recent.last()?.0.millis());
        let since_last = (present.now_ms - last).max(0) as f64 / 1000.0;
        let intervals = recent.len() - 1;
        if intervals > 0 && last > first {
            let interval = (last - first) as f64 / 1000.0 / intervals as f64;
            return Some(rotations as f64 * interval - since_last.min(interval));
        }
        // A single backup: the pace at which the live file has grown since.
        let size = self.size? as f64;
        if present.live_size == 0 || since_last <= 0.0 {
            return None;
        }
        let rate = present.live_size as f64 / since_last;
        Some((rotations as f64 * size - present.live_size as f64) / rate)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::backlog::LogNames;
    use super::*;

    const LIMITS: Retention = Retention {
        backups: Some(3),
        age: None,
        size: Some(1000),
    };

    /// Backups a minute apart from 03:00, the first `read` of them read; `now` seconds after 03:00.
    fn check(
        retention: Retention,
        backups: usize,
        read: usize,
        live_size: u64,
        now: i64,
    ) -> Option<f64> {
        let names = LogNames::new(Path::new("audit.log")).unwrap();
        let stamps: Vec<_> = (0..backups)
            .map(|i| {
                let name = names
                    .parse(&format!("audit-2026-01-01T03-0{i}-00.000.log"))
                    .unwrap();
                (name.stamp().unwrap(), i < read)
            })
            .collect();
        let start = names
            .parse("audit-2026-01-01T03-00-00.000.log")
            .unwrap()
            .stamp()
            .unwrap()
            .millis();
        retention.seconds_until_loss(Present {
            backups: &stamps,
            live_size,
            now_ms: start + now * 1000,
        })
    }

    #[test]
    fn nothing_unread_or_no_retention_is_unknown() {
        assert_eq!(check(LIMITS, 3, 3, 0, 130), None);
        assert_eq!(check(LIMITS, 0, 0, 0, 130), None);
        assert_eq!(check(Retention::default(), 3, 0, 0, 130), None);
    }

    #[test]
    fn count_is_reckoned_at_the_pace_of_the_last_rotations() {
        // Three are kept and there are three: the next rotation, a minute after the last at 03:02, deletes the first.
        assert_eq!(check(LIMITS, 3, 0, 0, 130), Some(50.0));
        assert_eq!(check(LIMITS, 3, 1, 0, 130), Some(110.0));
        // The mill has fallen behind.
        assert_eq!(check(LIMITS, 5, 0, 0, 250), Some(0.0));
    }

    #[test]
    fn one_backup_is_reckoned_by_the_growth_of_the_live_file() {
        // 100 bytes in 10 s; three more rotations are 3000 bytes.
        assert_eq!(check(LIMITS, 1, 0, 100, 10), Some(290.0));
        assert_eq!(check(LIMITS, 1, 0, 0, 10), None);
    }

    #[test]
    fn age_counts_from_the_time_in_the_name() {
        let age = Retention {
            age: Some(Duration::from_secs(100)),
            ..Retention::default()
        };
        assert_eq!(check(age, 2, 0, 0, 70), Some(30.0));
        assert_eq!(check(age, 2, 0, 0, 170), Some(0.0));
        assert_eq!(
            check(
                Retention {
                    backups: Some(3),
                    ..age
                },
                2,
                0,
                0,
                70
            ),
            Some(30.0)
        );
    }
}
