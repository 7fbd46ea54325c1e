//! The metrics page. Names, labels and types are those promised to users and nothing else.
//!
//! What is durable (events read, delivered, …) is not counted here a second time: at each scrape those counters are
//! set from the [`Status`], so they go on from the durable totals across restarts. What lives only in this process
//! (attempts, bytes sent, durations) is counted in [`Telemetry`] and begins at zero.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use super::status::Status;

/// Content type of [`Telemetry::page`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters of this process, cheap to share; every method may be called from any thread.
#[derive(Debug)]
pub struct Telemetry {
    spool_sync: Histogram,
}

/// What a scrape needs beside the status and what is counted here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// One per source.
    pub sources: Vec<SourceLive>,
    /// `spool.max_bytes`.
    pub spool_max_bytes: u64,
    /// Whether the last append was refused because the spool is full.
    pub spool_blocked: bool,
    /// Blocks put into quarantine.
    pub spool_quarantined_blocks: u64,
    /// One per sink at work.
    pub sinks: Vec<SinkLive>,
}

/// Values of the label `outcome`.
const OUTCOMES: [&str; 5] = ["delivered", "rejected", "retry", "split", "stopped"];

/// One sink, since this process began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SinkLive {
    /// Its name.
    pub name: String,
    /// Age of the oldest record it has not confirmed, 0 where there is none.
    pub oldest_pending: Duration,
    /// Attempts by outcome: delivered, rejected, retry, split, stopped.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Alarms by reason.
    pub alarms: BTreeMap<&'static str, u64>,
    /// Encoded bytes of all attempts, before compression.
    pub sent_bytes: u64,
    /// When the first of its certificates expires, in seconds since the Unix epoch.
    pub certificate_expiry: Option<i64>,
    /// How long attempts took: upper bounds in seconds with the attempts of at most that (not cumulative; the last
    /// bound is infinite), and the seconds of all together.
    pub request_seconds: (Vec<(f64, u64)>, f64),
}

/// One source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceLive {
    /// Its name.
    pub name: String,
    /// Bytes read, line feeds included (durable).
    pub read_bytes: u64,
    /// Disk kept alive by descriptors of deleted, unread files.
    pub held_deleted_bytes: u64,
    /// Until unread data is deleted by the API server's retention; `None` where unknown.
    pub seconds_until_loss: Option<f64>,
    /// Gaps ever recorded, by reason.
    pub gaps: Vec<(String, u64)>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry {
            // A control-plane disk syncs in 1 to 10 ms; one that is overloaded takes seconds.
            spool_sync: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
            ]),
        }
    }
}

impl Telemetry {
    /// A sync of the spool took this long.
    pub fn spool_synced(&self, took: Duration) {
        self.spool_sync.observe(took.as_secs_f64());
    }

    /// The whole page.
    pub fn page(&self, status: &Status, live: &Live, process: &Process) -> String {
        let mut ours = Registry::with_prefix("auditship");
        ours.register_collector(Box::new(Families(self.families(status, live))));
        ours.register_with_unit(
            "spool_sync",
            "Duration of the spool's syncs",
            Unit::Seconds,
            self.spool_sync.clone(),
        );
        ours.register_collector(Box::new(RequestSeconds(live.sinks.clone())));
        let mut theirs = Registry::default();
        theirs.register_collector(Box::new(Families(process_families(process))));
        let mut page = String::with_capacity(8 << 10);
        text::encode_registry(&mut page, &ours)
            .and_then(|()| text::encode_registry(&mut page, &theirs))
            .and_then(|()| text::encode_eof(&mut page))
            .expect("writing to a String cannot fail");
        page
    }

    fn families(&self, status: &Status, live: &Live) -> Vec<Family> {
        let mut families = source_families(status, live);
        families.push(
            Family::counter("stage_dropped_events", "Events dropped by a shared stage").each(
                &status.stages,
                |stage| {
                    Some((
                        vec![("stage", stage.name.clone())],
                        stage.dropped_events as f64,
                    ))
                },
            ),
        );
        families.extend(spool_families(status, live));
        families.extend(sink_families(status));
        families.extend(process_local_sink_families(live));
        let version = vec![("version", status.version.clone())];
        families.push(
            Family::gauge("build_info", "The running build")
                .each(&[version], |v| Some((v.clone(), 1.0))),
        );
        families
    }
}

