//! What a server of Loki's push API holds: every line with its labels and metadata, from the fake and from VictoriaLogs,
//! and the event that a line carries.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::http::Http;
use super::oracle::{Held, hex};
use crate::fakes::loki::Kept;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Nanoseconds since the Unix epoch.
    pub(crate) time: i64,
    /// The bytes that were pushed, as the server gives them back.
    pub(crate) line: String,
    /// Labels and structured metadata; a server need not tell them apart.
    pub(crate) fields: BTreeMap<String, String>,
}

impl Line {
    /// `"auditship_id"`, which every line begins with.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        let rest = self.line.trim_start().strip_prefix("{\"auditship_id\":\"");
        let id = rest.and_then(|rest| rest.get(..32));
        id.unwrap_or_else(|| panic!("a line without its id: {}", self.line))
            .to_owned()
    }

    /// The event's bytes: without the id, or as the string that stands in their place.
    #[track_caller]
    pub(crate) fn event(&self) -> Vec<u8> {
        let id = format!("\"auditship_id\":\"{}\"", self.id());
        let rest = self.line.replacen(&id, "", 1);
        let value: Value = match serde_json::from_str(&self.line) {
            Ok(value) => value,
            // A lone surrogate in an event is nothing that this parser takes.
            Err(_) => Value::Null,
        };
        let original = value.pointer("/event/original").and_then(Value::as_str);
        match (
            original,
            value.pointer("/event/encoding").and_then(Value::as_str),
        ) {
            (Some(text), Some("base64")) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .expect("base64"),
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, _) => rest.replacen("{,", "{", 1).into_bytes(),
        }
    }

    /// For the oracle.
    #[track_caller]
    pub(crate) fn held(&self) -> Held {
        Held {
            id: Some(self.id()),
            hash: hex(&Sha256::digest(self.event())),
        }
    }
}

/// Lines of the fake, in time order.
pub(crate) fn of_fake(lines: Vec<(String, Kept)>) -> Vec<Line> {
    let line = |(stream, kept): (String, Kept)| {
        let mut fields = kept.metadata;
        fields.extend(labels(&stream));
        Line {
            time: kept.time,
            line: kept.line,
            fields,
        }
    };
    let mut all: Vec<Line> = lines.into_iter().map(line).collect();
    all.sort_by_key(|line| line.time);
    all
}

/// What VictoriaLogs has for a LogsQL query such as `{job="x"}`, newest pushes included, in time order.
pub(crate) fn query(server: &Http, logsql: &str, tenant: Option<u32>) -> Vec<Line> {
    let account = tenant.unwrap_or(0).to_string();
    let tenant = [("AccountID", account.as_str()), ("ProjectID", "0")];
    server.ok("GET", "/internal/force_flush", "");
    let encoded: String = logsql
        .bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect();
    let path = format!("/select/logsql/query?query={encoded}");
    let (status, answer) = server
        .request_with("GET", &path, &tenant, b"")
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let mut all: Vec<Line> = answer
        .split(|byte| *byte == b'\n')
        .filter(|row| !row.is_empty())
        .map(row)
        .collect();
    all.sort_by_key(|line| line.time);
    all
}

fn row(bytes: &[u8]) -> Line {
    let row: BTreeMap<String, String> =
        serde_json::from_slice(bytes).expect("an object of strings");
    let time: jiff::Timestamp = row["_time"].parse().expect("a time");
    let line = row["_msg"].clone();
    let fields = row
        .into_iter()
        .filter(|(name, _)| !name.starts_with('_'))
        .collect();
    Line {
        time: i64::try_from(time.as_nanosecond()).expect("before the year 2262"),
        line,
        fields,
    }
}

/// `{a="b"}` of a stream.
fn labels(stream: &str) -> Vec<(String, String)> {
    let inner = stream.trim_start_matches('{').trim_end_matches('}');
    inner
        .split("\", ")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}
