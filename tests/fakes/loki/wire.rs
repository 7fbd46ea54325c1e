//! What a push request holds: protobuf in a snappy block, or JSON, read as Loki 3.7.6 reads it, with its words for what
//! it cannot read.

use prost::Message;
use serde_json::Value;

/// One stream of a push.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PushedStream {
    /// As sent; not yet parsed.
    pub(crate) labels: String,
    pub(crate) entries: Vec<PushedEntry>,
}

/// One line of a push.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PushedEntry {
    /// Nanoseconds since the Unix epoch.
    pub(crate) time: i64,
    pub(crate) line: String,
    pub(crate) metadata: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    streams: Vec<StreamMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamMessage {
    #[prost(bytes = "vec", tag = "1")]
    labels: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryMessage {
    #[prost(message, tag = "1")]
    time: Option<Timestamp>,
    #[prost(bytes = "vec", tag = "2")]
    line: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// What is not UTF-8 comes back as U+FFFD, so it may as well go in so.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A protobuf push; the error is the body of a 400.
pub(super) fn protobuf(body: &[u8]) -> Result<Vec<PushedStream>, String> {
    let whole = snap::raw::Decoder::new()
        .decompress_vec(body)
        .map_err(|_| "snappy: corrupt input".to_owned())?;
    if body.is_empty() {
        return Err("snappy: corrupt input".to_owned());
    }
    let request = PushRequest::decode(whole.as_slice()).map_err(|_| "unexpected EOF".to_owned())?;
    let entry = |entry: EntryMessage| {
        let time = entry.time.unwrap_or_default();
        PushedEntry {
            time: time.seconds * 1_000_000_000 + i64::from(time.nanos),
            line: text(&entry.line),
            metadata: entry
                .metadata
                .iter()
                .map(|pair| (text(&pair.name), text(&pair.value)))
                .collect(),
        }
    };
    let stream = |stream: StreamMessage| PushedStream {
        labels: text(&stream.labels),
        entries: stream.entries.into_iter().map(entry).collect(),
    };
    Ok(request.streams.into_iter().map(stream).collect())
}

/// A JSON push; the error is the body of a 400.
pub(super) fn json(body: &[u8]) -> Result<Vec<PushedStream>, String> {
    if body.is_empty() {
        return Err("EOF".to_owned());
    }
    let request: Value = serde_json::from_slice(body)
        .map_err(|_| "loghttp.PushRequest.Streams: unexpected end of input".to_owned())?;
    let mut streams = Vec::new();
    for stream in request["streams"].as_array().into_iter().flatten() {
        let labels: Vec<String> = pairs(&stream["stream"])
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        let mut entries = Vec::new();
        for value in stream["values"].as_array().into_iter().flatten() {
            let (Some(time), Some(line)) = (value[0].as_str(), value[1].as_str()) else {
                return Err("loghttp.PushRequest.Streams: a value is no pair of strings".to_owned());
            };
            entries.push(PushedEntry {
                time: time
                    .parse()
                    .map_err(|_| "loghttp.PushRequest.Streams: invalid timestamp".to_owned())?,
                line: line.to_owned(),
                metadata: pairs(&value[2]),
            });
        }
        streams.push(PushedStream {
            labels: format!("{{{}}}", labels.join(", ")),
            entries,
        });
    }
    Ok(streams)
}

fn pairs(object: &Value) -> Vec<(String, String)> {
    let pair = |(name, value): (&String, &Value)| {
        (name.clone(), value.as_str().unwrap_or_default().to_owned())
    };
    object.as_object().into_iter().flatten().map(pair).collect()
}

/// `{a="b", c="d"}` as names and values, in the order given.
pub(super) fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let wrong = |at: usize, what: &str| {
        Err(format!(
            "couldn't parse labels: 1:{}: parse error: {what}",
            at + 1
        ))
    };
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    let skip = |mut at: usize| {
        while chars.get(at) == Some(&' ') {
            at += 1;
        }
        at
    };
    if chars.get(at) != Some(&'{') {
        return wrong(at, "unexpected character");
    }
    at = skip(at + 1);
    let mut found = Vec::new();
    while chars.get(at) != Some(&'}') {
        let start = at;
        while chars
            .get(at)
            .is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            at += 1;
        }
        let name: String = chars[start..at].iter().collect();
        if name.is_empty() || chars.get(at) != Some(&'=') || chars.get(at + 1) != Some(&'"') {
            return match chars.get(at) {
                Some(c) => wrong(at, &format!("unexpected character inside braces: {c:?}")),
                None => wrong(at, "unexpected end of input inside braces"),
            };
        }
        at += 2;
        let mut value = String::new();
        loop {
            match (chars.get(at), chars.get(at + 1)) {
                (Some('"'), _) => break,
                (Some('\u{fffd}'), _) => return wrong(at, "invalid UTF-8 rune"),
                (Some('\\'), Some(escaped)) => {
                    value.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        other => *other,
                    });
                    at += 2;
                }
                (Some(plain), _) => {
                    value.push(*plain);
                    at += 1;
                }
                (None, _) => return wrong(at, "unterminated quoted string"),
            }
        }
        found.push((name, value));
        at = skip(at + 1);
        match chars.get(at) {
            Some(',') => at = skip(at + 1),
            Some('}') => {}
            _ => return wrong(at, "unexpected end of input inside braces"),
        }
    }
    Ok(found)
}

#[test]
fn labels_are_read_with_their_escapes() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        labels(r#"{a="b \"c\" \\", d_1=""}"#),
        Ok(vec![pair("a", r#"b "c" \"#), pair("d_1", "")])
    );
    assert_eq!(labels("{}"), Ok(Vec::new()));
    assert_eq!(
        labels(r#"{a-b="c"}"#),
        Err(
            "couldn't parse labels: 1:3: parse error: unexpected character inside braces: '-'"
                .to_owned()
        )
    );
}
