//! Sizes and durations as people write them: `"64MiB"`, `"10GB"`, `"100ms"`, `"2h"`, `"30d"`.

use std::cmp::Ordering;
use std::time::Duration;

use serde_json::json;

use super::section::{Node, Value};

/// A number of bytes, written as `"64MiB"` (powers of 1024) or `"10GB"` (powers of 1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

const DURATIONS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// As people write it, exactly: the greatest unit that divides it.
impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, bytes) = greatest_unit(&SIZES, self.0);
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

fn greatest_unit(units: &[(&'static str, u64)], number: u64) -> (&'static str, u64) {
    let smallest = units[units.len() - 1];
    if number == 0 {
        return smallest;
    }
    let divides = |(_, size): &&(&str, u64)| number.is_multiple_of(*size);
    units
        .iter()
        .filter(divides)
        .max_by_key(|(_, size)| *size)
        .copied()
        .unwrap_or(smallest)
}

/// Why a text is no quantity: what was found, and what to write instead where that can be guessed.
#[derive(Debug, PartialEq)]
struct Mistake {
    found: String,
    instead: Option<String>,
}

impl Mistake {
    fn new(found: impl Into<String>) -> Self {
        Mistake {
            found: found.into(),
            instead: None,
        }
    }

    fn instead(self, text: String) -> Self {
        Mistake {
            instead: Some(text),
            ..self
        }
    }

    /// As [`Value::read`] gives it.
    fn message(self) -> String {
        match self.instead {
            Some(instead) => format!("{}\ndid you mean `\"{instead}\"`?", self.found),
            None => self.found,
        }
    }
}

/// The digits at the start, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

fn number(digits: &str) -> Result<u64, Mistake> {
    digits
        .parse()
        .map_err(|_| Mistake::new("this number is too large"))
}

fn size(text: &str) -> Result<ByteSize, Mistake> {
    let (digits, unit) = digits(text.trim());
    let unit = unit.trim();
    if digits.is_empty() {
        return Err(Mistake::new("this does not begin with a whole number"));
    }
    let count = number(digits)?;
    if let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) {
        let bytes = count
            .checked_mul(*bytes)
            .ok_or_else(|| Mistake::new("this size is too large"))?;
        return Ok(ByteSize(bytes));
    }
    if unit.is_empty() {
        return Err(without_unit(count));
    }
    // `Mi` as in Kubernetes, `mb` and `m` as elsewhere.
    let guess = SIZES.iter().map(|(name, _)| *name).find(|name| {
        name.eq_ignore_ascii_case(unit)
            || name.eq_ignore_ascii_case(&format!("{unit}B")) && unit.len() > 1
    });
    let mistake = Mistake::new(format!("`{unit}` is no unit of size"));
    Err(match guess {
        Some(name) => mistake.instead(format!("{count}{name}")),
        None => mistake,
    })
}

fn without_unit(count: u64) -> Mistake {
    // Nobody means 64 bytes; whoever writes 67108864 does.
    let instead = match count {
        0..1024 => format!("{count}MiB"),
        bytes => ByteSize(bytes).to_string(),
    };
    Mistake::new("this size has no unit").instead(instead)
}

/// Reads a duration from the command line.
pub fn duration_of_text(text: &str) -> Result<Duration, String> {
    duration(text).map_err(Mistake::message)
}

fn duration(text: &str) -> Result<Duration, Mistake> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let (digits, behind) = digits(rest);
        let unit_end = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        if digits.is_empty() {
            return Err(Mistake::new("this does not begin with a whole number"));
        }
        let count = number(digits)?;
        let Some((_, ms)) = DURATIONS.iter().find(|(name, _)| *name == unit.trim()) else {
            return Err(unknown_time_unit(count, unit.trim()));
        };
        if *ms >= last {
            return Err(Mistake::new("the greater unit comes first, and each once"));
        }
        last = *ms;
        let part = count
            .checked_mul(*ms)
            .and_then(|part| total.checked_add(part));
        total = part.ok_or_else(|| Mistake::new("this duration is too long"))?;
        rest = behind;
    }
    if last == u64::MAX {
        return Err(Mistake::new("this is empty"));
    }
    Ok(Duration::from_millis(total))
}

