//! What is known of the agent at any time, put together for status, health and metrics: from its parts while it runs,
//! from the state directory alone otherwise. Both ways give the same document of durable facts (design D12).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::intake::{IntakeState, OriginFacts};
use super::sink_gap::{decode_sink_gap, sink_of_key};
use super::state_dir::{PinnedOrigin, StateDir};
use crate::clock::{Clock, Micros};
use crate::delivery::report::RequestSeconds;
use crate::delivery::{Delivery, SinkGap, SinkReport};
use crate::durable_fs::DurableFs;
use crate::event::Origin;
use crate::event::encoding::{OriginState, SourceGap};
use crate::sources::{SourceReport, SourceState};
use crate::spool::cursor::CursorRecord;
use crate::spool::inspect::Look;
use crate::spool::{Reader, SpoolReport};
use crate::telemetry::metrics::{Live, SinkLive, SourceLive};
use crate::telemetry::process::Process;
use crate::telemetry::status::{
    PositionStatus, SinkGapStatus, SinkStatus, SourceGapStatus, SourceStatus, SpoolStatus,
    StageStatus, Status,
};
use crate::telemetry::{Telemetry, VERSION};

/// How a source was when its thread last looked.
#[derive(Clone)]
pub struct SourceWatch {
    /// Its name.
    pub name: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    report: SourceReport,
    /// Monotonic time since when it waits.
    waiting_since: Option<Duration>,
}

impl SourceWatch {
    pub(super) fn new(name: String) -> Self {
        SourceWatch {
            name,
            seen: Arc::default(),
        }
    }

    pub(super) fn publish(&self, report: SourceReport, now: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.waiting_since = match report.state {
            SourceState::Waiting => seen.waiting_since.or(Some(now)),
            _ => None,
        };
        seen.report = report;
    }

    /// Its last report, and since when it waits where it does.
    pub fn look(&self) -> (SourceReport, Option<Duration>) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.report.clone(), seen.waiting_since)
    }
}

/// A view of the running agent; any thread may look.
pub struct Overview {
    pub(super) names: PinnedOrigin,
    pub(super) sources: Vec<SourceWatch>,
    pub(super) intake: Arc<Mutex<IntakeState>>,
    pub(super) reader: Reader,
    pub(super) delivery: Arc<Delivery>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state_dir: StateDir,
    pub(super) fs: Arc<dyn DurableFs>,
}

impl Overview {
    /// The status document.
    pub fn status(&self) -> Status {
        // Cursors first: a sink never counts more than the spool holds.
        let reports = self.delivery.reports();
        let (origins, sink_gaps, blocked) = {
            let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
            (
                intake.origins.clone(),
                intake.sink_gaps.clone(),
                intake.blocked.clone(),
            )
        };
        let spool = self.reader.report();
        let sources = origins.iter().map(|facts| {
            let mut source = source_status(&facts.origin, &facts.state, &facts.gaps);
            if let Some(watch) = self
                .sources
                .iter()
                .find(|watch| watch.name == facts.origin.source)
            {
                let report = watch.look().0;
                let waits = blocked.is_some() && report.state != SourceState::Failed;
                source.state = Some(
                    if waits {
                        "waiting"
                    } else {
                        state_word(report.state)
                    }
                    .to_owned(),
                );
                source.unread_bytes = report.unread_bytes;
            }
            source
        });
        let mut sinks: Vec<SinkStatus> = reports
            .iter()
            .map(|report| {
                let gaps = sink_gaps.get(&report.name).map_or(&[][..], Vec::as_slice);
                running_sink(report, spool.next_record, gaps)
            })
            .collect();
        sinks.extend(self.detached(&reports, spool.next_record, &sink_gaps));
        Status {
            version: VERSION.to_owned(),
            cluster: self.names.cluster.clone(),
            node: self.names.node.clone(),
            stages: stages(origins.iter().map(|facts| &facts.state)),
            sources: sources.collect(),
            spool: spool_status(&spool),
            sinks,
        }
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        let status = self.status();
        let intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = intake
            .origins
            .iter()
            .map(|facts| self.source_live(facts))
            .collect();
        let spool = self.reader.report();
        let now = self.clock.now();
        let live = Live {
            sources,
            spool_max_bytes: spool.max_bytes,
            spool_blocked: intake.blocked.is_some(),
            spool_quarantined_blocks: spool.quarantined_blocks,
            sinks: self
                .delivery
                .reports()
                .into_iter()
                .map(|report| sink_live(report, now))
                .collect(),
        };
        drop(intake);
        self.telemetry.page(&status, &live, &Process::now())
    }

