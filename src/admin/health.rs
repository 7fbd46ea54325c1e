//! Whether the agent makes progress: pure rules over what sources and sinks are doing.

use std::time::Duration;

/// A sink that retries, or a source that waits, counts as stuck after this long without success.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the probes are answered from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Configuration and positions are loaded and the spool can be written.
    pub started: bool,
    /// Every source.
    pub sources: Vec<SourceHealth>,
    /// Every sink of the configuration.
    pub sinks: Vec<SinkHealth>,
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceHealth {
    /// Its name.
    pub name: String,
    /// What it does.
    pub doing: Doing,
}

/// One sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkHealth {
    /// Its name.
    pub name: String,
    /// `required`: whether readiness depends on it.
    pub required: bool,
    /// What it does.
    pub doing: Doing,
}

/// Whether something makes progress.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// It makes progress or has nothing to do.
    Fine,
    /// It cannot go on now: a sink retries, a source waits for its file or for room in the spool.
    Hindered {
        /// Since the last success, or since it began.
        since: Duration,
        /// One line: what is wrong and what to do.
        reason: String,
    },
    /// It will not go on until somebody mends something: a stopped sink, a failed source.
    Halted {
        /// One line: what is wrong and what to do.
        reason: String,
    },
}

/// Every reason why the agent is not ready, one line each; empty when it is.
pub fn unready(health: &Health) -> Vec<String> {
    if !health.started {
        return vec!["starting: configuration, positions and spool are not loaded yet".to_owned()];
    }
    let sources = health
        .sources
        .iter()
        .map(|source| ("source", &source.name, &source.doing));
    let sinks = health
        .sinks
        .iter()
        .filter(|sink| sink.required)
        .map(|sink| ("sink", &sink.name, &sink.doing));
    let mut reasons = Vec::new();
    for (what, name, doing) in sources.chain(sinks) {
        match doing {
            Doing::Halted { reason } => {
                reasons.push(format!("{what} {name} has stopped: {reason}"))
            }
            Doing::Hindered { since, reason } if *since >= PATIENCE => {
                reasons.push(format!(
                    "{what} {name} has had no success for {} s: {reason}",
                    since.as_secs()
                ));
            }
            Doing::Hindered { .. } | Doing::Fine => {}
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sources: &[Doing], sinks: &[(bool, Doing)], expected: &[&str]) {
        let source = |doing: &Doing| SourceHealth {
            name: "log".into(),
            doing: doing.clone(),
        };
        let sink = |(required, doing): &(bool, Doing)| SinkHealth {
            name: "search".into(),
            required: *required,
            doing: doing.clone(),
        };
        let health = Health {
            started: true,
            sources: sources.iter().map(source).collect(),
            sinks: sinks.iter().map(sink).collect(),
        };
        assert_eq!(unready(&health), expected);
    }

    fn hindered(seconds: u64) -> Doing {
        Doing::Hindered {
            since: Duration::from_secs(seconds),
            reason: "503".into(),
        }
    }

    fn halted() -> Doing {
        Doing::Halted {
            reason: "401: renew the key".into(),
        }
    }

    #[test]
    fn progress_or_nothing_to_do_is_ready() {
        check(&[Doing::Fine], &[(true, Doing::Fine)], &[]);
        check(&[], &[], &[]);
    }

    #[test]
    fn a_stopped_sink_counts_at_once() {
        check(
            &[Doing::Fine],
            &[(true, halted())],
            &["sink search has stopped: 401: renew the key"],
        );
    }

    #[test]
    fn a_retrying_sink_counts_after_thirty_seconds_without_success() {
        check(&[], &[(true, hindered(29))], &[]);
        check(
            &[],
            &[(true, hindered(30))],
            &["sink search has had no success for 30 s: 503"],
        );
    }

    #[test]
    fn a_sink_that_is_not_required_never_counts() {
        check(&[], &[(false, halted()), (false, hindered(100))], &[]);
    }

    #[test]
    fn a_failed_source_counts_at_once_and_every_reason_is_given() {
        check(
            &[halted(), hindered(31)],
            &[(true, hindered(31))],
            &[
                "source log has stopped: 401: renew the key",
                "source log has had no success for 31 s: 503",
                "sink search has had no success for 31 s: 503",
            ],
        );
    }

    #[test]
    fn before_the_start_is_done_nothing_is_ready() {
        assert_eq!(unready(&Health::default()).len(), 1);
    }
}
