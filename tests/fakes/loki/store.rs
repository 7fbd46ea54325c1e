//! What Loki 3.7.6 keeps of a push, and what it says: the distributor's checks of each line, then the ingester's of each
//! stream, of which the last one alone is heard. Pure: the time is a parameter.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{self, PushedEntry, PushedStream};

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// The limits that a Loki is configured with; the defaults are its own.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// `reject_old_samples_max_age`, seconds.
    pub(crate) age: i64,
    /// `creation_grace_period`, seconds.
    pub(crate) ahead: i64,
    /// `max_chunk_age / 2`, seconds.
    pub(crate) behind: i64,
    /// `max_line_size`.
    pub(crate) line: usize,
    /// `max_label_names_per_series`.
    pub(crate) labels: usize,
    /// `max_label_value_length`.
    pub(crate) label_value: usize,
    /// `max_structured_metadata_size`.
    pub(crate) metadata_bytes: usize,
    /// `max_structured_metadata_entries_count`.
    pub(crate) metadata_entries: usize,
    /// `allow_structured_metadata`.
    pub(crate) allow_metadata: bool,
    /// `enforced_labels`.
    pub(crate) enforced: Vec<String>,
    /// `max_global_streams_per_user`.
    pub(crate) streams: usize,
    /// `ingestion_burst_size_mb`, bytes: what the tenant may send until [`Store::refill`].
    pub(crate) tenant_burst: usize,
    /// `per_stream_rate_limit_burst`, bytes, the same for each stream.
    pub(crate) stream_burst: usize,
    /// `grpc_server_max_recv_msg_size`.
    pub(crate) message: usize,
    /// Shards of every stream; 1: not sharded.
    pub(crate) shards: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            age: 168 * 3600,
            ahead: 600,
            behind: 3600,
            line: 256 << 10,
            labels: 15,
            label_value: 2048,
            metadata_bytes: 64 << 10,
            metadata_entries: 128,
            allow_metadata: true,
            enforced: Vec::new(),
            streams: 5000,
            tenant_burst: usize::MAX,
            stream_burst: usize::MAX,
            message: 4 << 20,
            shards: 1,
        }
    }
}

/// A line that is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kept {
    pub(crate) time: i64,
    pub(crate) line: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Default)]
struct Stream {
    /// The same time, line and metadata is one line.
    lines: BTreeSet<Kept>,
    /// Of each shard.
    newest: BTreeMap<usize, i64>,
    sent: usize,
}

/// One tenant's streams.
#[derive(Default)]
pub(crate) struct Store {
    streams: BTreeMap<String, Stream>,
    sent: usize,
    turn: usize,
    /// `loki_discarded_samples_total`, by reason.
    pub(crate) discarded: BTreeMap<&'static str, u64>,
}

/// Status and body; 204 has none.
pub(super) type Said = (u16, String);

struct Checked {
    name: String,
    labels: BTreeMap<String, String>,
    entries: Vec<PushedEntry>,
}

impl Store {
    /// Every line with the name of its stream.
    pub(crate) fn lines(&self) -> Vec<(String, Kept)> {
        let of = |(name, stream): (&String, &Stream)| {
            let name = name.clone();
            let lines: Vec<_> = stream.lines.iter().cloned().collect();
            lines.into_iter().map(move |line| (name.clone(), line))
        };
        self.streams.iter().flat_map(of).collect()
    }

    /// Rate limits begin anew, as when time has passed.
    pub(crate) fn refill(&mut self) {
        self.sent = 0;
        self.streams.values_mut().for_each(|stream| stream.sent = 0);
    }

    pub(super) fn push(&mut self, limits: &Limits, now: i64, streams: Vec<PushedStream>) -> Said {
        if streams.is_empty() {
            let text = "error at least one valid stream is required for ingestion";
            return (422, text.to_owned());
        }
        let mut parsed = Vec::new();
        // A stream without entries is looked at no further.
        for stream in streams
            .into_iter()
            .filter(|stream| !stream.entries.is_empty())
        {
            match wire::labels(&stream.labels) {
                Ok(labels) => parsed.push((labels, stream.entries)),
                Err(problem) => return (400, problem),
            }
        }
        let mut errors: Vec<String> = Vec::new();
        let mut good = Vec::new();
        for (labels, entries) in parsed {
            match self.validated(limits, now, labels, entries, &mut errors) {
                Some(stream) if !stream.entries.is_empty() => good.push(stream),
                _ => {}
            }
        }
        let size = |stream: &Checked| stream.entries.iter().map(entry_bytes).sum::<usize>();
        let (lines, bytes): (usize, usize) = (
            good.iter().map(|stream| stream.entries.len()).sum(),
            good.iter().map(size).sum(),
        );
        if self.sent.saturating_add(bytes) > limits.tenant_burst {
            return (
                429,
                format!(
                    "ingestion rate limit exceeded for user slow (limit: {} bytes/sec) while attempting to ingest '{lines}' lines totaling '{bytes}' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased",
                    limits.tenant_burst
                ),
            );
        }
        if bytes > limits.message {
            return (
                500,
                format!(
                    "rpc error: code = ResourceExhausted desc = grpc: received message larger than max ({bytes} vs. {})",
                    limits.message
                ),
            );
        }
        self.sent += bytes;
        // Each stream's answer replaces the one before it.
        let mut heard = None;
        for stream in good {
            heard = self.ingest(limits, stream);
        }
        match (heard, errors.len()) {
            (Some(said), _) => said,
            (None, 0) => (204, String::new()),
            (None, 1) => (400, errors.swap_remove(0)),
            (None, count) => (400, format!("{count} errors like: {}", errors[0])),
        }
    }

