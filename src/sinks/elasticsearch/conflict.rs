//! An id that is taken: is it our event, from an attempt whose end was not seen, or somebody else's document? Reads
//! back what is stored and compares it; and before a resend into a data stream, looks for the ids where a 409 would
//! not find them (it holds inside one backing index only, so not across a rollover).
//!
//! Invariants: only a document that holds the same event counts as ours; what cannot be read back is not decided but
//! tried again; an answer is never larger than [`ANSWER_BYTES_MAX`].
//!
//! Servers keep `_source` byte for byte, so equal bytes are the usual case; only where they differ (an ingest
//! pipeline, a synthetic source) are values compared, by a digest that does not depend on the order of keys.
//!
//! [`ANSWER_BYTES_MAX`]: crate::sinks::http_connection::ANSWER_BYTES_MAX

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Document;
use super::body::{Line, Shape, head_object, original};
use super::connection::{Attempt, Call, Refused as _};
use super::verdict;
use crate::event::fields;
use crate::net::http_client::HttpError;
use crate::sinks::Outcome;
use crate::sinks::http_connection::broken;

/// Documents asked for at once: so many that their sources, if they are ours, stay well below the answer's bound.
const ASK_BYTES: usize = 4 << 20;

/// See [`ASK_BYTES`]; for documents without a source to speak of.
const ASK_DOCUMENTS: usize = 1_000;

/// Backing indices in which in-doubt ids are looked for. One attempt meets one rollover at most, but an agent that is
/// killed before its cursor is stored leaves the same events in doubt once more, maybe behind the next rollover.
const NEWEST: usize = 8;

/// One document to read back.
pub(super) struct Asked<'a> {
    pub(super) line: Line<'a>,
    pub(super) index: &'a str,
    pub(super) id: String,
}

/// What stands under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stored {
    /// Nothing.
    Missing,
    /// Another event, or none at all.
    Different,
    /// The event that was asked for.
    Same,
}

/// How stored documents are compared with what was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub(super) document: Document,
    /// An ingest pipeline may have changed the document.
    pub(super) pipeline: bool,
}

/// Reads documents back, in the order asked for.
pub(super) async fn read_back(
    attempt: &Attempt<'_>,
    comparison: Comparison,
    asked: &[Asked<'_>],
) -> Result<Vec<Stored>, Outcome> {
    let mut stored = Vec::with_capacity(asked.len());
    let mut limit = ASK_DOCUMENTS;
    while stored.len() < asked.len() {
        let rest = &asked[stored.len()..];
        let mut bytes = 0;
        let fits = rest.iter().take(limit).take_while(|a| {
            bytes += a.line.bytes.len();
            bytes <= ASK_BYTES
        });
        let count = fits.count().max(1);
        match ask(attempt, comparison, &rest[..count]).await? {
            Some(found) => {
                stored.extend(found);
                limit = ASK_DOCUMENTS;
            }
            // Longer than any event of ours can be, so it is none.
            None if count == 1 => stored.push(Stored::Different),
            None => limit = count / 2,
        }
    }
    Ok(stored)
}

#[derive(Deserialize)]
struct Documents<'a> {
    #[serde(borrow)]
    docs: Vec<Found<'a>>,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(default)]
    found: bool,
    #[serde(borrow, rename = "_source")]
    source: Option<&'a RawValue>,
    error: Option<FoundError>,
}

#[derive(Deserialize)]
struct FoundError {
    r#type: String,
}

