//! What must have become of what was written: lost, twice, altered, spurious, out of order; and the law of the totals.
//!
//! It believes the writer's journal and nothing of the agent: the event id is computed here by the documented formula,
//! from the source's bytes, without the crate's code, so that a mistake there is a difference here.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::auditgen::{Journal, LineFact};

/// Only the first MiB of a generation's first line is part of its identity.
const FIRST_LINE_MAX: usize = 1 << 20;

/// The documented event id: lowercase hex of the first 16 bytes of SHA-256 over `ev1\n`, `<cluster>/<node>/<source>\n`,
/// the SHA-256 of the generation's first line, the line's offset as little-endian u64, the SHA-256 of the line.
pub(crate) fn event_id(
    origin: &str,
    first_line: &[u8; 32],
    offset: u64,
    line: &[u8; 32],
) -> String {
    let mut bytes = Vec::with_capacity(200);
    bytes.extend_from_slice(b"ev1\n");
    bytes.extend_from_slice(origin.as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(first_line);
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(line);
    hex(&Sha256::digest(bytes)[..16])
}

/// SHA-256 of a generation's first line, by which it is known.
pub(crate) fn first_line_hash(generation: &[u8]) -> [u8; 32] {
    let line = generation
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    Sha256::digest(&line[..line.len().min(FIRST_LINE_MAX)]).into()
}

/// Lowercase hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

/// One event that must arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// By the documented formula.
    pub(crate) id: String,
    /// SHA-256 of its line in hex.
    pub(crate) hash: String,
    /// Where it stood, for messages.
    pub(crate) place: String,
}

/// Every line of a journal, in order. `origin` is `<cluster>/<node>/<source>`.
pub(crate) fn expected(journal: &Journal, origin: &str) -> Vec<Expected> {
    let mut all = Vec::new();
    for (number, generation) in journal.generations.iter().enumerate() {
        let Some(first) = generation.first_line() else {
            continue;
        };
        for LineFact {
            offset,
            sha256,
            serial,
            ..
        } in &generation.lines
        {
            all.push(Expected {
                id: event_id(origin, &first, *offset, sha256),
                hash: hex(sha256),
                place: format!("generation {number} offset {offset} serial {serial:?}"),
            });
        }
    }
    all
}

/// Every line of these generations' bytes, in order, for sets that no journal was kept of. What stands behind the last
/// line feed is not a line.
pub(crate) fn expected_of_bytes<'a>(
    generations: impl IntoIterator<Item = &'a [u8]>,
    origin: &str,
) -> Vec<Expected> {
    let mut all = Vec::new();
    for (number, bytes) in generations.into_iter().enumerate() {
        let first = first_line_hash(bytes);
        let mut offset = 0;
        for line in bytes
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
        {
            let hash = Sha256::digest(&line[..line.len() - 1]).into();
            let place = format!("generation {number} offset {offset}");
            all.push(Expected {
                id: event_id(origin, &first, offset, &hash),
                hash: hex(&hash),
                place,
            });
            offset += line.len() as u64;
        }
    }
    all
}

/// One thing that a destination holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its id, where the destination knows one.
    pub(crate) id: Option<String>,
    /// SHA-256 of its line in hex, recomputed from the bytes held where they are, else as stated.
    pub(crate) hash: String,
}

/// The lines of a raw file sink, in order.
pub(crate) fn held_lines(bytes: &[u8]) -> Vec<Held> {
    bytes
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| Held {
            id: None,
            hash: hex(&Sha256::digest(line.strip_suffix(b"\n").unwrap_or(line))),
        })
        .collect()
}

/// What the comparison found. All empty is what the promise says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Expected and not there.
    pub(crate) lost: Vec<String>,
    /// There more often than it was written.
    pub(crate) twice: Vec<String>,
    /// There under its id with other bytes.
    pub(crate) altered: Vec<String>,
    /// There and never written.
    pub(crate) spurious: Vec<String>,
    /// There, but behind one that was written after it.
    pub(crate) out_of_order: Vec<String>,
}

impl Verdict {
    /// Compares as sets, by id where there is one and else by hash; order is not looked at.
    pub(crate) fn of_set(expected: &[Expected], held: &[Held]) -> Verdict {
        let mut verdict = Verdict::default();
        let mut by_id: HashMap<&str, (&Expected, usize)> = expected
            .iter()
            .map(|event| (event.id.as_str(), (event, 0)))
            .collect();
        assert_eq!(
            by_id.len(),
            expected.len(),
            "the formula gives each line its own id"
        );
        for one in held {
            let id = one.id.as_deref().expect("a set is compared by id");
            match by_id.get_mut(id) {
                None => verdict.spurious.push(id.to_owned()),
                Some((event, count)) => {
                    *count += 1;
                    if *count > 1 {
                        verdict.twice.push(event.place.clone());
                    }
                    if event.hash != one.hash {
                        verdict.altered.push(event.place.clone());
                    }
                }
            }
        }
        verdict.lost = expected
            .iter()
            .filter(|event| by_id[event.id.as_str()].1 == 0)
            .map(|event| event.place.clone())
            .collect();
        verdict
    }