fn unknown_time_unit(count: u64, unit: &str) -> Mistake {
    if unit.is_empty() {
        return Mistake::new("this duration has no unit").instead(format!("{count}s"));
    }
    let lower = unit.to_ascii_lowercase();
    let guess = ["ms", "d", "h", "m", "s"]
        .into_iter()
        .find(|name| match *name {
            "ms" => lower.starts_with("mill") || lower == "ms",
            name => lower.starts_with(name),
        });
    let mistake = Mistake::new(format!("`{unit}` is no unit of time"));
    match guess {
        Some(name) => mistake.instead(format!("{count}{name}")),
        None => mistake,
    }
}

impl Value for ByteSize {
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*([KMGT]i?)?B\s*$|\$" })
    }

    fn expected() -> String {
        "a size such as `\"64MiB\"` or `\"10GB\"`".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        if let Some(count) = node
            .as_integer()
            .and_then(|count| u64::try_from(count).ok())
        {
            return Err(without_unit(count).message());
        }
        size(node.as_str().ok_or_else(|| node.wrong_type())?).map_err(Mistake::message)
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Value for Duration {
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": r"^\s*([0-9]+\s*(d|h|m|s|ms)\s*)+$|\$" })
    }

    fn expected() -> String {
        "a duration such as `\"100ms\"`, `\"30s\"`, `\"2h\"` or `\"30d\"`".into()
    }

    fn read(node: &Node<'_>) -> Result<Self, String> {
        if let Some(count) = node
            .as_integer()
            .and_then(|count| u64::try_from(count).ok())
        {
            return Err(unknown_time_unit(count, "").message());
        }
        duration(node.as_str().ok_or_else(|| node.wrong_type())?).map_err(Mistake::message)
    }

    fn order(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_only() {
        let check = |text: &str, expected: Result<u64, (&str, Option<&str>)>| {
            let found = size(text);
            let found = found
                .as_ref()
                .map(|size| size.0)
                .map_err(|m| (m.found.as_str(), m.instead.as_deref()));
            assert_eq!(found, expected, "{text}");
        };
        check("64MiB", Ok(64 << 20));
        check("10GB", Ok(10_000_000_000));
        check(" 5 KiB ", Ok(5120));
        check("0B", Ok(0));
        check("1TiB", Ok(1 << 40));
        check("1048576", Err(("this size has no unit", Some("1MiB"))));
        check("64Mi", Err(("`Mi` is no unit of size", Some("64MiB"))));
        check("64mib", Err(("`mib` is no unit of size", Some("64MiB"))));
        check("5kB", Err(("`kB` is no unit of size", Some("5KB"))));
        check("5 bananas", Err(("`bananas` is no unit of size", None)));
        check("1.5GiB", Err(("`.5GiB` is no unit of size", None)));
        check(
            "-1B",
            Err(("this does not begin with a whole number", None)),
        );
        check("", Err(("this does not begin with a whole number", None)));
        check("99999999TiB", Err(("this size is too large", None)));
        check(
            "99999999999999999999B",
            Err(("this number is too large", None)),
        );
    }

    #[test]
    fn durations_are_read_with_their_units_only() {
        let check = |text: &str, expected: Result<u64, (&str, Option<&str>)>| {
            let found = duration(text);
            let found = found
                .as_ref()
                .map(|duration| duration.as_millis() as u64)
                .map_err(|m| (m.found.as_str(), m.instead.as_deref()));
            assert_eq!(found, expected, "{text}");
        };
        check("100ms", Ok(100));
        check("30s", Ok(30_000));
        check("2h", Ok(7_200_000));
        check("30d", Ok(2_592_000_000));
        check("1h30m", Ok(5_400_000));
        check("30", Err(("this duration has no unit", Some("30s"))));
        check("30 sec", Err(("`sec` is no unit of time", Some("30s"))));
        check("5min", Err(("`min` is no unit of time", Some("5m"))));
        check("1.5s", Err(("`.` is no unit of time", None)));
        check(
            "1m1h",
            Err(("the greater unit comes first, and each once", None)),
        );
        check("", Err(("this is empty", None)));
        check("s", Err(("this does not begin with a whole number", None)));
        check(
            "999999999999999999d",
            Err(("this duration is too long", None)),
        );
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for (bytes, text) in [
            (64 << 20, "64MiB"),
            (10_000_000_000, "10GB"),
            (1000, "1KB"),
            (1024, "1KiB"),
            (1025, "1025B"),
            (0, "0B"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(size(text), Ok(ByteSize(bytes)));
        }
    }
}
