//! How one record becomes one line of text: `raw` (the line and one line feed) and `envelope` (one JSON object that
//! carries id, origin, position and labels beside the event). Shared by the sinks that write lines.
//!
//! Invariants: an event's bytes are spliced in unchanged; one record gives exactly one line feed, at its end; a line
//! over `line_max` is never held whole, whatever the format.
//!
//! ```text
//! {"id":…,"cluster":…,"node":…,"source":…,"position":{"generation":…,"offset":…},"hash":…,"labels":{…},
//!  "event":EVENT}                                                 one event
//!  "event":null,"original":"…","encoding":"utf-8"}               a line that is not one event, or is over `line_max`
//!  "event":null,"original":"…","encoding":"base64"}              the same where the line is not UTF-8
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::engine::general_purpose::STANDARD;

use super::{Body, Record};
use crate::event::LineKind;

/// What one record becomes.
#[derive(Debug)]
pub(super) enum LineFormat {
    /// The line and one line feed.
    Raw,
    /// One JSON object, with these labels (an encoded object).
    Envelope {
        /// `agent.labels` as a JSON object.
        labels: Vec<u8>,
    },
}

impl LineFormat {
    /// The envelope with the agent's labels.
    pub(super) fn envelope(labels: &BTreeMap<String, String>) -> Self {
        let mut encoded = vec![b'{'];
        for (index, (name, value)) in labels.iter().enumerate() {
            if index > 0 {
                encoded.push(b',');
            }
            push_string(&mut encoded, name);
            encoded.push(b':');
            push_string(&mut encoded, value);
        }
        encoded.push(b'}');
        LineFormat::Envelope { labels: encoded }
    }

    /// Writes one record with its line feed.
    pub(super) fn write(&self, record: &Record, out: &mut dyn Write) -> io::Result<()> {
        match self {
            LineFormat::Raw => each_part(&record.body, &mut |part| out.write_all(part))?,
            LineFormat::Envelope { labels } => write_envelope(record, labels, out)?,
        }
        out.write_all(b"\n")
    }

    /// Bytes that [`LineFormat::write`] makes at most.
    pub(super) fn weigh(&self, record: &Record) -> u64 {
        match self {
            LineFormat::Raw => record.head.length.saturating_add(1),
            LineFormat::Envelope { labels } => {
                let origin = &record.origin;
                // Every byte of a name may become six (`\u0001`), as may every byte of a line that is no event.
                let names = 6 * (origin.cluster.len() + origin.node.len() + origin.source.len());
                let factor = if record.head.kind == LineKind::Event {
                    1
                } else {
                    6
                };
                let frame = (names + labels.len()) as u64 + 320;
                record
                    .head
                    .length
                    .saturating_mul(factor)
                    .saturating_add(frame)
            }
        }
    }
}

fn write_envelope(record: &Record, labels: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let mut head = Vec::with_capacity(512);
    for (name, value) in [
        ("{\"id\":", record.head.id.to_hex().as_str()),
        (",\"cluster\":", &record.origin.cluster),
        (",\"node\":", &record.origin.node),
        (",\"source\":", &record.origin.source),
        (",\"position\":{\"generation\":", &record.generation.short()),
    ] {
        head.extend_from_slice(name.as_bytes());
        push_string(&mut head, value);
    }
    head.extend_from_slice(format!(",\"offset\":{}}},\"hash\":", record.head.offset).as_bytes());
    push_string(&mut head, &record.head.hash.to_hex());
    head.extend_from_slice(b",\"labels\":");
    head.extend_from_slice(labels);
    head.extend_from_slice(b",\"event\":");
    out.write_all(&head)?;
    match (&record.body, record.head.kind) {
        (Body::Whole(line), LineKind::Event) => out.write_all(line)?,
        _ => write_original(&record.body, out)?,
    }
    out.write_all(b"}")
}

/// A line that is not spliced in as JSON: as a string where it is UTF-8, else as base64.
fn write_original(body: &Body, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"null,\"original\":\"")?;
    if is_utf8(body)? {
        each_part(body, &mut |part| write_escaped(part, out))?;
        return out.write_all(b"\",\"encoding\":\"utf-8\"");
    }
    let mut encoder = base64::write::EncoderWriter::new(&mut *out, &STANDARD);
    each_part(body, &mut |part| encoder.write_all(part))?;
    encoder.finish()?;
    drop(encoder);
    out.write_all(b"\",\"encoding\":\"base64\"")
}

/// Hands over the line's bytes in order, piece by piece where it is oversize.
pub(super) fn each_part(
    body: &Body,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    match body {
        Body::Whole(line) => take(line),
        Body::Pieces(pieces) => {
            let mut index = 0;
            while let Some(piece) = pieces.piece(index)? {
                take(&piece)?;
                index += 1;
            }
            Ok(())
        }
    }
}

/// Whether the line is UTF-8 as a whole; a character may lie across two pieces.
fn is_utf8(body: &Body) -> io::Result<bool> {
    let mut valid = true;
    let mut open = Vec::with_capacity(4);
    each_part(body, &mut |mut part| {
        while valid && !open.is_empty() && !part.is_empty() {
            open.push(part[0]);
            part = &part[1..];
            match std::str::from_utf8(&open) {
                Ok(_) => open.clear(),
                Err(error) => valid = error.error_len().is_none(),
            }
        }
        if let Err(error) = std::str::from_utf8(part) {
            valid &= error.error_len().is_none();
            open.extend_from_slice(&part[error.valid_up_to()..]);
        }
        open.truncate(4);
        Ok(())
    })?;
    Ok(valid && open.is_empty())
}

