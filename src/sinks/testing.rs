//! Records for the tests of sinks.

use std::sync::Arc;

use bytes::Bytes;

use super::{Body, Record};
use crate::clock::Micros;
use crate::event::encoding::RecordHead;
use crate::event::{EventId, Generation, LineHash, LineKind, Origin};

/// A record of cluster `c1`, node `n1`, source `apiserver`.
pub(crate) fn record(number: u64, kind: LineKind, line: &[u8]) -> Record {
    record_at(number, kind, line, number * 1000)
}

/// The same, at an offset of its generation.
pub(crate) fn record_at(number: u64, kind: LineKind, line: &[u8], offset: u64) -> Record {
    let origin = Origin {
        cluster: "c1".into(),
        node: "n1".into(),
        source: "apiserver".into(),
    };
    let generation = Generation::of_first_line(b"first line");
    let hash = LineHash::of(line);
    Record {
        number,
        generation,
        head: RecordHead {
            offset,
            length: line.len() as u64,
            kind,
            id: EventId::compute(&origin, &generation, offset, &hash),
            hash,
            time_us: None,
            envelope: Vec::new(),
        },
        origin: Arc::new(origin),
        appended: Micros(1_700_000_000_000_000),
        body: Body::Whole(Bytes::copy_from_slice(line)),
    }
}
