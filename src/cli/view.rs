//! What the admin listener shows of the running agent.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::View;
use crate::admin::health::{Doing, Health, SinkHealth, SourceHealth};
use crate::delivery::{SinkReport, State};
use crate::pipeline::overview::{Overview, SourceWatch};
use crate::sources::SourceState;
use crate::telemetry::status::Status;

/// The agent, seen by the listener.
pub(super) struct AgentView {
    overview: Arc<Overview>,
}

impl AgentView {
    pub(super) fn new(overview: Arc<Overview>) -> Self {
        AgentView { overview }
    }

    fn source(&self, watch: &SourceWatch) -> SourceHealth {
        let (report, waiting_since) = watch.look();
        let reason = report.reason.unwrap_or_else(|| "it waits".to_owned());
        let doing = match report.state {
            SourceState::Failed => Doing::Halted { reason },
            SourceState::Waiting => {
                let since = waiting_since.map_or(Duration::ZERO, |since| {
                    self.overview.monotonic().saturating_sub(since)
                });
                Doing::Hindered { since, reason }
            }
            SourceState::Reading | SourceState::CaughtUp => match self.overview.blocked() {
                Some(reason) => Doing::Halted { reason },
                None => Doing::Fine,
            },
        };
        SourceHealth {
            name: watch.name.clone(),
            doing,
        }
    }

    fn sink(&self, report: SinkReport) -> SinkHealth {
        let reason = report
            .last_error
            .unwrap_or_else(|| report.state.as_str().to_owned());
        let doing = match report.state {
            State::Sending | State::Idle => Doing::Fine,
            State::Stopped => Doing::Halted { reason },
            State::Retrying => Doing::Hindered {
                since: self
                    .overview
                    .monotonic()
                    .saturating_sub(report.last_success),
                reason,
            },
        };
        SinkHealth {
            name: report.name,
            required: report.required,
            doing,
        }
    }
}

impl View for AgentView {
    fn status(&self) -> Status {
        self.overview.status()
    }

    fn health(&self) -> Health {
        Health {
            started: true,
            sources: self
                .overview
                .sources()
                .iter()
                .map(|watch| self.source(watch))
                .collect(),
            sinks: self
                .overview
                .sinks()
                .into_iter()
                .map(|report| self.sink(report))
                .collect(),
        }
    }

    fn metrics(&self) -> String {
        self.overview.metrics()
    }
}