    /// Sources and when they last were as they are, for health.
    pub fn sources(&self) -> &[SourceWatch] {
        &self.sources
    }

    /// Why the spool takes nothing now.
    pub fn blocked(&self) -> Option<String> {
        self.intake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocked
            .clone()
    }

    /// Sinks of the configuration.
    pub fn sinks(&self) -> Vec<SinkReport> {
        self.delivery.reports()
    }

    /// Changes whenever a sink's cursor or state did.
    pub fn progress(&self) -> tokio::sync::watch::Receiver<u64> {
        self.delivery.progress()
    }

    /// The agent's monotonic time.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn source_live(&self, facts: &OriginFacts) -> SourceLive {
        let name = facts.origin.source.clone();
        let report = self
            .sources
            .iter()
            .find(|watch| watch.name == name)
            .map(|watch| watch.look().0);
        let report = report.unwrap_or_default();
        SourceLive {
            name,
            read_bytes: facts.state.totals.read_bytes,
            held_deleted_bytes: report.held_deleted_bytes,
            seconds_until_loss: report.seconds_until_loss,
            gaps: facts
                .state
                .totals
                .gaps
                .iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect(),
        }
    }

    /// Sinks that left the configuration but still have a cursor.
    fn detached(
        &self,
        reports: &[SinkReport],
        next_record: u64,
        gaps: &BTreeMap<String, Vec<SinkGap>>,
    ) -> Vec<SinkStatus> {
        let stored = crate::delivery::stored_sinks(&*self.fs, self.state_dir.root())
            .unwrap_or_else(|error| {
                tracing::error!(%error, "read the cursors of detached sinks");
                Vec::new()
            });
        stored
            .into_iter()
            .filter(|(name, _)| reports.iter().all(|report| report.name != *name))
            .map(|(name, cursor)| {
                let gaps = gaps.get(&name).map_or(&[][..], Vec::as_slice);
                SinkStatus {
                    state: Some("detached".to_owned()),
                    ..stored_sink(&name, &cursor, next_record, gaps)
                }
            })
            .collect()
    }
}

/// The status document from a state directory, agent running or not. `configured`: names of the sinks of the
/// configuration; others are detached.
pub fn stopped_status(
    state_dir: &StateDir,
    fs: &Arc<dyn DurableFs>,
    names: &PinnedOrigin,
    configured: &[String],
) -> Result<Status, String> {
    // Cursors first, as while running: they only move behind what is spooled.
    let cursors = crate::delivery::stored_sinks(&**fs, state_dir.root())
        .map_err(|error| error.to_string())?;
    let confirmed = cursors
        .iter()
        .map(|(_, cursor)| cursor.cursor)
        .max()
        .unwrap_or(0);
    let spool = Look::at(fs, &state_dir.spool(), confirmed).map_err(|error| error.to_string())?;
    let keys = spool.as_ref().map(Look::keys).unwrap_or_default();
    // An agent that was killed at its first start has no spool yet: nothing was read.
    let report = spool.map(|spool| spool.report()).unwrap_or_default();
    let mut origins = Vec::new();
    let mut sink_gaps: BTreeMap<String, Vec<SinkGap>> = BTreeMap::new();
    for key in keys {
        if let Some(sink) = sink_of_key(&key.key) {
            let gaps: Option<_> = key.gaps.iter().map(|note| decode_sink_gap(note)).collect();
            let gaps =
                gaps.ok_or_else(|| format!("sink {sink} has a gap that this version cannot read"))?;
            sink_gaps.insert(sink.to_owned(), gaps);
            continue;
        }
        let origin = Origin::decode(&key.key).map_err(|error| error.to_string())?;
        let state = OriginState::decode(&key.state).map_err(|error| error.to_string())?;
        let gaps = key
            .gaps
            .iter()
            .map(|note| SourceGap::decode(note))
            .collect::<Result<Vec<_>, _>>();
        origins.push((origin, state, gaps.map_err(|error| error.to_string())?));
    }
    let sinks = cursors.iter().map(|(name, cursor)| {
        let gaps = sink_gaps.get(name).map_or(&[][..], Vec::as_slice);
        let mut sink = stored_sink(name, cursor, report.next_record, gaps);
        if !configured.contains(name) {
            sink.state = Some("detached".to_owned());
        }
        sink
    });
    Ok(Status {
        version: VERSION.to_owned(),
        cluster: names.cluster.clone(),
        node: names.node.clone(),
        sources: origins
            .iter()
            .map(|(origin, state, gaps)| source_status(origin, state, gaps))
            .collect(),
        stages: stages(origins.iter().map(|(_, state, _)| state)),
        spool: spool_status(&report),
        sinks: sinks.collect(),
    })
}

