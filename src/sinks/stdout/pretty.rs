//! One event as one short line for people: time, verb, user, resource, code.
//!
//! Invariant: what a client of the API server chose (user names, paths) never reaches a terminal as a control
//! character, and never makes a line longer than [`LINE_MAX`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use crate::clock::Micros;
use crate::event::LineKind;
use crate::event::fields::{find, text};
use crate::sinks::Record;

/// Bytes of a line at most.
pub(super) const LINE_MAX: u64 = 2048;

/// A column is cut once it has this many bytes.
const COLUMN_MAX: usize = 128;

const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Writes one record with its line feed.
pub(super) fn write(record: &Record, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let time = Micros(record.time_us()).rfc3339();
    let mut line = painted(color, DIM, time.get(11..23).unwrap_or(&time));
    match record
        .body
        .whole()
        .filter(|_| record.head.kind == LineKind::Event)
    {
        Some(event) => push_event(&mut line, event, color),
        None => push_other(&mut line, record, color),
    }
    line.push('\n');
    out.write_all(line.as_bytes())
}

fn push_event(line: &mut String, event: &[u8], color: bool) {
    let field = |path: &[&str]| {
        find(event, path)
            .and_then(text)
            .filter(|text| !text.is_empty())
    };
    let verb = field(&["verb"]).unwrap_or(Cow::Borrowed("-"));
    let paint = match &*verb {
        "delete" | "deletecollection" => RED,
        "create" | "update" | "patch" => YELLOW,
        _ => CYAN,
    };
    let user = field(&["user", "username"]).unwrap_or(Cow::Borrowed("-"));
    let impersonated = field(&["impersonatedUser", "username"]);
    push(
        line,
        &painted(color, paint, &format!("{:<7}", shown(&verb))),
    );
    let mut who = shown(&user);
    if let Some(name) = impersonated {
        who.push_str(" as ");
        who.push_str(&shown(&name));
    }
    push(line, &who);
    push(
        line,
        &resource(&field)
            .unwrap_or_else(|| shown(&field(&["requestURI"]).unwrap_or(Cow::Borrowed("-")))),
    );
    if let Some(code) = find(event, &["responseStatus", "code"]) {
        let code = shown(&String::from_utf8_lossy(code));
        let paint = match code.as_bytes().first() {
            Some(b'2' | b'3' | b'1') => GREEN,
            Some(b'4') => YELLOW,
            _ => RED,
        };
        push(line, &painted(color, paint, &code));
    }
    match field(&["stage"]) {
        Some(audit_stage) if audit_stage != "ResponseComplete" => {
            push(line, &painted(color, DIM, &shown(&audit_stage)))
        }
        _ => {}
    }
}

/// `namespace/resource/name/subresource`, as far as the event says.
fn resource<'a>(field: &dyn Fn(&[&str]) -> Option<Cow<'a, str>>) -> Option<String> {
    let kind = field(&["objectRef", "resource"])?;
    let mut out = String::new();
    for part in [
        field(&["objectRef", "namespace"]),
        Some(kind),
        field(&["objectRef", "name"]),
    ]
    .into_iter()
    .flatten()
    {
        if !out.is_empty() {
            out.push('/');
        }
        out.push_str(&shown(&part));
    }
    if let Some(sub) = field(&["objectRef", "subresource"]) {
        out.push('/');
        out.push_str(&shown(&sub));
    }
    Some(out)
}

fn push_other(line: &mut String, record: &Record, color: bool) {
    let word = if record.head.kind == LineKind::Oversize {
        "oversize"
    } else {
        "malformed"
    };
    let what = format!("{word}, {} bytes", record.head.length);
    push(line, &painted(color, RED, &what));
    if let Some(bytes) = record.body.whole() {
        push(
            line,
            &shown(&String::from_utf8_lossy(
                &bytes[..bytes.len().min(COLUMN_MAX)],
            )),
        );
    }
}

fn push(line: &mut String, column: &str) {
    line.push_str("  ");
    line.push_str(column);
}

fn painted(color: bool, paint: &str, text: &str) -> String {
    if color {
        format!("\x1b[{paint}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// `text` without control characters (also those that turn the direction of writing), cut to [`COLUMN_MAX`].
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(COLUMN_MAX));
    for c in text.chars() {
        if out.len() >= COLUMN_MAX {
            out.push('…');
            break;
        }
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || turns {
            write!(out, "{}", c.escape_unicode()).expect("writing to a String cannot fail");
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::record;
    use super::*;

    #[track_caller]
    fn check(kind: LineKind, line: &str, expected: &str) {
        let mut record = record(0, kind, line.as_bytes());
        record.head.time_us = Some(1_764_000_000_123_456);
        let mut out = Vec::new();
        write(&record, false, &mut out).expect("write to memory");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            format!("16:00:00.123  {expected}\n")
        );
    }

    #[test]
    fn an_event_is_time_verb_user_resource_code() {
        let event = r#"{"stage":"ResponseComplete","verb":"patch","user":{"username":"alice"},"responseStatus":{"code":200},
            "objectRef":{"resource":"pods","namespace":"shop","name":"web-1","subresource":"status"}}"#;
        check(
            LineKind::Event,
            &event.replace('\n', " "),
            "patch    alice  shop/pods/web-1/status  200",
        );
    }

    #[test]
    fn a_request_without_resource_shows_its_path_and_an_early_stage_shows_itself() {
        let event = r#"{"stage":"RequestReceived","verb":"get","requestURI":"/healthz?x","user":{"username":"u"},
            "impersonatedUser":{"username":"root"}}"#;
        check(
            LineKind::Event,
            &event.replace('\n', " "),
            "get      u as root  /healthz?x  RequestReceived",
        );
    }

    #[test]
    fn what_a_client_chose_cannot_steer_the_terminal() {
        check(
            LineKind::Event,
            r#"{"verb":"get","user":{"username":"a\u001b[2J\u202eb"}}"#,
            "get      a\\u{1b}[2J\\u{202e}b  -",
        );
        check(
            LineKind::Malformed,
            "\u{1b}]0;x\u{7}",
            "malformed, 6 bytes  \\u{1b}]0;x\\u{7}",
        );
    }

    #[test]
    fn a_line_is_never_longer_than_its_bound() {
        let wild = "\u{10ffff}\u{202e}".repeat(500);
        let event = format!(
            r#"{{"verb":"{wild}","user":{{"username":"{wild}"}},"impersonatedUser":{{"username":"{wild}"}},"stage":"{wild}",
            "objectRef":{{"resource":"{wild}","namespace":"{wild}","name":"{wild}","subresource":"{wild}"}}}}"#
        );
        let record = record(0, LineKind::Event, event.replace('\n', " ").as_bytes());
        let mut out = Vec::new();
        write(&record, true, &mut out).expect("write to memory");
        assert!(out.len() as u64 <= LINE_MAX, "{}", out.len());
    }
}