/// `None` where the answer was too long.
async fn ask(
    attempt: &Attempt<'_>,
    comparison: Comparison,
    asked: &[Asked<'_>],
) -> Result<Option<Vec<Stored>>, Outcome> {
    const DOING: &str = "reading back events whose id is taken";
    let docs: Vec<_> = asked
        .iter()
        .map(|a| serde_json::json!({ "_index": a.index, "_id": a.id }))
        .collect();
    let call = Call::post(
        DOING,
        "/_mget",
        serde_json::json!({ "docs": docs }).to_string(),
    );
    let answer = match attempt.exchange(call).await {
        Ok(answer) => answer,
        Err(HttpError::AnswerTooLarge(_)) => return Ok(None),
        Err(error) => return Err(broken(&error, DOING, attempt.endpoint(), false)),
    };
    if answer.status != 200 {
        return Err(with_advice(attempt.refused(&answer, DOING)));
    }
    let again = |what: &str| verdict::again(format!("{DOING}: {what}"));
    let documents: Documents<'_> = serde_json::from_slice(&answer.body)
        .map_err(|_| again("the answer cannot be understood"))?;
    if documents.docs.len() != asked.len() {
        return Err(again("the answer has another number of documents"));
    }
    let mut stored = Vec::with_capacity(asked.len());
    for (found, asked) in documents.docs.iter().zip(asked) {
        stored.push(match (&found.error, found.source) {
            (Some(error), _) if error.r#type == "index_not_found_exception" => Stored::Missing,
            (Some(error), _) if error.r#type == "security_exception" => {
                return Err(Outcome::Stop {
                    reason: format!("{DOING}: not allowed to read {}; {READ}", asked.index),
                });
            }
            (Some(error), _) => return Err(again(&error.r#type)),
            (None, Some(source)) if comparison.same(source.get().as_bytes(), asked.line) => {
                Stored::Same
            }
            (None, Some(_)) => Stored::Different,
            // A mapping without `_source`: there is nothing to compare with.
            (None, None) if found.found => Stored::Different,
            (None, None) => Stored::Missing,
        });
    }
    Ok(Some(stored))
}

const READ: &str = "give the credentials the right to read, or set `verify_conflicts = false`";

fn with_advice(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Stop { reason } => Outcome::Stop {
            reason: format!("{reason}; {READ}"),
        },
        other => other,
    }
}

/// The newest backing indices of a data stream, where an attempt in doubt can have stored events; none where the
/// data stream is not there yet.
pub(super) async fn newest_backing_indices(
    attempt: &Attempt<'_>,
    name: &str,
) -> Result<Vec<String>, Outcome> {
    const DOING: &str = "looking for events that may be stored already";
    #[derive(Deserialize)]
    struct Streams {
        data_streams: Vec<Stream>,
    }
    #[derive(Deserialize)]
    struct Stream {
        indices: Vec<Index>,
    }
    #[derive(Deserialize)]
    struct Index {
        index_name: String,
    }
    let answer = attempt
        .call(Call::get(DOING, &format!("/_data_stream/{name}")))
        .await?;
    match answer.status {
        200 => {
            let streams: Streams = serde_json::from_slice(&answer.body).map_err(|_| {
                verdict::again(format!(
                    "{DOING}: the data stream's description cannot be understood"
                ))
            })?;
            let mut names: Vec<String> = streams
                .data_streams
                .into_iter()
                .flat_map(|s| s.indices)
                .map(|index| index.index_name)
                .collect();
            names.drain(..names.len().saturating_sub(NEWEST));
            Ok(names)
        }
        404 => Ok(Vec::new()),
        // Not allowed to see the description, or a server without it: a search tells the indices too.
        400 | 403 | 405 => newest_by_search(attempt, name).await,
        _ => Err(with_advice(attempt.refused(&answer, DOING))),
    }
}

async fn newest_by_search(attempt: &Attempt<'_>, name: &str) -> Result<Vec<String>, Outcome> {
    const DOING: &str = "searching for events that may be stored already";
    #[derive(Deserialize)]
    struct Answer {
        aggregations: Option<Aggregations>,
    }
    #[derive(Deserialize)]
    struct Aggregations {
        indices: Buckets,
    }
    #[derive(Deserialize)]
    struct Buckets {
        buckets: Vec<Bucket>,
    }
    #[derive(Deserialize)]
    struct Bucket {
        key: String,
    }
    // So that an index whose first events are younger than a second is seen; where that is not allowed, it is not.
    let refreshed = attempt
        .call(Call::post(
            DOING,
            &format!("/{name}/_refresh"),
            String::new(),
        ))
        .await?;
    tracing::debug!(
        status = refreshed.status,
        "refreshed {name} before looking for events in doubt"
    );
    let query = serde_json::json!({ "size": 0, "aggs": { "indices": { "terms": {
        "field": "_index", "size": NEWEST, "order": { "_key": "desc" } } } } });
    let answer = attempt
        .call(Call::post(
            DOING,
            &format!("/{name}/_search"),
            query.to_string(),
        ))
        .await?;
    match answer.status {
        200 => {
            let answer: Answer = serde_json::from_slice(&answer.body)
                .map_err(|_| verdict::again(format!("{DOING}: the answer cannot be understood")))?;
            // An answer that names no indices is not one that says there are none.
            let Some(found) = answer.aggregations else {
                return Err(verdict::again(format!(
                    "{DOING}: the answer names no indices"
                )));
            };
            let buckets = found.indices.buckets;
            Ok(buckets.into_iter().map(|bucket| bucket.key).collect())
        }
        404 => Ok(Vec::new()),
        _ => Err(with_advice(attempt.refused(&answer, DOING))),
    }
}

impl Comparison {
    /// Whether the stored `source` holds the event of `line`.
    pub(super) fn same(self, source: &[u8], line: Line<'_>) -> bool {
        let same = match line.shape {
            Shape::Original => same_original(source, line),
            Shape::Event => self.same_event(source, line) || self.same_fallback(source, line),
        };
        if same || !self.pipeline {
            return same;
        }
        // A pipeline may move and change every field, but not these two.
        if fields::find(source, &["event", "original"]).is_some() {
            return same_original(source, line);
        }
        let hash = line.record.head.hash.to_hex();
        let path: &[&str] = match self.document {
            Document::Ecs => &["event", "hash"],
            Document::Flat => &["auditship", "hash"],
        };
        fields::find(source, path)
            .and_then(fields::text)
            .is_some_and(|stored| *stored == *hash)
    }

    fn same_event(self, source: &[u8], line: Line<'_>) -> bool {
        match self.document {
            Document::Ecs => fields::find(source, &["kubernetes", "audit"]).is_some_and(|stored| {
                stored == line.bytes.trim_ascii() || same_value(stored, line.bytes, &[])
            }),
            Document::Flat => same_flat(source, line),
        }
    }

    /// Whether the event stands there as the fallback document of an attempt before, which could not be stored in any
    /// other form: the line, and beside it the head fields found in it and no others.
    fn same_fallback(self, source: &[u8], line: Line<'_>) -> bool {
        if !same_original(source, line) {
            return false;
        }
        let head = head_object(line.bytes);
        match self.document {
            Document::Ecs => match fields::find(source, &["kubernetes", "audit"]) {
                Some(stored) => stored == head || same_value(stored, &head, &[]),
                None => head == b"{}",
            },
            Document::Flat => same_value(source, &head, &["@timestamp", "auditship", "event"]),
        }
    }
}

fn same_original(source: &[u8], line: Line<'_>) -> bool {
    let Some(stored) = fields::find(source, &["event", "original"]) else {
        return false;
    };
    let sent = original(line.bytes);
    stored == sent || same_value(stored, &sent, &[])
}

/// The event's own fields: everything but what the sink put before them.
fn same_flat(source: &[u8], line: Line<'_>) -> bool {
    let sent = line.bytes.trim_ascii().get(1..);
    (sent.is_some() && own_fields(source) == sent)
        || same_value(source, line.bytes, &["@timestamp", "auditship"])
}

/// A flat document as the sink writes it, from the event's first own field to its closing brace.
fn own_fields(source: &[u8]) -> Option<&[u8]> {
    let rest = source
        .strip_prefix(b"{\"@timestamp\":")?
        .strip_prefix(fields::find(source, &["@timestamp"])?)?;
    let rest = rest
        .strip_prefix(b",\"auditship\":")?
        .strip_prefix(fields::find(source, &["auditship"])?)?;
    Some(rest.strip_prefix(b",").unwrap_or(rest))
}

/// Whether two JSON texts are the same value, leaving `skip` out of the first's members. What serde_json refuses
/// (depth beyond 128, numbers beyond f64, lone surrogates) is the same only as bytes.
fn same_value(stored: &[u8], sent: &[u8], skip: &'static [&'static str]) -> bool {
    match (digest(stored, skip), digest(sent, &[])) {
        (Some(stored), Some(sent)) => stored == sent,
        _ => false,
    }
}