fn source_status(origin: &Origin, state: &OriginState, gaps: &[SourceGap]) -> SourceStatus {
    let positions = state.positions.iter().map(|position| PositionStatus {
        generation: position.generation.map(|generation| generation.short()),
        offset: position.offset,
    });
    let time = |us: Option<i64>| us.map(|us| Micros(us).rfc3339());
    let gaps = gaps.iter().map(|gap| SourceGapStatus {
        reason: gap.reason.as_str().to_owned(),
        generation: gap.generation.map(|generation| generation.short()),
        from: gap.from,
        to: gap.to,
        events: gap.events,
        after: time(gap.after_us),
        before: time(gap.before_us),
    });
    SourceStatus {
        name: origin.source.clone(),
        state: None,
        positions: positions.collect(),
        read_events: state.totals.read_events,
        unread_bytes: None,
        malformed_events: state.totals.malformed_events,
        gaps_total: state.totals.gaps.total(),
        gaps: gaps.collect(),
    }
}

fn stages<'a>(states: impl Iterator<Item = &'a OriginState>) -> Vec<StageStatus> {
    let mut dropped: BTreeMap<&str, u64> = BTreeMap::new();
    for (stage, events) in states.flat_map(|state| &state.totals.dropped) {
        *dropped.entry(stage).or_default() += events;
    }
    dropped
        .into_iter()
        .map(|(name, dropped_events)| StageStatus {
            name: name.to_owned(),
            dropped_events,
        })
        .collect()
}

fn spool_status(report: &SpoolReport) -> SpoolStatus {
    SpoolStatus {
        id: report.id.clone(),
        events: report.next_record,
        bytes: report.bytes,
        oldest_record: report.oldest_record,
        next_record: report.next_record,
    }
}

fn running_sink(report: &SinkReport, next_record: u64, gaps: &[SinkGap]) -> SinkStatus {
    SinkStatus {
        state: Some(report.state.as_str().to_owned()),
        last_error: report.last_error.clone(),
        retry_at: report.retry_at.map(Micros::rfc3339),
        ..stored_sink(&report.name, &report.durable, next_record, gaps)
    }
}

fn sink_live(report: SinkReport, now: Micros) -> SinkLive {
    let age = report
        .oldest_pending
        .map_or(0, |since| u64::try_from(now.0 - since.0).unwrap_or(0));
    let bounds = RequestSeconds::BOUNDS.into_iter().chain([f64::MAX]);
    SinkLive {
        name: report.name,
        oldest_pending: Duration::from_micros(age),
        attempts: report.attempts,
        alarms: report.alarms,
        sent_bytes: report.sent_bytes,
        certificate_expiry: report.certificate_expiry,
        request_seconds: (
            bounds.zip(report.request_seconds.buckets).collect(),
            report.request_seconds.sum,
        ),
    }
}

fn stored_sink(
    name: &str,
    cursor: &CursorRecord,
    next_record: u64,
    gaps: &[SinkGap],
) -> SinkStatus {
    let gaps = gaps.iter().map(|gap| SinkGapStatus {
        reason: gap.reason.as_str().to_owned(),
        first: gap.first,
        last: gap.last,
    });
    SinkStatus {
        name: name.to_owned(),
        state: None,
        delivered: cursor.delivered,
        not_selected: cursor.not_selected,
        dead_letter: cursor.dead_letter,
        replayed: cursor.replayed,
        gap: cursor.gap,
        pending: next_record.saturating_sub(cursor.cursor),
        gaps: gaps.collect(),
        last_error: None,
        retry_at: None,
    }
}

/// Source states as users see them.
pub fn state_word(state: SourceState) -> &'static str {
    match state {
        SourceState::Reading => "reading",
        SourceState::CaughtUp => "caught_up",
        SourceState::Waiting => "waiting",
        SourceState::Failed => "failed",
    }
}