    /// Compares as a sequence, by hash: what an ordered destination promises.
    pub(crate) fn of_sequence(expected: &[Expected], held: &[Held]) -> Verdict {
        let mut verdict = Verdict::default();
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, event) in expected.iter().enumerate().rev() {
            places.entry(&event.hash).or_default().push(index);
        }
        let written = places.clone();
        let mut highest: Option<usize> = None;
        for (index, one) in held.iter().enumerate() {
            match places.get_mut(one.hash.as_str()).map(Vec::pop) {
                None => verdict.spurious.push(format!("line {index}")),
                Some(None) => {
                    let first = written[one.hash.as_str()].last().expect("never empty");
                    verdict
                        .twice
                        .push(format!("line {index}: {}", expected[*first].place));
                }
                Some(Some(place)) => {
                    if highest.is_some_and(|highest| place < highest) {
                        verdict
                            .out_of_order
                            .push(format!("line {index}: {}", expected[place].place));
                    }
                    highest = highest.max(Some(place));
                }
            }
        }
        let mut lost: Vec<usize> = places.into_values().flatten().collect();
        lost.sort_unstable();
        verdict.lost = lost
            .into_iter()
            .map(|index| expected[index].place.clone())
            .collect();
        verdict
    }

    /// Panics with a summary unless nothing was found.
    #[track_caller]
    pub(crate) fn assert_clean(&self, what: &str) {
        assert!(*self == Verdict::default(), "{what}: {}", self.summary());
    }

    /// Counts and the first few of each.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (name, list) in [
            ("lost", &self.lost),
            ("twice", &self.twice),
            ("altered", &self.altered),
            ("spurious", &self.spurious),
            ("out of order", &self.out_of_order),
        ] {
            write!(
                text,
                "{name} {} {:?}; ",
                list.len(),
                &list[..list.len().min(3)]
            )
            .expect("a String takes all");
        }
        text
    }
}

/// The law: `read = spooled + Σ dropped` and, for each sink,
/// `spooled = delivered + not selected + dead letter + gap + pending`.
pub(crate) fn check_law(status: &Value) -> Result<(), String> {
    let spooled = number(status, "/spool/events")?;
    let sum = |list: &str, field: &str| -> Result<u64, String> {
        let items = status[list]
            .as_array()
            .ok_or(format!("status has no list {list}"))?;
        items.iter().map(|item| number(item, field)).sum()
    };
    let (read, dropped) = (
        sum("sources", "/read_events")?,
        sum("stages", "/dropped_events")?,
    );
    if read != spooled + dropped {
        return Err(format!(
            "read {read} is not spooled {spooled} + dropped {dropped}"
        ));
    }
    for sink in status["sinks"].as_array().ok_or("status has no sinks")? {
        let mut parts = BTreeMap::new();
        for name in ["delivered", "not_selected", "dead_letter", "gap", "pending"] {
            parts.insert(name, number(sink, &format!("/{name}"))?);
        }
        if spooled != parts.values().sum::<u64>() {
            return Err(format!(
                "sink {}: spooled {spooled} is not the sum of {parts:?}",
                sink["name"]
            ));
        }
    }
    Ok(())
}

/// Panics unless the law holds.
#[track_caller]
pub(crate) fn assert_law(status: &Value) {
    if let Err(broken) = check_law(status) {
        panic!("the law does not hold: {broken}\n{status:#}");
    }
}

fn number(value: &Value, pointer: &str) -> Result<u64, String> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .ok_or_else(|| format!("{pointer} is not a count in {value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(text: &str) -> Vec<Expected> {
        expected_of_bytes([text.as_bytes()], "c/n/s")
    }

    #[test]
    fn the_id_is_that_of_a_hand_computed_example() {
        // Computed with another language: sha256 of "a" twice, around eight zero bytes.
        let a: [u8; 32] = Sha256::digest(b"a").into();
        assert_eq!(
            event_id("c/n/s", &a, 0, &a),
            "2543add93d8d555c8c0d27d514f963ea"
        );
    }

    #[test]
    fn a_sequence_shows_lost_twice_spurious_and_disorder() {
        let verdict = Verdict::of_sequence(&lines("a\nb\nc\nd\n"), &held_lines(b"a\nc\nb\nb\nx\n"));
        assert_eq!((verdict.lost.len(), verdict.twice.len()), (1, 1));
        assert_eq!((verdict.spurious.len(), verdict.out_of_order.len()), (1, 1));
        assert_eq!(
            Verdict::of_sequence(&lines("a\na\nb\n"), &held_lines(b"a\na\nb\n")),
            Verdict::default()
        );
    }

    #[test]
    fn a_set_shows_lost_twice_altered_and_spurious() {
        let all = lines("a\nb\nc\n");
        let held = |event: &Expected| Held {
            id: Some(event.id.clone()),
            hash: event.hash.clone(),
        };
        let mut there = vec![
            held(&all[0]),
            held(&all[0]),
            held(&all[1]),
            Held {
                id: Some("?".into()),
                hash: String::new(),
            },
        ];
        there[2].hash = "00".to_owned();
        let verdict = Verdict::of_set(&all, &there);
        assert_eq!((verdict.lost.len(), verdict.twice.len()), (1, 1));
        assert_eq!((verdict.altered.len(), verdict.spurious.len()), (1, 1));
    }

    #[test]
    fn the_law_is_checked_on_both_sides() {
        let sink = |delivered: u64| json!({"name": "s", "delivered": delivered, "not_selected": 0, "dead_letter": 1, "gap": 2, "pending": 3});
        let status = |read: u64, delivered: u64| {
            json!({"sources": [{"read_events": read}], "stages": [{"dropped_events": 5}],
                   "spool": {"events": 10}, "sinks": [sink(delivered)]})
        };
        assert_eq!(check_law(&status(15, 4)), Ok(()));
        assert!(check_law(&status(14, 4)).is_err());
        assert!(check_law(&status(15, 5)).is_err());
    }
}
