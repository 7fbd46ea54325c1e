//! The head fields of a line that is no event, not whole or refused by a destination: enough to find it by.
//!
//! Invariants: the output is one JSON object, valid UTF-8, at most 64 KiB, whatever the input; a value is what the line
//! says, or is cut and ends in `...TRUNCATED` as the API server itself cuts, or is left out because it has not the
//! type that the API server writes.

use super::grammar::{Members, value};
use super::{EVENT_START, text};

/// How long one encoded string may be, bytes between its quotes. The sum of all fields stays under 64 KiB:
/// `requestURI` 16 KiB, the 12 other plain strings and 8 of `objectRef` 2 KiB each, 12 of `sourceIPs` 256 bytes each.
const TEXT_MAX: usize = 2 << 10;
const URI_MAX: usize = 16 << 10;
const IP_MAX: usize = 256;
const IPS_MAX: usize = 12;

/// How a string that was cut ends.
const CUT: &str = "...TRUNCATED";

/// The head fields that can be found in `line`, even where it is torn or oversize, as one JSON object with the
/// events' own names (auditID, stage, level, verb, requestURI, user.username, sourceIPs, objectRef,
/// responseStatus.code, requestReceivedTimestamp, stageTimestamp); `{}` where there are none. Always valid JSON and
/// valid UTF-8, at most 64 KiB.
pub fn head_fields(line: &[u8]) -> Vec<u8> {
    let start = match Members::of(line) {
        Ok(_) => 0,
        Err(_) => memchr::memmem::find(line, EVENT_START).unwrap_or(line.len()),
    };
    Head::of(&line[start..]).to_json()
}

/// The values found, as they stand in the line.
#[derive(Default)]
struct Head<'a> {
    texts: [Option<&'a [u8]>; TEXTS.len()],
    username: Option<&'a [u8]>,
    source_ips: Option<&'a [u8]>,
    object_ref: Option<&'a [u8]>,
    code: Option<&'a [u8]>,
}

/// The fields that are plain strings of the event itself.
const TEXTS: [(&str, usize); 7] = [
    ("auditID", TEXT_MAX),
    ("stage", TEXT_MAX),
    ("level", TEXT_MAX),
    ("verb", TEXT_MAX),
    ("requestURI", URI_MAX),
    ("requestReceivedTimestamp", TEXT_MAX),
    ("stageTimestamp", TEXT_MAX),
];

/// The fields of `objectRef`, in the API server's order.
pub const OBJECT_REF: [&str; 8] = [
    "resource",
    "namespace",
    "name",
    "uid",
    "apiGroup",
    "apiVersion",
    "resourceVersion",
    "subresource",
];

impl<'a> Head<'a> {
    fn of(line: &'a [u8]) -> Self {
        let mut head = Head::default();
        each_member(line, |key, value| {
            if let Some(index) = TEXTS.iter().position(|(name, _)| key.is(name)) {
                head.texts[index] = Some(value);
            } else if key.is("user") {
                head.username = field(value, "username");
            } else if key.is("sourceIPs") {
                head.source_ips = Some(value);
            } else if key.is("objectRef") {
                head.object_ref = Some(value);
            } else if key.is("responseStatus") {
                head.code = field(value, "code");
            }
        });
        head
    }

    fn to_json(&self) -> Vec<u8> {
        let mut out = Object::new();
        for ((name, max), value) in TEXTS.iter().zip(self.texts) {
            out.text(name, value, *max);
        }
        let mut user = Object::new();
        user.text("username", self.username, TEXT_MAX);
        out.object("user", user);
        out.raw("sourceIPs", self.source_ips.and_then(addresses));
        let mut object_ref = Object::new();
        if let Some(value) = self.object_ref {
            for name in OBJECT_REF {
                object_ref.text(name, field(value, name), TEXT_MAX);
            }
        }
        out.object("objectRef", object_ref);
        let mut status = Object::new();
        status.raw("code", self.code.and_then(code));
        out.object("responseStatus", status);
        out.finish()
    }
}

/// Calls `member` for every member, the one in which the bytes break off among them.
fn each_member<'a>(object: &'a [u8], mut member: impl FnMut(super::Key<'a>, &'a [u8])) {
    let Ok(mut members) = Members::of(object) else {
        return;
    };
    loop {
        match members.next() {
            Ok(Some(found)) => member(found.key, found.value),
            Ok(None) => return,
            Err(_) => {
                if let Some(found) = members.broken() {
                    member(found.key, found.value);
                }
                return;
            }
        }
    }
}

fn field<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    each_member(object, |key, value| {
        if key.is(name) {
            found = Some(value);
        }
    });
    found
}

/// An HTTP status as the API server writes it: an integer of at most nine digits.
fn code(value: &[u8]) -> Option<Vec<u8>> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let plain =
        matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
    (plain && digits.len() <= 9).then(|| value.to_vec())
}

/// The first [`IPS_MAX`] strings of an array.
fn addresses(array: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![b'['];
    let mut rest = array.strip_prefix(b"[")?;
    for _ in 0..IPS_MAX {
        rest = rest.trim_ascii_start();
        let Ok(end) = value(rest, 0) else {
            break;
        };
        if let Some(text) = super::text(&rest[..end]) {
            if out.len() > 1 {
                out.push(b',');
            }
            quoted(&mut out, &text, IP_MAX);
        }
        match rest[end..].trim_ascii_start().strip_prefix(b",") {
            Some(next) => rest = next,
            None => break,
        }
    }
    out.push(b']');
    (out.len() > 2).then_some(out)
}

/// A JSON object that is being written.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Object(Vec::new())
    }

    fn raw(&mut self, name: &str, value: Option<Vec<u8>>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { b'{' } else { b',' });
            quoted(&mut self.0, name, TEXT_MAX);
            self.0.push(b':');
            self.0.extend_from_slice(&value);
        }
    }

    fn text(&mut self, name: &str, value: Option<&[u8]>, max: usize) {
        let text = value.and_then(super::text).map(|text| {
            let mut out = Vec::new();
            quoted(&mut out, &text, max);
            out
        });
        self.raw(name, text);
    }

    /// Leaves out what has no members.
    fn object(&mut self, name: &str, object: Object) {
        if !object.0.is_empty() {
            self.raw(name, Some(object.finish()));
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

/// Appends `text` as a JSON string of at most `max` bytes between its quotes.
fn quoted(out: &mut Vec<u8>, text: &str, max: usize) {
    out.push(b'"');
    let start = out.len();
    let mut cut = start;
    for char in text.chars() {
        // The last place where the text can be cut and still have room for its end.
        if out.len() - start + CUT.len() <= max {
            cut = out.len();
        }
        text::escape(out, char);
        if out.len() - start > max {
            out.truncate(cut);
            out.extend_from_slice(CUT.as_bytes());
            break;
        }
    }
    out.push(b'"');
}
