//! An event as a record of Kafka: the line as its value, what is known about it in headers beside.
//!
//! ```text
//! auditship-id         the event id
//! auditship-origin     cluster/node/source
//! auditship-position   generation:offset
//! auditship-malformed  1, where the line is not one event
//! …                    `agent.labels`, by their names
//! ```

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use super::settings::Key;
use crate::event::LineKind;
use crate::sinks::{Body, Pieces, Record, Rejection, RejectionKind};

/// A record as it is queued; librdkafka copies it.
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: OwnedHeaders,
    /// Since the Unix epoch.
    pub(super) timestamp_ms: i64,
}

impl Message<'_> {
    /// Of key and value, as a delivery report counts them.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Makes keys and headers.
pub(super) struct Encoder {
    key: Key,
    labels: BTreeMap<String, String>,
    labels_bytes: usize,
    bytes_max: usize,
}

/// What a record has beside its value, names and values of headers together; origins are longer by their own length.
const HEADERS_BYTES: usize = 160;

impl Encoder {
    /// `bytes_max` is of a record with key and headers.
    pub(super) fn new(key: Key, labels: &BTreeMap<String, String>, bytes_max: usize) -> Self {
        Encoder {
            key,
            labels_bytes: labels
                .iter()
                .map(|(name, value)| name.len() + value.len() + 4)
                .sum(),
            labels: labels.clone(),
            bytes_max,
        }
    }

    /// Bytes of a record before compression, from above.
    pub(super) fn weigh(&self, record: &Record) -> u64 {
        let beside = self.labels_bytes + HEADERS_BYTES + 2 * origin_bytes(record);
        record.head.length + beside as u64
    }

    /// Refuses what no producer of ours takes.
    pub(super) fn fits(&self, record: &Record) -> Result<(), Rejection> {
        let bytes = self.weigh(record);
        if bytes <= self.bytes_max as u64 {
            return Ok(());
        }
        Err(Rejection {
            kind: RejectionKind::TooLarge,
            class: "message_too_large".to_owned(),
            reason: format!(
                "a record of {bytes} bytes, at most {} are sent (librdkafka's `message.max.bytes`)",
                self.bytes_max
            ),
        })
    }

    /// The key.
    pub(super) fn key(&self, record: &Record) -> String {
        match self.key {
            Key::Id => record.head.id.to_hex(),
            Key::Origin => record.origin.to_string(),
        }
    }

    /// The headers.
    pub(super) fn headers(&self, record: &Record) -> OwnedHeaders {
        let add = |headers: OwnedHeaders, key: &str, value: &str| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        };
        let position = format!("{}:{}", record.generation.short(), record.head.offset);
        let mut headers = OwnedHeaders::new_with_capacity(4 + self.labels.len());
        headers = add(headers, "auditship-id", &record.head.id.to_hex());
        headers = add(headers, "auditship-origin", &record.origin.to_string());
        headers = add(headers, "auditship-position", &position);
        if record.head.kind != LineKind::Event {
            headers = add(headers, "auditship-malformed", "1");
        }
        for (name, value) in &self.labels {
            headers = add(headers, name, value);
        }
        headers
    }
}

fn origin_bytes(record: &Record) -> usize {
    let origin = &record.origin;
    origin.cluster.len() + origin.node.len() + origin.source.len() + 2
}

/// The event's time. Kafka takes zero for "now" and anything below for no time at all.
pub(super) fn timestamp_ms(record: &Record) -> i64 {
    record.time_us().div_euclid(1000).max(1)
}

/// The line of a record that [`Encoder::fits`], in one piece.
pub(super) async fn value(record: &Record) -> io::Result<Bytes> {
    let pieces = match &record.body {
        Body::Whole(line) => return Ok(line.clone()),
        Body::Pieces(pieces) => pieces.clone(),
    };
    let length = record.head.length;
    tokio::task::spawn_blocking(move || assemble(&*pieces, length))
        .await
        .map_err(io::Error::other)?
}