    /// The distributor's checks: what passes them, the rest told.
    fn validated(
        &mut self,
        limits: &Limits,
        now: i64,
        labels: Vec<(String, String)>,
        entries: Vec<PushedEntry>,
        errors: &mut Vec<String>,
    ) -> Option<Checked> {
        let count = labels.len();
        let mut map = BTreeMap::new();
        let mut twice = None;
        for (name, value) in labels {
            if map.insert(name.clone(), value).is_some() {
                twice = Some(name);
            }
        }
        map.retain(|_, value: &mut String| !value.is_empty());
        map.entry("service_name".to_owned())
            .or_insert_with(|| "unknown_service".to_owned());
        let printed: Vec<String> = map.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
        let name = format!("{{{}}}", printed.join(", "));
        let too_long = map.values().find(|value| value.len() > limits.label_value);
        let missing = limits
            .enforced
            .iter()
            .find(|label| !map.contains_key(*label));
        let problem = if let Some(label) = missing {
            Some(format!(
                "missing required labels '{label}' for user 'enf' for stream '{name}' (policy: '')"
            ))
        } else if count > limits.labels {
            Some(format!(
                "entry for stream '{name}' has {count} label names; limit {}",
                limits.labels
            ))
        } else if let Some(value) = too_long {
            Some(format!(
                "stream '{name}' has label value too long: '{value}'"
            ))
        } else {
            twice.map(|label| format!("stream '{name}' has duplicate label name: '{label}'"))
        };
        if let Some(problem) = problem {
            *self.discarded.entry("labels").or_default() += entries.len() as u64;
            errors.push(problem);
            return None;
        }
        let mut kept = Vec::new();
        for mut entry in entries {
            match refused(limits, now, &name, &entry) {
                Some((reason, problem)) => {
                    *self.discarded.entry(reason).or_default() += 1;
                    errors.push(problem);
                }
                None => {
                    entry.metadata.retain(|(_, value)| !value.is_empty());
                    kept.push(entry);
                }
            }
        }
        Some(Checked {
            name,
            labels: map,
            entries: kept,
        })
    }

    /// The ingester's checks of one stream; what it says, which may never be heard.
    fn ingest(&mut self, limits: &Limits, checked: Checked) -> Option<Said> {
        let Checked {
            name,
            labels,
            entries,
        } = checked;
        if !self.streams.contains_key(&name) && self.streams.len() >= limits.streams {
            *self.discarded.entry("stream_limit").or_default() += entries.len() as u64;
            return Some((
                429,
                format!(
                    "maximum active stream limit exceeded when trying to create stream {name}, reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be increased, user: 'few2'"
                ),
            ));
        }
        let (total, bytes) = (
            entries.len(),
            entries.iter().map(entry_bytes).sum::<usize>(),
        );
        let stream = self.streams.entry(name.clone()).or_default();
        if stream.sent.saturating_add(bytes) > limits.stream_burst {
            *self.discarded.entry("per_stream_rate_limit").or_default() += total as u64;
            return Some((
                429,
                format!(
                    "entry with timestamp 2026 ignored, reason: 'Per stream rate limit exceeded (limit: {}B/sec) while attempting to ingest for stream '{name}' totaling {bytes}B, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased',\nuser 't1', total ignored: {total} out of {total} for stream: {name}",
                    limits.stream_burst
                ),
            ));
        }
        stream.sent += bytes;
        let mut shards: BTreeMap<usize, Vec<PushedEntry>> = BTreeMap::new();
        for (at, entry) in entries.into_iter().enumerate() {
            // In pieces: a distributor gives each shard a run of the entries.
            let shard = at * limits.shards / total.max(1);
            shards.entry(shard).or_default().push(entry);
        }
        // Which of the shards comes last is a matter of chance; here they take turns.
        self.turn += usize::from(shards.len() > 1);
        let mut order: Vec<(usize, Vec<PushedEntry>)> = shards.into_iter().collect();
        let count = order.len().max(1);
        order.rotate_left(self.turn % count);
        let mut heard = None;
        for (shard, entries) in order {
            heard = append(
                limits,
                stream,
                shard,
                &name,
                &labels,
                entries,
                &mut self.discarded,
            );
        }
        heard
    }
}

