//! The few fields of an event that may become labels or structured metadata: those that the API server itself writes at
//! the head of an event. Found in one walk over the line, which goes into no body.
//!
//! Invariants: a value is a plain string or number; of duplicate keys the last counts; for a line that is no event
//! there are none, and for an oversize one those that were found when it was read.

use std::borrow::Cow;

use crate::event::fields::{self, Members};
use crate::event::{LineKind, fields::OBJECT_REF};
use crate::sinks::Record;

/// A field by its place: one key, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldPath {
    outer: &'static str,
    inner: Option<&'static str>,
}

/// Members of the event itself.
const PLAIN: [&str; 7] = [
    "auditID",
    "stage",
    "level",
    "verb",
    "requestURI",
    "requestReceivedTimestamp",
    "stageTimestamp",
];

impl FieldPath {
    /// By the name that a configuration gives it: `verb`, `objectRef.namespace`.
    pub(super) fn named(path: &str) -> Option<Self> {
        Self::all().find(|known| known.name() == path)
    }

    /// Every field there is.
    pub(super) fn all() -> impl Iterator<Item = FieldPath> {
        let plain = PLAIN.iter().map(|outer| FieldPath { outer, inner: None });
        let nested = |outer, inner| FieldPath {
            outer,
            inner: Some(inner),
        };
        plain
            .chain([nested("user", "username"), nested("responseStatus", "code")])
            .chain(
                OBJECT_REF
                    .iter()
                    .map(move |inner| nested("objectRef", inner)),
            )
    }

    /// As a configuration spells it.
    pub(super) fn name(self) -> String {
        match self.inner {
            Some(inner) => format!("{}.{inner}", self.outer),
            None => self.outer.to_owned(),
        }
    }
}

/// The values of these fields in a record, in their order.
pub(super) fn values<'a>(record: &'a Record, wanted: &[FieldPath]) -> Vec<Option<Cow<'a, str>>> {
    let head = match (record.head.kind, record.body.whole()) {
        (LineKind::Event, Some(line)) => line,
        (LineKind::Oversize, _) => &record.head.envelope,
        _ => &[],
    };
    let mut found = vec![None; wanted.len()];
    // A line that turns out to be no object after all has no fields.
    let _torn = each_member(head, |key, value| {
        for (path, found) in wanted.iter().zip(&mut found) {
            if !key.is(path.outer) {
                continue;
            }
            *found = match path.inner {
                None => Some(value),
                Some(inner) => fields::find(value, &[inner]),
            };
        }
    });
    found
        .into_iter()
        .map(|value| value.and_then(plain))
        .collect()
}

fn each_member<'a>(
    object: &'a [u8],
    mut member: impl FnMut(fields::Key<'a>, &'a [u8]),
) -> Result<(), fields::Stop> {
    let mut members = Members::of(object)?;
    while let Some(found) = members.next()? {
        member(found.key, found.value);
    }
    Ok(())
}

/// A string's text, or a number as it stands.
fn plain(value: &[u8]) -> Option<Cow<'_, str>> {
    match value.first()? {
        b'"' => fields::text(value),
        b'-' | b'0'..=b'9' => std::str::from_utf8(value).ok().map(Cow::Borrowed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::testing::record;

    fn check(kind: LineKind, line: &[u8], paths: &[&str], expected: &[Option<&str>]) {
        let mut record = record(0, kind, line);
        if kind == LineKind::Oversize {
            record.head.envelope = br#"{"verb":"create","user":{"username":"u"}}"#.to_vec();
        }
        let paths: Vec<FieldPath> = paths
            .iter()
            .map(|path| FieldPath::named(path).expect("a field"))
            .collect();
        let found = values(&record, &paths);
        let found: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(line));
    }

    #[test]
    fn fields_are_found_by_name_and_the_last_of_duplicates_counts() {
        let line = br#"{"verb":"get","requestObject":{"verb":"x"},"user":{"username":"a\u0062","uid":"1"},"responseStatus":{"code":404},"verb":"list"}"#;
        check(
            LineKind::Event,
            line,
            &["responseStatus.code", "verb", "user.username", "stage"],
            &[Some("404"), Some("list"), Some("ab"), None],
        );
    }

    #[test]
    fn a_value_of_another_type_is_none() {
        let line = br#"{"verb":{"a":1},"user":"x","objectRef":{"name":["n"]},"stage":null}"#;
        check(
            LineKind::Event,
            line,
            &["verb", "user.username", "objectRef.name", "stage"],
            &[None; 4],
        );
    }

    #[test]
    fn a_malformed_line_has_none_and_an_oversize_one_those_kept_with_it() {
        check(LineKind::Malformed, br#"{"verb":"get""#, &["verb"], &[None]);
        check(
            LineKind::Oversize,
            b"x",
            &["verb", "user.username", "level"],
            &[Some("create"), Some("u"), None],
        );
    }

    #[test]
    fn only_head_fields_have_a_name_here() {
        assert_eq!(FieldPath::all().count(), 17);
        for path in [
            "requestObject",
            "user",
            "annotations",
            "objectRef",
            "Verb",
            "",
        ] {
            assert_eq!(FieldPath::named(path), None, "{path}");
        }
    }
}
