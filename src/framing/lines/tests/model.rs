//! What framing must give, by the plain rules: quadratic, and with all bytes at once.

use super::*;

/// The same by the plain rules, quadratic and all at once.
pub(super) fn model(bounds: Bounds, bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let nuls = bytes[at..].iter().take_while(|byte| **byte == 0).count();
        if bytes[at] == b'\n' {
            model_line(bounds, &bytes[start..at], start, 1, &mut seen);
            at += 1;
            start = at;
        } else if nuls > bounds.nul_max {
            if start < at {
                model_line(bounds, &bytes[start..at], start, 0, &mut seen);
            }
            let from = at as u64;
            at += nuls;
            at += usize::from(bytes.get(at) == Some(&b'\n'));
            start = at;
            seen.push(Seen::Gap {
                from,
                to: at as u64,
            });
        } else {
            at += nuls.max(1);
        }
    }
    if start < bytes.len() {
        model_line(bounds, &bytes[start..], start, 0, &mut seen);
    }
    seen
}

fn model_line(bounds: Bounds, line: &[u8], offset: usize, line_feed: usize, seen: &mut Vec<Seen>) {
    let oversize = line.len() > bounds.line_max;
    let event_at = if oversize {
        (line.len() - bounds.line_max..line.len()).find(|&at| starts_an_event(&line[at..]))
    } else if is_event(line) {
        Some(0)
    } else {
        (1..line.len()).find(|&at| starts_an_event(&line[at..]))
    };
    let end = |at: usize| (offset + at + if at == line.len() { line_feed } else { 0 }) as u64;
    let before = event_at.unwrap_or(line.len());
    let bytes = line[..before].to_vec();
    if oversize {
        let envelope = head_fields(&line[..bounds.line_max]);
        let time_us = stage_timestamp_us(&envelope);
        let (length, hash) = (before as u64, LineHash::of(&bytes));
        let done = OversizeEnd {
            length,
            end: end(before),
            hash,
            envelope,
            time_us,
        };
        seen.push(Seen::Oversize {
            offset: offset as u64,
            bytes,
            done,
        });
    } else if event_at != Some(0) {
        let (offset, end, kind) = (offset as u64, end(before), LineKind::Malformed);
        seen.push(Seen::Line {
            offset,
            end,
            kind,
            time_us: None,
            bytes,
        });
    }
    if let Some(at) = event_at {
        let bytes = line[at..].to_vec();
        let time_us = stage_timestamp_us(&bytes);
        let (offset, end, kind) = ((offset + at) as u64, end(line.len()), LineKind::Event);
        seen.push(Seen::Line {
            offset,
            end,
            kind,
            time_us,
            bytes,
        });
    }
}

fn starts_an_event(bytes: &[u8]) -> bool {
    bytes.starts_with(EVENT_START) && is_event(bytes)
}
