//! The status document as text for people: first what is wrong and what to do about it, then the tables.

use std::fmt::Write;

use super::status::{SinkStatus, SourceStatus, Status};

/// The whole text, ending in a line feed.
pub fn render(status: &Status) -> String {
    let mut out = format!(
        "auditship {}, cluster {}, node {}\n",
        status.version, status.cluster, status.node
    );
    let findings = findings(status);
    if findings.is_empty() {
        out.push_str("\nNothing is wrong.\n");
    } else {
        out.push_str("\nTo look at, the first thing first:\n");
        for finding in findings {
            out.push_str(&format!("  - {finding}\n"));
        }
    }
    out.push('\n');
    push_sources(&mut out, &status.sources);
    if !status.stages.is_empty() {
        let rows = status
            .stages
            .iter()
            .map(|stage| vec![stage.name.clone(), count(stage.dropped_events)]);
        push_table(&mut out, &["STAGE", "DROPPED"], rows);
    }
    push_sinks(&mut out, &status.sinks);
    let spool = &status.spool;
    let held = spool.next_record.saturating_sub(spool.oldest_record);
    let line = format!(
        "spool {}: {} events ever spooled, {} of them still held, {}\n",
        spool.id,
        count(spool.events),
        count(held),
        size(spool.bytes)
    );
    out.push_str(&line);
    out
}

/// What is wrong, worst first, each with what to do.
fn findings(status: &Status) -> Vec<String> {
    let mut findings = Vec::new();
    let state = |state: &Option<String>, is: &str| state.as_deref() == Some(is);
    let reason = |sink: &SinkStatus| {
        sink.last_error
            .clone()
            .unwrap_or_else(|| "no reason is known".to_owned())
    };
    for source in status
        .sources
        .iter()
        .filter(|source| state(&source.state, "failed"))
    {
        findings.push(format!(
            "source {} has failed and reads nothing: the log and `/readyz` say why",
            source.name
        ));
    }
    for sink in status
        .sinks
        .iter()
        .filter(|sink| state(&sink.state, "stopped"))
    {
        findings.push(format!(
            "sink {} is stopped, {} events wait: {}. It goes on by itself within 10 s once that is mended",
            sink.name,
            count(sink.pending),
            reason(sink)
        ));
    }
    for sink in status
        .sinks
        .iter()
        .filter(|sink| state(&sink.state, "retrying"))
    {
        let next = sink
            .retry_at
            .as_ref()
            .map_or(String::new(), |at| format!(", next attempt at {at}"));
        findings.push(format!(
            "sink {} is retrying, {} events wait: {}{next}",
            sink.name,
            count(sink.pending),
            reason(sink)
        ));
    }
    for source in status
        .sources
        .iter()
        .filter(|source| state(&source.state, "waiting"))
    {
        findings.push(format!(
            "source {} waits: is its file there and readable, has the spool room?",
            source.name
        ));
    }
    for source in status.sources.iter().filter(|source| source.gaps_total > 0) {
        let newest = source
            .gaps
            .last()
            .map_or(String::new(), |gap| format!(", the newest: {}", gap.reason));
        findings.push(format!(
            "source {} has {} recorded {}{newest}: events that could not be had (`auditship status --json` has the ranges)",
            source.name,
            count(source.gaps_total),
            if source.gaps_total == 1 { "gap" } else { "gaps" },
        ));
    }
    for sink in status.sinks.iter().filter(|sink| sink.gap > 0) {
        findings.push(format!(
            "sink {} does not get {} events that are in its recorded gaps",
            sink.name,
            count(sink.gap)
        ));
    }
    for sink in &status.sinks {
        let left = letters_left(sink);
        if left > 0 {
            findings.push(format!(
                "sink {} has {} dead letters: `auditship dead-letter ls` says why each was refused",
                sink.name,
                count(left)
            ));
        }
    }
    findings
}

/// Dead letters that nobody has replayed or removed. The status has the newest 100 gaps, so behind more removals than
/// that some are counted that are gone.
fn letters_left(sink: &SinkStatus) -> u64 {
    let removed = sink
        .gaps
        .iter()
        .filter(|gap| gap.reason == "removed")
        .map(|gap| gap.last - gap.first + 1);
    sink.dead_letter
        .saturating_sub(sink.replayed)
        .saturating_sub(removed.sum())
}

fn push_sources(out: &mut String, sources: &[SourceStatus]) {
    let rows = sources.iter().map(|source| {
        vec![
            source.name.clone(),
            source.state.clone().unwrap_or_else(|| "-".to_owned()),
            count(source.read_events),
            source.unread_bytes.map_or_else(|| "-".to_owned(), size),
            count(source.malformed_events),
            count(source.gaps_total),
        ]
    });
    push_table(
        out,
        &["SOURCE", "STATE", "READ", "UNREAD", "MALFORMED", "GAPS"],
        rows,
    );
}