/// Attempts, bytes and alarms: known only while the process lives.
fn process_local_sink_families(live: &Live) -> Vec<Family> {
    let mut attempts = Family::counter(
        "sink_attempts",
        "Attempts to send a batch, by what became of them",
    );
    let mut alarms = Family::counter("sink_alarms", "Things an operator must look at");
    for sink in &live.sinks {
        for outcome in OUTCOMES {
            let count = sink.attempts.get(outcome).copied().unwrap_or(0);
            let labels = vec![("sink", sink.name.clone()), ("outcome", outcome.to_owned())];
            attempts.samples.push((labels, count as f64));
        }
        for (reason, count) in &sink.alarms {
            let labels = vec![
                ("sink", sink.name.clone()),
                ("reason", (*reason).to_owned()),
            ];
            alarms.samples.push((labels, *count as f64));
        }
    }
    let by_sink = |sink: &SinkLive| vec![("sink", sink.name.clone())];
    vec![
        attempts,
        alarms,
        Family::counter(
            "sink_sent_bytes",
            "Encoded bytes of all attempts, before compression",
        )
        .each(&live.sinks, |sink| {
            Some((by_sink(sink), sink.sent_bytes as f64))
        }),
        Family::gauge("sink_oldest_pending_seconds", "Age of the oldest of them")
            .each(&live.sinks, |sink| {
                Some((by_sink(sink), sink.oldest_pending.as_secs_f64()))
            }),
        Family::gauge(
            "tls_certificate_expiry_timestamp_seconds",
            "When the first of the configured certificates expires",
        )
        .each(&live.sinks, |sink| {
            Some((by_sink(sink), sink.certificate_expiry? as f64))
        }),
    ]
}

fn source_families(status: &Status, live: &Live) -> Vec<Family> {
    let by_source = |name: &str| vec![("source", name.to_owned())];
    let sources = &status.sources;
    let mut gaps = Family::counter("source_gaps", "Recorded ranges that could not be had");
    for source in &live.sources {
        for (reason, count) in &source.gaps {
            gaps.samples.push((
                vec![("source", source.name.clone()), ("reason", reason.clone())],
                *count as f64,
            ));
        }
    }
    vec![
        Family::counter("source_read_events", "Lines read and durable").each(sources, |s| {
            Some((by_source(&s.name), s.read_events as f64))
        }),
        Family::counter("source_read_bytes", "Their bytes, line feeds included")
            .each(&live.sources, |s| {
                Some((by_source(&s.name), s.read_bytes as f64))
            }),
        Family::gauge("source_unread_bytes", "Bytes known to be unread").each(sources, |s| {
            s.unread_bytes
                .map(|bytes| (by_source(&s.name), bytes as f64))
        }),
        Family::gauge(
            "source_held_deleted_bytes",
            "Disk kept alive by descriptors of deleted, unread files",
        )
        .each(&live.sources, |s| {
            Some((by_source(&s.name), s.held_deleted_bytes as f64))
        }),
        Family::gauge(
            "source_seconds_until_loss",
            "Until unread data is deleted by retention",
        )
        .each(&live.sources, |s| {
            s.seconds_until_loss
                .map(|seconds| (by_source(&s.name), seconds))
        }),
        gaps,
        Family::counter("source_malformed_events", "Lines that are not one event")
            .each(sources, |s| {
                Some((by_source(&s.name), s.malformed_events as f64))
            }),
    ]
}

fn spool_families(status: &Status, live: &Live) -> Vec<Family> {
    let spool = &status.spool;
    let single =
        |family: Family, value: f64| family.each(&[value], |value| Some((Vec::new(), *value)));
    vec![
        single(
            Family::counter("spool_appended_events", "Events ever spooled"),
            spool.events as f64,
        ),
        single(
            Family::gauge("spool_bytes", "Size of the spool on disk"),
            spool.bytes as f64,
        ),
        single(
            Family::gauge("spool_max_bytes", "Its limit"),
            live.spool_max_bytes as f64,
        ),
        single(
            Family::gauge("spool_blocked", "1 while it is full"),
            f64::from(u8::from(live.spool_blocked)),
        ),
        single(
            Family::counter("spool_quarantined_blocks", "Damaged blocks set aside"),
            live.spool_quarantined_blocks as f64,
        ),
    ]
}

/// States that users rely on, in the label of `sink_state`.
const SINK_STATES: [&str; 5] = ["sending", "idle", "retrying", "stopped", "detached"];