fn digest(json: &[u8], skip: &'static [&'static str]) -> Option<[u8; 32]> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let digest = ValueDigest { skip }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(digest)
}

/// SHA-256 of a JSON value: the same for the same value, however its keys are ordered. Holds one digest per member
/// of the objects it is in, never the value.
#[derive(Clone, Copy)]
struct ValueDigest {
    skip: &'static [&'static str],
}

impl ValueDigest {
    fn of(tag: u8, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update([tag]);
        hasher.update(bytes);
        hasher.finalize().into()
    }
}

impl<'de> DeserializeSeed<'de> for ValueDigest {
    type Value = [u8; 32];

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueDigest {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<[u8; 32], E> {
        Ok(Self::of(b'0', b""))
    }

    fn visit_bool<E>(self, value: bool) -> Result<[u8; 32], E> {
        Ok(Self::of(b'b', &[u8::from(value)]))
    }

    fn visit_u64<E>(self, value: u64) -> Result<[u8; 32], E> {
        Ok(Self::of(b'u', &value.to_le_bytes()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<[u8; 32], E> {
        Ok(Self::of(b'i', &value.to_le_bytes()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<[u8; 32], E> {
        Ok(Self::of(b'f', &value.to_bits().to_le_bytes()))
    }

    fn visit_str<E>(self, value: &str) -> Result<[u8; 32], E> {
        Ok(Self::of(b's', value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; 32], A::Error> {
        let mut hasher = Sha256::new();
        hasher.update(b"[");
        while let Some(element) = seq.next_element_seed(ValueDigest { skip: &[] })? {
            hasher.update(element);
        }
        Ok(hasher.finalize().into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<[u8; 32], A::Error> {
        let mut members = BTreeMap::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let value = map.next_value_seed(ValueDigest { skip: &[] })?;
            if !self.skip.contains(&key.as_ref()) {
                members.insert(Self::of(b'k', key.as_bytes()), value);
            }
        }
        let mut hasher = Sha256::new();
        hasher.update(b"{");
        for (key, value) in members {
            hasher.update(key);
            hasher.update(value);
        }
        Ok(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_whatever_their_layout() {
        let check = |a: &str, b: &str, skip: &'static [&'static str]| {
            same_value(a.as_bytes(), b.as_bytes(), skip)
        };
        assert!(check(
            r#"{"a":1,"b":[true,null,"x"]}"#,
            r#" { "b" : [true, null, "\u0078"], "a" : 1 } "#,
            &[]
        ));
        assert!(check(
            r#"{"auditship":{"id":"1"},"a":1}"#,
            r#"{"a":1}"#,
            &["auditship"]
        ));
        assert!(
            !check(
                r#"{"x":{"auditship":1},"a":1}"#,
                r#"{"x":{},"a":1}"#,
                &["auditship"]
            ),
            "only at the top"
        );
        for (a, b) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1}"#, r#"{"a":1.5}"#),
            (r#"[1,2]"#, r#"[2,1]"#),
            (r#"[[1],2]"#, r#"[1,[2]]"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            (r#"{"a":"\ud800"}"#, r#"{"a":"\ud800"}"#),
            (r#"{"a":1e999}"#, r#"{"a":1e999}"#),
            ("{", "{"),
        ] {
            assert!(!check(a, b, &[]), "{a} {b}");
        }
    }
}
