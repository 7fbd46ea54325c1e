//! Finding fields of an event without parsing it: a total, lazy scanner over borrowed bytes. It never allocates a
//! document, never recurses and never goes into `requestObject` or `responseObject` unless asked to.
//!
//! Invariants: any input gives an answer, never a panic; what it accepts is exactly one JSON object by RFC 8259's
//! grammar, of any depth, number size and escapes, with invalid UTF-8 allowed inside strings; of duplicate keys the
//! last counts.

mod grammar;

mod head;

mod text;

mod timestamp;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use grammar::{Key, Member, Members, Stop};
pub use head::{OBJECT_REF, head_fields};
pub use timestamp::micros as parse_timestamp_us;

/// How every event begins that the API server writes to its log.
pub const EVENT_START: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/"#;

/// What the one walk over a line finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// `stageTimestamp` in microseconds since the Unix epoch; `None` where it is absent or no RFC 3339 time.
    pub time_us: Option<i64>,
}

/// Validates `line` as one event and picks up its time in the same walk. The error says where it stops being one.
pub fn scan(line: &[u8]) -> Result<Scan, Stop> {
    let mut members = Members::of(line)?;
    let mut stage_timestamp = None;
    while let Some(member) = members.next()? {
        if member.key.is("stageTimestamp") {
            stage_timestamp = Some(member.value);
        }
    }
    members.end()?;
    Ok(Scan {
        time_us: stage_timestamp.and_then(timestamp_us),
    })
}

/// Whether `line` is one event: one complete JSON object, whitespace around it allowed.
pub fn is_event(line: &[u8]) -> bool {
    scan(line).is_ok()
}

/// The bytes of the value at a path of object keys (`["user", "username"]`), as they stand in the line; the whole line
/// for an empty path. `None` where the line is no event, a key is absent, or a value on the way is no object.
pub fn find<'a>(line: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let mut value = line;
    for name in path {
        value = member(value, name)?;
    }
    Some(value)
}

/// The last member of that name in an object.
fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut members = Members::of(object).ok()?;
    let mut found = None;
    while let Some(member) = members.next().ok()? {
        if member.key.is(name) {
            found = Some(member.value);
        }
    }
    members.end().ok()?;
    found
}

/// A JSON string's text, unescaped; `None` where `value` is no string. Lone surrogates and invalid UTF-8 become U+FFFD.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let is_string = value.first() == Some(&b'"') && grammar::value(value, 0) == Ok(value.len());
    is_string.then(|| text::unescape(&value[1..value.len() - 1]))
}

/// `stageTimestamp` in microseconds since the Unix epoch.
pub fn stage_timestamp_us(line: &[u8]) -> Option<i64> {
    scan(line).ok()?.time_us
}

fn timestamp_us(value: &[u8]) -> Option<i64> {
    timestamp::micros(text(value)?.as_bytes())
}