fn sink_families(status: &Status) -> Vec<Family> {
    let sinks = &status.sinks;
    let by_sink = |name: &str| vec![("sink", name.to_owned())];
    let mut state = Family::gauge("sink_state", "1 for the state that the sink is in");
    for sink in sinks {
        for name in SINK_STATES {
            let labels = vec![("sink", sink.name.clone()), ("state", name.to_owned())];
            state.samples.push((
                labels,
                f64::from(u8::from(sink.state.as_deref() == Some(name))),
            ));
        }
    }
    vec![
        Family::counter("sink_delivered_events", "Events stored at the destination")
            .each(sinks, |s| Some((by_sink(&s.name), s.delivered as f64))),
        Family::counter("sink_not_selected_events", "Events not for this sink")
            .each(sinks, |s| Some((by_sink(&s.name), s.not_selected as f64))),
        Family::counter("sink_dead_letter_events", "Events ever dead-lettered")
            .each(sinks, |s| Some((by_sink(&s.name), s.dead_letter as f64))),
        Family::counter("sink_replayed_events", "Dead letters delivered later")
            .each(sinks, |s| Some((by_sink(&s.name), s.replayed as f64))),
        Family::counter("sink_gap_events", "Events in a recorded gap of this sink")
            .each(sinks, |s| Some((by_sink(&s.name), s.gap as f64))),
        Family::gauge(
            "sink_pending_events",
            "Events spooled and not yet confirmed",
        )
        .each(sinks, |s| Some((by_sink(&s.name), s.pending as f64))),
        state,
    ]
}

fn process_families(process: &Process) -> Vec<Family> {
    let single = |family: Family, value: Option<f64>| {
        family.each(&[value], |value| value.map(|v| (Vec::new(), v)))
    };
    vec![
        single(
            Family::counter("process_cpu_seconds", "User and system CPU time"),
            process.cpu_seconds,
        ),
        single(
            Family::gauge("process_resident_memory_bytes", "Resident memory"),
            process.resident_bytes,
        ),
        single(
            Family::gauge("process_virtual_memory_bytes", "Virtual memory"),
            process.virtual_bytes,
        ),
        single(
            Family::gauge("process_open_fds", "Open file descriptors"),
            process.open_fds,
        ),
        single(
            Family::gauge("process_max_fds", "Their limit"),
            process.max_fds,
        ),
        single(
            Family::gauge("process_start_time_seconds", "Start since the Unix epoch"),
            process.start_time_seconds,
        ),
    ]
}