/// Bytes of a JSON string. Works on any part of UTF-8 text: what is escaped is ASCII alone.
fn write_escaped(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.write_all(&bytes[from..at])?;
        from = at + 1;
        match byte {
            b'"' => out.write_all(b"\\\"")?,
            b'\\' => out.write_all(b"\\\\")?,
            b'\t' => out.write_all(b"\\t")?,
            b'\r' => out.write_all(b"\\r")?,
            b'\n' => out.write_all(b"\\n")?,
            _ => write!(out, "\\u{byte:04x}")?,
        }
    }
    out.write_all(&bytes[from..])
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(text.as_bytes(), out).expect("writing to a Vec cannot fail");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::Pieces;
    use super::super::testing::{record, record_at};
    use super::*;

    fn written(format: &LineFormat, record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        format.write(record, &mut out).expect("write to memory");
        assert!(
            format.weigh(record) >= out.len() as u64,
            "weigh is an estimate from above"
        );
        out
    }

    fn envelope(record: &Record) -> serde_json::Value {
        let labels = BTreeMap::from([("env".to_owned(), "prod \"1\"".to_owned())]);
        let out = written(&LineFormat::envelope(&labels), record);
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        serde_json::from_slice(&out).expect("one JSON object")
    }

    struct Cut(Vec<Bytes>);

    impl Pieces for Cut {
        fn piece(&self, index: usize) -> io::Result<Option<Bytes>> {
            Ok(self.0.get(index).cloned())
        }
    }

    fn oversize(line: &[u8], piece: usize) -> Record {
        let mut record = record(7, LineKind::Oversize, line);
        record.body = Body::Pieces(Arc::new(Cut(line
            .chunks(piece)
            .map(Bytes::copy_from_slice)
            .collect())));
        record
    }

    #[test]
    fn raw_is_the_line_and_one_line_feed() {
        assert_eq!(
            written(&LineFormat::Raw, &record(0, LineKind::Event, b"{\"a\":1}")),
            b"{\"a\":1}\n"
        );
        assert_eq!(
            written(&LineFormat::Raw, &record(0, LineKind::Malformed, b"\0\xff")),
            b"\0\xff\n"
        );
        assert_eq!(
            written(&LineFormat::Raw, &oversize(b"abcdefg", 3)),
            b"abcdefg\n"
        );
    }

    #[test]
    fn envelope_carries_id_origin_position_hash_and_labels() {
        let line = b"{\"auditID\":\"x\"}";
        let record = record_at(3, LineKind::Event, line, 1234);
        let value = envelope(&record);
        assert_eq!(
            value
                .as_object()
                .expect("object")
                .keys()
                .collect::<Vec<_>>(),
            [
                "id", "cluster", "node", "source", "position", "hash", "labels", "event"
            ]
        );
        assert_eq!(value["id"], record.head.id.to_hex());
        assert_eq!(value["cluster"], "c1");
        assert_eq!(value["node"], "n1");
        assert_eq!(value["source"], "apiserver");
        assert_eq!(value["position"]["generation"], record.generation.short());
        assert_eq!(value["position"]["offset"], 1234);
        assert_eq!(value["hash"], record.head.hash.to_hex());
        assert_eq!(value["labels"]["env"], "prod \"1\"");
        assert_eq!(value["event"]["auditID"], "x");
    }

    #[test]
    fn envelope_splices_the_events_bytes_unchanged() {
        let line = b"{ \"a\" : 1.0e2,\"a\":\"\\ud800 \xff\" }";
        let out = written(
            &LineFormat::envelope(&BTreeMap::new()),
            &record(0, LineKind::Event, line),
        );
        let at = out.len() - line.len() - 2;
        assert_eq!(&out[at..], [line.as_slice(), b"}\n"].concat());
    }

    #[test]
    fn a_malformed_line_is_given_as_text_or_base64() {
        let value = envelope(&record(
            0,
            LineKind::Malformed,
            "torn \" \\ \u{1} ü".as_bytes(),
        ));
        assert_eq!(value["event"], serde_json::Value::Null);
        assert_eq!(value["original"], "torn \" \\ \u{1} ü");
        assert_eq!(value["encoding"], "utf-8");
        let value = envelope(&record(0, LineKind::Malformed, b"a\xff\0"));
        assert_eq!(value["original"], "Yf8A");
        assert_eq!(value["encoding"], "base64");
    }

    #[test]
    fn an_oversize_line_reads_the_same_however_it_is_cut() {
        let text = "aü€😀b\"\n".repeat(5);
        for piece in 1..9 {
            let value = envelope(&oversize(text.as_bytes(), piece));
            assert_eq!(
                (&value["original"], &value["encoding"]),
                (&text.clone().into(), &"utf-8".into())
            );
            for bad in [
                &b"a\xf0\x9f\x98"[..],
                b"\xe2\x82a\xe2\x82\xac",
                b"ab\x80cdef",
                b"\xed\xa0\x80x",
            ] {
                let value = envelope(&oversize(bad, piece));
                assert_eq!(value["encoding"], "base64", "{bad:?} in pieces of {piece}");
                use base64::Engine as _;
                let original = value["original"].as_str().expect("a string");
                assert_eq!(STANDARD.decode(original).expect("base64"), bad);
            }
        }
    }
}