fn push_sinks(out: &mut String, sinks: &[SinkStatus]) {
    let rows = sinks.iter().map(|sink| {
        vec![
            sink.name.clone(),
            sink.state.clone().unwrap_or_else(|| "-".to_owned()),
            count(sink.delivered),
            count(sink.pending),
            count(sink.not_selected),
            count(sink.dead_letter),
            count(sink.gap),
        ]
    });
    push_table(
        out,
        &[
            "SINK",
            "STATE",
            "DELIVERED",
            "PENDING",
            "NOT SELECTED",
            "DEAD LETTERS",
            "GAP",
        ],
        rows,
    );
}

/// Columns two spaces apart: the first two to the left, numbers to the right; an empty line behind.
fn push_table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table: Vec<Vec<String>> = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    table.extend(rows);
    let numbers_from = if head.contains(&"STATE") { 2 } else { 1 };
    let width = |column: usize| {
        table
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    for row in &table {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let gap = if column == 0 { "" } else { "  " };
            let written = if column < numbers_from {
                write!(line, "{gap}{cell:<width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
            written.expect("writing to a String cannot fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
}

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes as `512 B`, `1.5 KiB`, `20.0 GiB`.
pub fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{SinkGapStatus, SourceGapStatus, SpoolStatus, StageStatus};
    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".into(),
            cluster: "prod".into(),
            node: "cp-1".into(),
            sources: vec![SourceStatus {
                name: "apiserver".into(),
                state: Some("caught_up".into()),
                read_events: 1_234_567,
                unread_bytes: Some(0),
                ..Default::default()
            }],
            stages: vec![],
            spool: SpoolStatus {
                id: "0a1b2c3d".into(),
                events: 1_234_567,
                bytes: 3 << 19,
                oldest_record: 1_234_000,
                next_record: 1_234_567,
            },
            sinks: vec![SinkStatus {
                name: "archive".into(),
                state: Some("idle".into()),
                delivered: 1_234_567,
                ..Default::default()
            }],
        }
    }

    #[test]
    fn a_healthy_agent_says_so_and_shows_its_tables() {
        let expected = "\
auditship 0.1.0, cluster prod, node cp-1

Nothing is wrong.

SOURCE     STATE           READ  UNREAD  MALFORMED  GAPS
apiserver  caught_up  1,234,567     0 B          0     0

SINK     STATE  DELIVERED  PENDING  NOT SELECTED  DEAD LETTERS  GAP
archive  idle   1,234,567        0             0             0    0

spool 0a1b2c3d: 1,234,567 events ever spooled, 567 of them still held, 1.5 MiB
";
        assert_eq!(render(&status()), expected);
    }

    #[test]
    fn dead_letters_that_a_person_removed_are_no_longer_wrong() {
        let mut status = status();
        status.sinks[0].dead_letter = 4;
        status.sinks[0].replayed = 1;
        let removed = |first, last| SinkGapStatus {
            reason: "removed".into(),
            first,
            last,
        };
        status.sinks[0].gaps = vec![removed(7, 7)];
        assert!(render(&status).contains("sink archive has 2 dead letters"));
        status.sinks[0].gaps.push(removed(9, 10));
        assert!(render(&status).contains("Nothing is wrong."));
    }

    #[test]
    fn what_is_wrong_comes_first_and_the_worst_before_the_rest() {
        let mut status = status();
        status.stages.push(StageStatus {
            name: "filter".into(),
            dropped_events: 7,
        });
        status.sources[0].gaps_total = 1;
        status.sources[0].gaps.push(SourceGapStatus {
            reason: "deleted".into(),
            ..Default::default()
        });
        let stopped = SinkStatus {
            name: "search".into(),
            state: Some("stopped".into()),
            pending: 4200,
            dead_letter: 3,
            replayed: 1,
            last_error: Some("401: renew auth.api_key".into()),
            ..Default::default()
        };
        let retrying = SinkStatus {
            name: "slow".into(),
            state: Some("retrying".into()),
            ..Default::default()
        };
        status.sinks = vec![retrying, stopped];
        let text = render(&status);
        let findings: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("  - "))
            .collect();
        assert_eq!(findings.len(), 4, "{text}");
        assert!(
            findings[0].contains("search is stopped, 4,200 events wait: 401: renew auth.api_key"),
            "{text}"
        );
        assert!(findings[1].contains("slow is retrying"), "{text}");
        assert!(
            findings[2].contains("1 recorded gap, the newest: deleted"),
            "{text}"
        );
        assert!(findings[3].contains("search has 2 dead letters"), "{text}");
        assert!(
            text.contains("STAGE   DROPPED\nfilter        7\n"),
            "{text}"
        );
    }

    #[test]
    fn an_agent_that_does_not_run_has_no_states() {
        let mut status = status();
        status.sources[0].state = None;
        status.sources[0].unread_bytes = None;
        status.sinks[0].state = None;
        let text = render(&status);
        assert!(
            text.contains("apiserver  -      1,234,567       -"),
            "{text}"
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_000_000].map(count),
            ["0", "999", "1,000", "1,000,000"]
        );
        assert_eq!(
            [0, 1023, 1024, 5 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "5.0 TiB"]
        );
    }
}