/// A label set and a value. Counts stay exact up to 2^53 events.
type Sample = (Vec<(&'static str, String)>, f64);

/// One metric with its samples; left out where it has none.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

impl Family {
    /// `_total` is put behind the name.
    fn counter(name: &'static str, help: &'static str) -> Self {
        Family {
            name,
            help,
            kind: MetricType::Counter,
            samples: Vec::new(),
        }
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Family {
            name,
            help,
            kind: MetricType::Gauge,
            samples: Vec::new(),
        }
    }

    fn each<T>(mut self, items: &[T], sample: impl Fn(&T) -> Option<Sample>) -> Self {
        self.samples.extend(items.iter().filter_map(sample));
        self
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                let labels: Vec<(&str, &str)> = labels
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                if labels.is_empty() {
                    // An empty family would be written as `name{}`. Such a metric has this one sample.
                    encode_value(family.kind, *value, metric)?;
                    break;
                }
                encode_value(family.kind, *value, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Whole numbers as such: `4`, not `4.0`.
fn encode_value(kind: MetricType, value: f64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        MetricType::Counter if value.fract() == 0.0 => {
            ConstCounter::new(value as u64).encode(encoder)
        }
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ if value.fract() == 0.0 => ConstGauge::new(value as i64).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}

#[derive(Debug)]
struct RequestSeconds(Vec<SinkLive>);

impl Collector for RequestSeconds {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let help = "Duration of an attempt";
        let mut metric = encoder.encode_descriptor(
            "sink_request",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        self.0.iter().try_for_each(|sink| {
            let (buckets, sum) = &sink.request_seconds;
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("sink", sink.name.as_str())];
            metric
                .encode_family(&labels)?
                .encode_histogram::<[(&str, &str); 0]>(*sum, count, buckets, None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{SinkStatus, SourceStatus, SpoolStatus, StageStatus};
    use super::*;

    fn page() -> String {
        let status = Status {
            version: "0.1.0".into(),
            sources: vec![SourceStatus {
                name: "apiserver".into(),
                read_events: 12,
                unread_bytes: Some(5),
                malformed_events: 1,
                ..Default::default()
            }],
            stages: vec![StageStatus {
                name: "filter".into(),
                dropped_events: 2,
            }],
            spool: SpoolStatus {
                events: 10,
                bytes: 4096,
                ..Default::default()
            },
            sinks: vec![SinkStatus {
                name: "search \"1\"".into(),
                state: Some("retrying".into()),
                delivered: 4,
                not_selected: 1,
                dead_letter: 2,
                replayed: 1,
                gap: 1,
                pending: 2,
                ..Default::default()
            }],
            ..Default::default()
        };
        let live = Live {
            sources: vec![SourceLive {
                name: "apiserver".into(),
                read_bytes: 1200,
                held_deleted_bytes: 7,
                seconds_until_loss: Some(90.5),
                gaps: vec![("deleted".into(), 1)],
            }],
            spool_max_bytes: 1 << 30,
            spool_blocked: true,
            spool_quarantined_blocks: 0,
            sinks: vec![SinkLive {
                name: "search \"1\"".into(),
                oldest_pending: Duration::from_millis(1500),
                attempts: BTreeMap::from([("retry", 1)]),
                alarms: BTreeMap::from([("conflict", 1)]),
                sent_bytes: 99,
                certificate_expiry: Some(1_800_000_000),
                request_seconds: (vec![(0.1, 1), (f64::MAX, 0)], 0.02),
            }],
        };
        let telemetry = Telemetry::default();
        telemetry.spool_synced(Duration::from_millis(2));
        let process = Process {
            cpu_seconds: Some(0.25),
            resident_bytes: Some(1e7),
            virtual_bytes: Some(2e7),
            open_fds: Some(9.0),
            max_fds: Some(1024.0),
            start_time_seconds: Some(1.5),
        };
        telemetry.page(&status, &live, &process)
    }

    /// Every metric promised to users, with its labels, as the page must spell it.
    const EXPECTED: &[&str] = &[
        r#"auditship_source_read_events_total{source="apiserver"} 12"#,
        r#"auditship_source_read_bytes_total{source="apiserver"} 1200"#,
        r#"auditship_source_unread_bytes{source="apiserver"} 5"#,
        r#"auditship_source_held_deleted_bytes{source="apiserver"} 7"#,
        r#"auditship_source_seconds_until_loss{source="apiserver"} 90.5"#,
        r#"auditship_source_gaps_total{source="apiserver",reason="deleted"} 1"#,
        r#"auditship_source_malformed_events_total{source="apiserver"} 1"#,
        r#"auditship_stage_dropped_events_total{stage="filter"} 2"#,
        "auditship_spool_appended_events_total 10",
        "auditship_spool_bytes 4096",
        "auditship_spool_max_bytes 1073741824",
        "auditship_spool_blocked 1",
        "auditship_spool_sync_seconds_count 1",
        "auditship_spool_quarantined_blocks_total 0",
        r#"auditship_sink_delivered_events_total{sink="search \"1\""} 4"#,
        r#"auditship_sink_not_selected_events_total{sink="search \"1\""} 1"#,
        r#"auditship_sink_dead_letter_events_total{sink="search \"1\""} 2"#,
        r#"auditship_sink_replayed_events_total{sink="search \"1\""} 1"#,
        r#"auditship_sink_gap_events_total{sink="search \"1\""} 1"#,
        r#"auditship_sink_pending_events{sink="search \"1\""} 2"#,
        r#"auditship_sink_oldest_pending_seconds{sink="search \"1\""} 1.5"#,
        r#"auditship_sink_state{sink="search \"1\"",state="retrying"} 1"#,
        r#"auditship_sink_state{sink="search \"1\"",state="stopped"} 0"#,
        r#"auditship_sink_alarms_total{sink="search \"1\"",reason="conflict"} 1"#,
        r#"auditship_sink_attempts_total{sink="search \"1\"",outcome="retry"} 1"#,
        r#"auditship_sink_attempts_total{sink="search \"1\"",outcome="delivered"} 0"#,
        r#"auditship_sink_sent_bytes_total{sink="search \"1\""} 99"#,
        r#"auditship_sink_request_seconds_count{sink="search \"1\""} 1"#,
        r#"auditship_tls_certificate_expiry_timestamp_seconds{sink="search \"1\""} 1800000000"#,
        r#"auditship_build_info{version="0.1.0"} 1"#,
        "process_cpu_seconds_total 0.25",
        "process_resident_memory_bytes 10000000",
        "process_open_fds 9",
    ];

    #[test]
    fn the_page_has_exactly_the_promised_names_and_labels() {
        let page = page();
        let lines: Vec<_> = page.lines().collect();
        for expected in EXPECTED {
            assert!(lines.contains(expected), "no line `{expected}` in:\n{page}");
        }
        let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
        let promised: Vec<_> = EXPECTED
            .iter()
            .map(|line| name(line).replace("_count", ""))
            .collect();
        for line in lines.iter().filter(|line| !line.starts_with('#')) {
            let name = name(line);
            let base = ["_count", "_sum", "_bucket"]
                .iter()
                .fold(name.as_str(), |name, end| name.trim_end_matches(end));
            assert!(
                name.starts_with("process_") || promised.iter().any(|p| p == base),
                "{name} is not promised"
            );
        }
        assert_eq!(lines.last(), Some(&"# EOF"));
    }

    #[test]
    fn each_family_is_announced_once() {
        let page = page();
        let mut types: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
    }
}
