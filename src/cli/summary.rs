//! What `run --once` tells a person: a line while it works, a short table at the end.

use crate::telemetry::status::Status;
use crate::telemetry::status_text::count;

/// One line: how far it is.
pub(super) fn progress(status: &Status) -> String {
    let read: u64 = status.sources.iter().map(|source| source.read_events).sum();
    let sinks: Vec<String> = status
        .sinks
        .iter()
        .filter(|sink| sink.state.as_deref() != Some("detached"))
        .map(|sink| {
            let state = sink.state.as_deref().unwrap_or("idle");
            let state = if matches!(state, "sending" | "idle") {
                String::new()
            } else {
                format!(" ({state})")
            };
            format!("{} {}{state}", sink.name, count(sink.delivered))
        })
        .collect();
    format!("read {} · delivered to {}", count(read), sinks.join(", "))
}

/// The table at the end.
pub(super) fn table(status: &Status) -> String {
    let mut rows = vec![["", "events", "rejected", "gaps", "pending"].map(str::to_owned)];
    for source in &status.sources {
        rows.push([
            format!("read from {}", source.name),
            count(source.read_events),
            String::new(),
            count(source.gaps_total),
            String::new(),
        ]);
        if source.malformed_events > 0 {
            rows.push([
                "  of these malformed".to_owned(),
                count(source.malformed_events),
                "".into(),
                "".into(),
                "".into(),
            ]);
        }
    }
    let dropped: u64 = status.stages.iter().map(|stage| stage.dropped_events).sum();
    rows.push([
        "dropped".to_owned(),
        count(dropped),
        String::new(),
        String::new(),
        String::new(),
    ]);
    for sink in status
        .sinks
        .iter()
        .filter(|sink| sink.state.as_deref() != Some("detached"))
    {
        rows.push([
            format!("delivered to {}", sink.name),
            count(sink.delivered),
            count(sink.dead_letter),
            count(sink.gap),
            count(sink.pending),
        ]);
    }
    aligned(&rows)
}

/// First column to the left, the others to the right.
fn aligned(rows: &[[String; 5]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Whether anything was rejected or is in a gap.
pub(super) fn has_loss(status: &Status) -> bool {
    status.sources.iter().any(|source| source.gaps_total > 0)
        || status
            .sinks
            .iter()
            .any(|sink| sink.dead_letter > 0 || sink.gap > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::{SinkStatus, SourceStatus};

    fn status() -> Status {
        Status {
            sources: vec![SourceStatus {
                name: "apiserver".into(),
                read_events: 1234,
                ..Default::default()
            }],
            sinks: vec![SinkStatus {
                name: "search".into(),
                state: Some("retrying".into()),
                delivered: 1000,
                dead_letter: 2,
                pending: 232,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_table_shows_read_dropped_delivered_rejected_and_gaps() {
        let expected = [
            "                     events  rejected  gaps  pending",
            "read from apiserver   1,234               0",
            "dropped                   0",
            "delivered to search   1,000         2     0      232",
            "",
        ]
        .join("\n");
        assert_eq!(table(&status()), expected);
    }

    #[test]
    fn progress_names_a_sink_that_does_not_get_on() {
        let expected = format!(
            "read {} · delivered to search {} (retrying)",
            count(1234),
            count(1000)
        );
        assert_eq!(progress(&status()), expected);
    }

    #[test]
    fn a_dead_letter_counts_as_loss() {
        assert!(has_loss(&status()));
        assert!(!has_loss(&Status::default()));
    }
}
