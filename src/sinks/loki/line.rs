//! One record as one line of Loki with its timestamp. A function of the record alone, so that a push that is sent again
//! is the same byte for byte and Loki sees one line.
//!
//! Invariants: an event's bytes are spliced in unchanged, so that taking `"auditship_id"` out gives them back; a line is
//! valid UTF-8 always (Loki answers with U+FFFD for what is not), and valid JSON.
//!
//! ```text
//! {"auditship_id":ID,…                                                     an event: its own members follow
//! {"auditship_id":ID,"event":{"original":LINE}}                            a line that is no event, or is over its source's `line_max`
//! {"auditship_id":ID,"event":{"original":BASE64,"encoding":"base64"}}      the same, and an event, where it is not UTF-8 or
//!                                                                          escapes would more than double it
//! ```

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::order::Nanos;
use crate::event::LineKind;
use crate::sinks::{Body, Form, Record};

/// Lines up to this length stand as text however much escaping they need.
const TEXT_ALWAYS_BYTES: usize = 8 << 10;

/// What a line has beside its event, from above.
const FRAME_BYTES: u64 = 112;

/// `TIME` to microseconds, and nanoseconds from the first two bytes of the id, so that events of one microsecond are
/// apart. A time that nanoseconds cannot hold stands at the end of the range.
pub(super) fn timestamp(record: &Record) -> Nanos {
    let [first, second, ..] = record.head.id.0;
    let nanos = u16::from_be_bytes([first, second]) % 1000;
    record
        .time_us()
        .saturating_mul(1000)
        .saturating_add(i64::from(nanos))
}

/// Bytes of a record's line, from above.
pub(super) fn weigh(record: &Record) -> u64 {
    let length = record.head.length;
    FRAME_BYTES
        + match record.head.kind {
            LineKind::Event => length,
            _ if length <= TEXT_ALWAYS_BYTES as u64 => 6 * length,
            _ => 2 * length,
        }
}

/// Appends a record's line to `out`, which is empty; `None` where it would be longer than `max`. Reads an oversize line
/// from the spool.
pub(super) fn write(
    record: &Record,
    form: Form,
    max: usize,
    out: &mut String,
) -> io::Result<Option<()>> {
    out.push_str("{\"auditship_id\":\"");
    out.push_str(&record.head.id.to_hex());
    out.push('"');
    // Base64 and text alike are no shorter than the line.
    if record.head.length.saturating_add(out.len() as u64) > max as u64 {
        return Ok(None);
    }
    match &record.body {
        Body::Whole(bytes) => whole(record.head.kind, form, bytes, out),
        Body::Pieces(pieces) => {
            let mut line = Vec::new();
            let mut index = 0;
            while let Some(piece) = pieces.piece(index)? {
                line.extend_from_slice(&piece);
                index += 1;
            }
            original(&line, out);
        }
    }
    Ok((out.len() <= max).then_some(()))
}

fn whole(kind: LineKind, form: Form, bytes: &[u8], out: &mut String) {
    let text = std::str::from_utf8(bytes).ok();
    let object = match (kind, form) {
        (LineKind::Event, Form::Normal) => {
            text.and_then(|text| text.trim_ascii().strip_prefix('{'))
        }
        _ => None,
    };
    match (object, text) {
        (Some(members), Some(text)) => splice(text, members, out),
        _ => original(bytes, out),
    }
}

/// `{` and what stands before it move in front of the id, all else behind it.
fn splice(text: &str, members: &str, out: &mut String) {
    let blanks = text.len() - text.trim_ascii_start().len();
    out.insert_str(0, &text[..blanks]);
    if !members.trim_ascii_start().starts_with('}') {
        out.push(',');
    }
    out.push_str(&text[blanks + 1..]);
}

fn original(line: &[u8], out: &mut String) {
    out.push_str(",\"event\":{\"original\":\"");
    let start = out.len();
    if let Ok(text) = std::str::from_utf8(line) {
        escape(text, out);
        let escaped = out.len() - start;
        if line.len() <= TEXT_ALWAYS_BYTES || escaped <= 2 * line.len() {
            out.push_str("\"}}");
            return;
        }
        out.truncate(start);
    }
    BASE64.encode_string(line, out);
    out.push_str("\",\"encoding\":\"base64\"}}");
}

