//! The bodies are those of Loki 3.7.6, shortened only where they repeat themselves.

use std::time::Duration;

use super::*;

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status,
        body: format!("{body}\n").into_bytes().into(),
        ..Answer::default()
    }
}

fn outcome(status: u16, body: &str) -> Option<Outcome> {
    refused(&answer(status, body), "push", Micros(0))
}

#[track_caller]
fn stops(status: u16, body: &str, advice: &str) {
    match outcome(status, body) {
        Some(Outcome::Stop { reason }) => assert!(reason.contains(advice), "{reason}"),
        other => panic!("{status} {body}: not a stop: {other:?}"),
    }
}

#[track_caller]
fn splits(status: u16, body: &str, kind: RejectionKind, class: &str) {
    match outcome(status, body) {
        Some(Outcome::Split { verdict }) => {
            assert_eq!(
                (verdict.kind, verdict.class.as_str()),
                (kind, class),
                "{body}"
            );
        }
        other => panic!("{status} {body}: not a split: {other:?}"),
    }
}

#[track_caller]
fn retries(status: u16, body: &str) {
    match outcome(status, body) {
        Some(Outcome::Retry {
            in_doubt: true,
            after: None,
            ..
        }) => {}
        other => panic!("{status} {body}: not to be tried again: {other:?}"),
    }
}

#[test]
fn only_204_and_200_are_success() {
    assert_eq!((outcome(204, ""), outcome(200, "")), (None, None));
    stops(
        260,
        "ingestion blocked for user 'blocked' until '2036-01-01T00:00:00Z' with status code '260'",
        "nothing is stored",
    );
    for status in [201, 202, 206, 299] {
        stops(status, "", "nothing is stored");
    }
}

#[test]
fn tenant_credentials_and_endpoint_are_configuration() {
    stops(401, "no org id", "check `auth` and `tenant`");
    stops(403, "", "check `auth`");
    stops(404, "404 page not found", "/loki/api/v1/push");
    stops(405, "", "endpoint");
    stops(
        400,
        "tenant ID 'a/b' contains unsupported character '/'",
        "check `tenant`",
    );
    stops(400, "multiple org IDs present", "check `tenant`");
    stops(
        400,
        "tenant ID is too long: max 150 characters",
        "check `tenant`",
    );
    stops(
        400,
        "cannot parse common params from request: cannot parse accountID from \"platform\": cannot parse \"platform\" as uint32",
        "check `tenant`",
    );
    stops(307, "", "redirects");
    stops(407, "", "proxy");
}

#[test]
fn what_is_wrong_with_every_line_of_the_stream_is_configuration() {
    let labels = "check `labels`";
    stops(
        400,
        "couldn't parse labels: 1:3: parse error: unexpected character inside braces: '-'",
        labels,
    );
    stops(
        400,
        "entry for stream '{a=\"b\"}' has 16 label names; limit 15",
        labels,
    );
    stops(
        400,
        "stream '{t=\"x\"}' has label value too long: 'vvv'",
        labels,
    );
    stops(
        400,
        "stream '{t=\"x\"}' has duplicate label name: 'a'",
        labels,
    );
    stops(
        400,
        "error at least one label pair is required per stream",
        labels,
    );
    stops(
        400,
        "missing required labels 'cluster' for user 'enf' for stream '{t=\"x\"}' (policy: '')",
        labels,
    );
    stops(
        400,
        "stream '{t=\"x\"}' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it",
        "structured_metadata = {}",
    );
}

#[test]
fn what_is_wrong_with_some_line_is_looked_for_by_halving() {
    use RejectionKind::{Refused, TooLarge};
    splits(
        400,
        "entry for stream '{t=\"x\"}' has timestamp too old: 2026-11-16T11:29:50Z, oldest acceptable timestamp is: 2026-11-17T11:29:55Z",
        Refused,
        "too old",
    );
    splits(
        400,
        "entry for stream '{t=\"x\"}' has timestamp too new: 2026-11-24T11:40:50Z",
        Refused,
        "too new",
    );
    splits(
        400,
        "entry with timestamp 2026-11-24 10:28:50.501470819 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: 2026-11-24T10:28:50Z, oldest acceptable timestamp is: 2026-11-24T10:29:50Z',\nuser 't1', total ignored: 1 out of 1 for stream: {t=\"x\"}",
        Refused,
        "too far behind",
    );
    splits(
        400,
        "max entry size '262144' bytes exceeded for stream '{t=\"x\"}' while adding an entry with length '262145' bytes",
        TooLarge,
        "line too long",
    );
    splits(
        400,
        "stream '{t=\"x\"}' has structured metadata too large: '301' bytes, limit: '200' bytes. Please see `limits_config.max_structured_metadata_size`",
        TooLarge,
        "structured metadata too large",
    );
    splits(400, "snappy: corrupt input", Refused, "http 400");
    splits(400, "", Refused, "http 400");
    splits(
        422,
        "error at least one valid stream is required for ingestion",
        Refused,
        "http 422",
    );
}

#[test]
fn a_push_that_is_too_large_is_halved_whatever_the_code() {
    use RejectionKind::TooLarge;
    splits(
        500,
        "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (4201086 vs. 4194304)",
        TooLarge,
        "push too large",
    );
    splits(
        413,
        "request body too large: message size too large than max (219754041 vs 104857600)",
        TooLarge,
        "push too large",
    );
}

#[test]
fn limits_of_rate_and_servers_in_trouble_are_waited_for() {
    retries(
        429,
        "ingestion rate limit exceeded for user slow (limit: 10485 bytes/sec) while attempting to ingest '50' lines totaling '50000' bytes, reduce log volume",
    );
    retries(
        429,
        "maximum active stream limit exceeded when trying to create stream {t=\"x\"}, reduce the number of active streams",
    );
    for status in [408, 500, 502, 503, 504] {
        retries(status, "empty ring");
    }
    let slow = Answer {
        retry_after: Some("7".to_owned()),
        ..answer(429, "")
    };
    match refused(&slow, "push", Micros(0)) {
        Some(Outcome::Retry { after, .. }) => assert_eq!(after, Some(Duration::from_secs(7))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_login_is_refused_by_what_is_configuration_alone() {
    let login = |status, body| login(&answer(status, body), "log in", Micros(0));
    assert_eq!(login(204, ""), None);
    assert_eq!(
        login(
            422,
            "error at least one valid stream is required for ingestion"
        ),
        None
    );
    assert!(matches!(
        login(401, "no org id"),
        Some(Outcome::Stop { .. })
    ));
    assert!(matches!(
        login(500, "empty ring"),
        Some(Outcome::Retry { .. })
    ));
}

#[test]
fn a_reason_is_bounded_and_shows_neither_labels_nor_lines() {
    let reason = |body: &str| match outcome(400, body) {
        Some(Outcome::Split { verdict }) => verdict.reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        reason(
            "entry for stream '{a=\"{x}\", b=\"y\"}' has timestamp too new: 2026\n1 errors like"
        ),
        "push answered 400: entry for stream '{…}' has timestamp too new: 2026 1 errors like"
    );
    let quoted = "loghttp.PushRequest.Streams: unmarshalerDecoder: Value looks like Number, error found in #10 byte of ...|secret|...";
    let shown = reason(quoted);
    assert!(
        shown.contains("looks like Number") && !shown.contains("secret"),
        "{shown}"
    );
    assert!(reason(&"é".repeat(4000)).len() < 512);
}