fn append(
    limits: &Limits,
    stream: &mut Stream,
    shard: usize,
    name: &str,
    labels: &BTreeMap<String, String>,
    entries: Vec<PushedEntry>,
    discarded: &mut BTreeMap<&'static str, u64>,
) -> Option<Said> {
    let total = entries.len();
    // A line that any shard of the stream could see as too far behind is: the tests are on the safe side.
    let mut newest = stream.newest.values().max().copied().unwrap_or(i64::MIN);
    let mut ignored = Vec::new();
    for entry in entries {
        let oldest = newest.saturating_sub(limits.behind * SECOND);
        if entry.time < oldest {
            ignored.push(format!(
                "entry with timestamp {} ignored, reason: 'entry too far behind, entry timestamp is: {}, oldest acceptable timestamp is: {}',",
                told(entry.time), told(entry.time), told(oldest)
            ));
            *discarded.entry("too_far_behind").or_default() += 1;
            continue;
        }
        newest = newest.max(entry.time);
        stream.newest.insert(shard, newest);
        let metadata = entry
            .metadata
            .into_iter()
            .map(|(key, value)| (metadata_name(&key, labels), value))
            .collect();
        stream.lines.insert(Kept {
            time: entry.time,
            line: entry.line,
            metadata,
        });
    }
    (!ignored.is_empty()).then(|| {
        let shown = ignored
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        let count = ignored.len();
        (
            400,
            format!("{shown}\nuser 't1', total ignored: {count} out of {total} for stream: {name}"),
        )
    })
}

fn refused(
    limits: &Limits,
    now: i64,
    stream: &str,
    entry: &PushedEntry,
) -> Option<(&'static str, String)> {
    let oldest = now - limits.age * SECOND;
    if entry.time < oldest {
        return Some((
            "greater_than_max_sample_age",
            format!(
                "entry for stream '{stream}' has timestamp too old: {}, oldest acceptable timestamp is: {}",
                told(entry.time),
                told(oldest)
            ),
        ));
    }
    if entry.time > now + limits.ahead * SECOND {
        return Some((
            "too_far_in_future",
            format!(
                "entry for stream '{stream}' has timestamp too new: {}",
                told(entry.time)
            ),
        ));
    }
    if entry.line.len() > limits.line {
        return Some((
            "line_too_long",
            format!(
                "max entry size '{}' bytes exceeded for stream '{stream}' while adding an entry with length '{}' bytes",
                limits.line,
                entry.line.len()
            ),
        ));
    }
    if !entry.metadata.is_empty() && !limits.allow_metadata {
        return Some((
            "disallowed_structured_metadata",
            format!(
                "stream '{stream}' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it"
            ),
        ));
    }
    let bytes: usize = entry.metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
    if bytes > limits.metadata_bytes {
        return Some((
            "structured_metadata_too_large",
            format!(
                "stream '{stream}' has structured metadata too large: '{bytes}' bytes, limit: '{}' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it",
                limits.metadata_bytes
            ),
        ));
    }
    if entry.metadata.len() > limits.metadata_entries {
        return Some((
            "structured_metadata_too_many",
            format!(
                "stream '{stream}' has too many structured metadata labels: '{}', limit: '{}'. Please see `limits_config.max_structured_metadata_entries_count`",
                entry.metadata.len(),
                limits.metadata_entries
            ),
        ));
    }
    None
}

fn entry_bytes(entry: &PushedEntry) -> usize {
    let metadata: usize = entry.metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
    entry.line.len() + metadata
}

/// As Loki writes it anew: `user.name-x` is `user_name_x`, and one that is a label too gets `_extracted`.
fn metadata_name(name: &str, labels: &BTreeMap<String, String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut name: String = name.chars().map(plain).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert_str(0, "key_");
    }
    if labels.contains_key(&name) {
        name.push_str("_extracted");
    }
    name
}

fn told(time: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(time)) {
        Ok(time) => format!("{time:.0}"),
        Err(_) => "0001-01-01T00:00:00Z".to_owned(),
    }
}
