//! The scanner beside serde_json on one input. Called by the fuzz target and by the seeded test of `event::fields`;
//! whoever includes this file has `fields` in scope.
//!
//! Compared are what is accepted (on any input: serde_json's walk over ignored values knows no depth limit and does not
//! look at UTF-8) and, where the input is UTF-8, the place of every top-level key and value, what each key is found by
//! and the text of strings.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{self, Members, Stop};

/// Panics where both do not agree.
pub(crate) fn check(line: &[u8]) {
    let is_object = line.trim_ascii_start().first() == Some(&b'{');
    let accepted = is_object && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    let shown = String::from_utf8_lossy(line);
    assert_eq!(
        fields::is_event(line),
        accepted,
        "accepted by one only: {shown}"
    );
    check_stop(line);
    if let Ok(line) = std::str::from_utf8(line)
        && accepted
    {
        check_members(line);
    }
    let head = fields::head_fields(line);
    assert!(
        head.len() <= 64 << 10,
        "head fields of {} bytes",
        head.len()
    );
    assert!(
        serde_json::from_slice::<serde_json::Value>(&head).is_ok(),
        "head fields of {shown}"
    );
}

/// Where the scanner stops, what stands before can go on, and what stands there cannot.
fn check_stop(line: &[u8]) {
    match fields::scan(line) {
        Ok(_) => {}
        Err(Stop::Bad(at)) => {
            assert!(at < line.len());
            assert_eq!(
                fields::scan(&line[..at]).err(),
                (!fields::is_event(&line[..at])).then_some(Stop::Torn)
            );
        }
        Err(Stop::Torn) => {
            let mut longer = line.to_vec();
            longer.push(0);
            assert!(matches!(fields::scan(&longer), Err(Stop::Bad(_))));
        }
    }
}

fn check_members(line: &str) {
    let expected = match serde_json::from_str::<RawMembers>(line) {
        Ok(expected) => expected.0,
        Err(error) => panic!("serde_json takes and refuses {line}: {error}"),
    };
    let place = |part: &[u8]| (part.as_ptr() as usize - line.as_ptr() as usize, part.len());
    let mut members = Members::of(line.as_bytes()).expect("an object begins");
    for (key, value) in &expected {
        let member = members.next().expect("accepted").expect("one more member");
        assert_eq!(
            place(member.value),
            place(value.get().as_bytes()),
            "value in {line}"
        );
        let (key_at, key_length) = place(key.get().as_bytes());
        assert_eq!(
            place(member.key.raw()),
            (key_at + 1, key_length - 2),
            "key in {line}"
        );
        if let Ok(text) = serde_json::from_str::<String>(value.get()) {
            assert_eq!(
                fields::text(member.value).as_deref(),
                Some(&*text),
                "text in {line}"
            );
        }
    }
    assert!(
        members.next().expect("accepted").is_none(),
        "too many members in {line}"
    );
    for (key, _) in &expected {
        let Ok(name) = serde_json::from_str::<String>(key.get()) else {
            continue;
        };
        let same = |(key, _): &&(&RawValue, &RawValue)| {
            fields::text(key.get().as_bytes()).is_some_and(|text| text == name)
        };
        let last = expected
            .iter()
            .rfind(same)
            .map(|(_, value)| place(value.get().as_bytes()));
        assert_eq!(
            fields::find(line.as_bytes(), &[&name]).map(place),
            last,
            "{name} in {line}"
        );
    }
}

/// An object's keys and values as they stand.
struct RawMembers<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawMembers<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    members.push(entry);
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
