//! Records as one push: their lines in time order. A function of records and settings alone, so that it is the same
//! when a batch is sent again; what depends on the moment (too old, too far behind) is left out by the caller.
//!
//! Invariant: lines of one time stand in record order.

use std::io;

use sha2::{Digest, Sha256};

use super::fields::FieldPath;
use super::labels::{Labels, METADATA_VALUE_BYTES, metadata};
use super::line;
use super::order::Nanos;
use super::push::{ENTRY_FRAME_BYTES, Encoding, Push};
use super::settings::Settings;
use crate::event::Origin;
use crate::sinks::{Batch, Record, Seal};

/// Changes with every change of what records are encoded to.
const VERSION: &[u8] = b"loki-1";

/// Room that is made at once for a push: what a batch of the usual size needs, so that it does not grow by doubling.
const BYTES_EXPECTED_MAX: usize = 5 << 19;

/// Encodes records.
#[derive(Debug)]
pub(super) struct Encoder {
    labels: Labels,
    names: Vec<String>,
    paths: Vec<FieldPath>,
    line_max: usize,
    encoding: Encoding,
    id: [u8; 16],
    /// Of a record's metadata, with the names.
    metadata_bytes: u64,
}

/// A push of some of a batch's records.
pub(super) struct Encoded {
    pub(super) push: Push,
    /// Times of the first and the last line; `None` where there is none.
    pub(super) span: Option<(Nanos, Nanos)>,
    /// By their place in the batch: those whose line would be longer than `line_max`.
    pub(super) too_long: Vec<usize>,
}

impl Encoder {
    /// For these settings and labels.
    pub(super) fn new(settings: &Settings, labels: Labels) -> Self {
        let (names, paths): (Vec<String>, Vec<FieldPath>) =
            settings.metadata.iter().cloned().unzip();
        let mut hasher = Sha256::new();
        hasher.update(VERSION);
        let decides = (
            &labels,
            &settings.metadata,
            settings.line_max,
            settings.encoding,
        );
        hasher.update(format!("{decides:?}"));
        let digest: [u8; 32] = hasher.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Encoder {
            metadata_bytes: names
                .iter()
                .map(|name| name.len() as u64 + METADATA_VALUE_BYTES)
                .sum(),
            labels,
            names,
            paths,
            line_max: settings.line_max,
            encoding: settings.encoding,
            id,
        }
    }

    /// The encoding of its pushes.
    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The label string of a record's stream.
    pub(super) fn stream(&self, record: &Record) -> String {
        self.labels.of(record).text()
    }

    /// What sets records of different streams apart.
    pub(super) fn key(&self, record: &Record) -> Vec<u8> {
        self.labels.key(record)
    }

    /// Bytes of a record in a push, from above but for usual values of metadata.
    pub(super) fn weigh(&self, record: &Record) -> u64 {
        let line = line::weigh(record);
        // Quotes and backslashes: a tenth of an event's bytes.
        let escapes = match self.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => line / 4,
        };
        line + escapes + self.metadata_bytes + ENTRY_FRAME_BYTES
    }

    /// A push without lines: it shows who is let in, and nothing is stored.
    pub(super) fn empty(&self, origin: &Origin) -> io::Result<Vec<u8>> {
        Push::new(self.encoding, &self.labels.example(origin), 0).finish()
    }

    /// The push of those records of a batch that `wanted` says, by their place in it. Blocking where a line is read from
    /// the spool.
    pub(super) fn encode(
        &self,
        batch: &Batch,
        times: &[Nanos],
        wanted: impl Fn(usize) -> bool,
    ) -> io::Result<Option<Encoded>> {
        let Some(first) = batch.records.first() else {
            return Ok(None);
        };
        let mut places: Vec<usize> = (0..batch.records.len()).filter(|at| wanted(*at)).collect();
        places.sort_by_key(|at| times[*at]);
        let weights = places.iter().map(|at| self.weigh(&batch.records[*at]));
        let bytes = usize::try_from(weights.sum::<u64>()).unwrap_or(usize::MAX);
        let mut encoded = Encoded {
            push: Push::new(
                self.encoding,
                &self.labels.of(first),
                bytes.min(BYTES_EXPECTED_MAX),
            ),
            span: None,
            too_long: Vec::new(),
        };
        let mut line = String::new();
        for at in places {
            let (record, time) = (&batch.records[at], times[at]);
            line.clear();
            match line::write(record, batch.form, self.line_max, &mut line)? {
                None => encoded.too_long.push(at),
                Some(()) => {
                    let metadata = metadata(record, &self.names, &self.paths);
                    encoded.push.add(time, &line, &metadata);
                    let first = encoded.span.map_or(time, |(first, _)| first);
                    encoded.span = Some((first, time));
                }
            }
        }
        Ok(Some(encoded))
    }

    /// What is written down of a batch before its first send, with the push: all of it, also what will be left out for its
    /// time.
    pub(super) fn seal(&self, batch: &Batch) -> io::Result<Option<(Seal, Encoded)>> {
        let times: Vec<Nanos> = batch.records.iter().map(line::timestamp).collect();
        let Some(mut encoded) = self.encode(batch, &times, |_| true)? else {
            return Ok(None);
        };
        let mut target = self.stream(&batch.records[0]).into_bytes();
        if target.len() > Seal::TARGET_MAX {
            target = Sha256::digest(&target).to_vec();
        }
        let seal = Seal {
            target,
            encoder: self.id,
            sha256: encoded.push.sha256(),
        };
        Ok(Some((seal, encoded)))
    }
}