/// Appends `text` as it stands inside a JSON string.
pub(super) fn escape(text: &str, out: &mut String) {
    let mut start = 0;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let escaped = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x20.. => continue,
            _ => "",
        };
        out.push_str(&text[start..at]);
        start = at + 1;
        match escaped {
            "" => out.push_str(&format!("\\u{byte:04x}")),
            _ => out.push_str(escaped),
        }
    }
    out.push_str(&text[start..]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::sinks::Pieces;
    use crate::sinks::testing::record;

    fn written(record: &Record, form: Form) -> String {
        let mut out = String::new();
        let fits = write(record, form, 1 << 20, &mut out).expect("no pieces that fail");
        assert_eq!(fits, Some(()));
        assert!(weigh(record) >= out.len() as u64, "weighed from above");
        assert!(
            serde_json::from_str::<&serde_json::value::RawValue>(&out).is_ok(),
            "{out}"
        );
        out.replace(&record.head.id.to_hex(), "ID")
    }

    #[track_caller]
    fn check(kind: LineKind, line: &[u8], expected: &str) {
        assert_eq!(written(&record(7, kind, line), Form::Normal), expected);
    }

    #[test]
    fn an_event_has_the_id_first_and_its_own_bytes_behind() {
        for (line, expected) in [
            (
                r#"{"a":1.50,  "b":"\ud800"}"#,
                r#"{"auditship_id":"ID","a":1.50,  "b":"\ud800"}"#,
            ),
            ("{}", r#"{"auditship_id":"ID"}"#),
            ("{ \t}", "{\"auditship_id\":\"ID\" \t}"),
            (" { \"a\":1} ", " {\"auditship_id\":\"ID\", \"a\":1} "),
            ("{\"é\":\"例\"}", "{\"auditship_id\":\"ID\",\"é\":\"例\"}"),
        ] {
            check(LineKind::Event, line.as_bytes(), expected);
        }
    }

    #[test]
    fn what_is_no_event_or_no_text_is_kept_so_that_its_bytes_come_back() {
        check(
            LineKind::Malformed,
            b"{\"torn\x01\t",
            "{\"auditship_id\":\"ID\",\"event\":{\"original\":\"{\\\"torn\\u0001\\t\"}}",
        );
        check(
            LineKind::Malformed,
            b"",
            r#"{"auditship_id":"ID","event":{"original":""}}"#,
        );
        let base64 =
            r#"{"auditship_id":"ID","event":{"original":"eyJhIjoi/yJ9","encoding":"base64"}}"#;
        check(LineKind::Malformed, b"{\"a\":\"\xff\"}", base64);
        check(LineKind::Event, b"{\"a\":\"\xff\"}", base64);
        let event = record(1, LineKind::Event, br#"{"a":1}"#);
        assert_eq!(
            written(&event, Form::Fallback),
            r#"{"auditship_id":"ID","event":{"original":"{\"a\":1}"}}"#
        );
    }

    #[test]
    fn escapes_never_more_than_double_a_long_line() {
        let line = vec![0; TEXT_ALWAYS_BYTES + 1];
        let text = written(&record(1, LineKind::Malformed, &line), Form::Normal);
        assert!(text.ends_with("\"encoding\":\"base64\"}}"));
        assert!(text.len() < 2 * line.len());
    }

    struct Halves(Vec<Bytes>);

    impl Pieces for Halves {
        fn piece(&self, index: usize) -> io::Result<Option<Bytes>> {
            Ok(self.0.get(index).cloned())
        }
    }

    #[test]
    fn an_oversize_line_that_fits_is_put_together_and_a_longer_one_is_not_read() {
        let mut long = record(1, LineKind::Oversize, b"abcdef");
        let halves = vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
        long.body = Body::Pieces(Arc::new(Halves(halves)));
        assert_eq!(
            written(&long, Form::Normal),
            r#"{"auditship_id":"ID","event":{"original":"abcdef"}}"#
        );
        struct Unread;
        impl Pieces for Unread {
            fn piece(&self, _: usize) -> io::Result<Option<Bytes>> {
                panic!("it is known to be too long")
            }
        }
        long.head.length = 1 << 30;
        long.body = Body::Pieces(Arc::new(Unread));
        assert_eq!(
            write(&long, Form::Normal, 1 << 20, &mut String::new()).expect("unread"),
            None
        );
    }

    #[test]
    fn the_limit_is_on_the_whole_line() {
        let event = record(1, LineKind::Event, br#"{"a":1}"#);
        let length = {
            let mut out = String::new();
            write(&event, Form::Normal, 1000, &mut out).expect("whole");
            out.len()
        };
        let fits = |max| write(&event, Form::Normal, max, &mut String::new()).expect("whole");
        assert_eq!((fits(length), fits(length - 1)), (Some(()), None));
    }

    #[test]
    fn a_timestamp_has_microseconds_of_the_event_and_nanoseconds_of_its_id() {
        let mut event = record(1, LineKind::Event, b"{}");
        event.head.id.0[..2].copy_from_slice(&[0x12, 0x34]); // 4660
        event.head.time_us = Some(1_767_323_045_678_901);
        assert_eq!(timestamp(&event), 1_767_323_045_678_901_660);
        event.head.time_us = None;
        assert_eq!(timestamp(&event), 1_700_000_000_000_000_660);
        event.head.time_us = Some(i64::MAX / 10);
        assert_eq!(timestamp(&event), i64::MAX);
    }
}