fn assemble(pieces: &dyn Pieces, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut line = Vec::with_capacity(length);
    for index in 0.. {
        let Some(piece) = pieces.piece(index)? else {
            break;
        };
        if line.len() + piece.len() > length {
            return Err(io::Error::other("the line is longer than its record says"));
        }
        line.extend_from_slice(&piece);
    }
    if line.len() != length {
        return Err(io::Error::other("the line is shorter than its record says"));
    }
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::sinks::testing::record_at;

    fn encoder(key: Key, bytes_max: usize) -> Encoder {
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        Encoder::new(key, &labels, bytes_max)
    }

    #[track_caller]
    fn check(kind: LineKind, expected: &[(&str, &str)]) {
        let record = record_at(3, kind, b"{}", 77);
        let headers = encoder(Key::Id, 1000).headers(&record);
        let found: Vec<(String, String)> = headers
            .iter()
            .map(|header| {
                let value = std::str::from_utf8(header.value.unwrap_or_default()).unwrap();
                (
                    header.key.to_owned(),
                    value.replace(&record.head.id.to_hex(), "ID"),
                )
            })
            .collect();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn headers_say_what_the_line_does_not() {
        let generation = record_at(3, LineKind::Event, b"{}", 77).generation.short();
        let position = format!("{generation}:77");
        let id = ("auditship-id", "ID");
        let origin = ("auditship-origin", "c1/n1/apiserver");
        let position = ("auditship-position", &*position);
        let malformed = ("auditship-malformed", "1");
        let label = ("env", "prod");
        check(LineKind::Event, &[id, origin, position, label]);
        check(
            LineKind::Malformed,
            &[id, origin, position, malformed, label],
        );
        check(
            LineKind::Oversize,
            &[id, origin, position, malformed, label],
        );
    }

    #[test]
    fn the_key_is_the_id_or_the_origin() {
        let record = record_at(3, LineKind::Event, b"{}", 77);
        assert_eq!(encoder(Key::Id, 1000).key(&record), record.head.id.to_hex());
        assert_eq!(encoder(Key::Origin, 1000).key(&record), "c1/n1/apiserver");
    }

    #[test]
    fn a_record_is_weighed_from_above_and_refused_when_it_is_too_heavy() {
        let record = record_at(u64::MAX, LineKind::Malformed, &[b'x'; 500], u64::MAX);
        let encoder = encoder(Key::Origin, 800);
        let headers = encoder.headers(&record);
        let beside: usize = headers
            .iter()
            .map(|header| header.key.len() + header.value.unwrap_or_default().len() + 4)
            .sum();
        let real = 500 + beside + encoder.key(&record).len();
        assert!(
            encoder.weigh(&record) >= real as u64,
            "{} < {real}",
            encoder.weigh(&record)
        );
        assert!(encoder.fits(&record).is_ok());
        let record = record_at(0, LineKind::Event, &[b'x'; 800], 0);
        let rejection = encoder.fits(&record).unwrap_err();
        assert_eq!(rejection.kind, RejectionKind::TooLarge);
        assert!(
            rejection.reason.contains("message.max.bytes"),
            "{}",
            rejection.reason
        );
    }

    #[test]
    fn an_oversize_line_is_put_together_and_must_have_its_length() {
        struct Two;
        impl Pieces for Two {
            fn piece(&self, index: usize) -> io::Result<Option<Bytes>> {
                let pieces: [&'static [u8]; 2] = [b"one", b"two"];
                Ok(pieces.get(index).map(|piece| Bytes::from_static(piece)))
            }
        }
        assert_eq!(&assemble(&Two, 6).unwrap()[..], b"onetwo");
        assert!(assemble(&Two, 5).is_err());
        assert!(assemble(&Two, 7).is_err());
    }

    #[test]
    fn times_before_the_epoch_are_not_taken_for_now() {
        let mut record = record_at(0, LineKind::Event, b"{}", 0);
        record.head.time_us = Some(1_767_323_045_678_901);
        assert_eq!(timestamp_ms(&record), 1_767_323_045_678);
        record.head.time_us = Some(-5);
        assert_eq!(timestamp_ms(&record), 1);
    }
}
