//! The scanner beside serde_json and jiff, and its answers on odd input by name.

use fastrand::Rng;

use super::*;
use crate::event::fields;

#[path = "../../../fuzz/checks/scanner.rs"]
mod scanner;

const EVENT: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"b6560098-5c2b-4e43-9d6a-6b8f0e0d9a11","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/default/pods?limit=500","verb":"list","user":{"username":"system:serviceaccount:ns1:sa1","uid":"1","groups":["system:serviceaccounts","system:authenticated"],"extra":{"authentication.kubernetes.io/pod-name":["x"]}},"sourceIPs":["10.0.0.7","::1"],"userAgent":"kubectl/v1.34.0","objectRef":{"resource":"pods","namespace":"default","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestObject":[{"op":"add","path":"/a","value":{"\ud800":1e999,"a":-0.5E+3,"a":[true,false,null,[],{}]}}],"requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.680123Z","annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}"#;

/// A value of any kind, well formed but for what a mutation does to it later.
fn value(rng: &mut Rng, depth: usize, out: &mut Vec<u8>) {
    const SCALARS: [&str; 14] = [
        "0",
        "-0",
        "1.5",
        "1e999",
        "-2E-7",
        "123456789012345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        r#""\u0076erb""#,
        r#""\ud800""#,
        r#""\ud83d\ude00\"\\\/\b\f\n\r\t""#,
        "\"zo\u{e9} \u{4f8b}\u{3048} long enough for words\"",
    ];
    match rng.u8(..8) {
        0 if depth < 6 => object(rng, depth + 1, out),
        1 if depth < 6 => {
            out.push(b'[');
            for index in 0..rng.usize(..4) {
                if index > 0 {
                    out.push(b',');
                }
                blank(rng, out);
                value(rng, depth + 1, out);
                blank(rng, out);
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(SCALARS[rng.usize(..SCALARS.len())].as_bytes()),
    }
}

fn object(rng: &mut Rng, depth: usize, out: &mut Vec<u8>) {
    const KEYS: [&str; 8] = [
        "verb",
        r"\u0076erb",
        "user",
        "stageTimestamp",
        "stage\\u0054imestamp",
        "objectRef",
        "",
        r"\ud800",
    ];
    out.push(b'{');
    for index in 0..rng.usize(..5) {
        if index > 0 {
            out.push(b',');
        }
        blank(rng, out);
        out.extend_from_slice(format!("\"{}\"", KEYS[rng.usize(..KEYS.len())]).as_bytes());
        blank(rng, out);
        out.push(b':');
        blank(rng, out);
        value(rng, depth, out);
        blank(rng, out);
    }
    out.push(b'}');
}

fn blank(rng: &mut Rng, out: &mut Vec<u8>) {
    if rng.u8(..6) == 0 {
        out.push(*rng.choice(b" \t\r\n").unwrap_or(&b' '));
    }
}

/// One or a few small changes: bytes set, taken out, put in, repeated; the end cut off.
fn mutate(rng: &mut Rng, line: &mut Vec<u8>) {
    const BYTES: &[u8] = b"{}[]\",:\\/ut0e.-+ \n\t\0\x1f\x7f\x80\xff";
    for _ in 0..rng.usize(..3) {
        if line.is_empty() {
            return;
        }
        let at = rng.usize(..line.len());
        let byte = if rng.bool() {
            *rng.choice(BYTES).unwrap_or(&0)
        } else {
            rng.u8(..)
        };
        match rng.u8(..5) {
            0 => line[at] = byte,
            1 => line.insert(at, byte),
            2 => drop(line.remove(at)),
            3 => line.truncate(at),
            _ => {
                let end = (at + rng.usize(..20)).min(line.len());
                let again = line[at..end].to_vec();
                line.splice(at..at, again);
            }
        }
    }
}

#[test]
fn accepts_and_finds_what_serde_json_does() {
    let mut accepted = 0;
    for seed in 0..10_000 {
        let mut rng = Rng::with_seed(seed);
        let mut line = Vec::new();
        match rng.u8(..4) {
            0 => line.extend_from_slice(EVENT),
            _ => object(&mut rng, 0, &mut line),
        }
        mutate(&mut rng, &mut line);
        scanner::check(&line);
        accepted += usize::from(is_event(&line));
    }
    assert!(
        (2_000..8_000).contains(&accepted),
        "{accepted} of 10,000 accepted: the inputs test one side only"
    );
}

#[track_caller]
fn check(line: &[u8], is: bool) {
    assert_eq!(is_event(line), is, "{}", String::from_utf8_lossy(line));
}

#[test]
fn one_object_and_nothing_else_is_an_event() {
    for line in [
        "{}",
        " {} ",
        "\t{\"a\" : 1 }\r",
        r#"{"a":1,"a":2}"#,
        r#"{"\ud800":"\udfff"}"#,
        r#"{"a":1e999}"#,
    ] {
        check(line.as_bytes(), true);
    }
    check(b"{\"a\":\"\xff\xc0 not UTF-8\"}", true);
    check(b"{\"a\xff\":1}", true);
    for line in [
        "",
        " ",
        "1",
        "[]",
        "null",
        "{}{}",
        "{} x",
        "{",
        "}",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
    ] {
        check(line.as_bytes(), false);
    }
    for line in [
        "{,}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
    ] {
        check(line.as_bytes(), false);
    }
    for line in [
        "{\"a\":tru}",
        "{\"a\":NaN}",
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12g4"}"#,
        "{\"a\":[1,]}",
        "{\"a\":[}]",
    ] {
        check(line.as_bytes(), false);
    }
    check(b"\xef\xbb\xbf{}", false);
    check(b"{\"a\":1}\0", false);
    check(b"\0{\"a\":1}", false);
    check(b"{\"a\":\xff}", false);
    for control in 0..0x20 {
        check(&[b"{\"a\":\"", &[control][..], b"\"}"].concat(), false);
        check(
            &[
                b"{\"a\":\"a longer text ",
                &[control][..],
                b" and more of it\"}",
            ]
            .concat(),
            false,
        );
    }
}

#[test]
fn depth_of_100_000_is_walked_without_recursion() {
    let mut line = b"{\"a\":".repeat(50_000);
    line.extend_from_slice(&b"[".repeat(50_000));
    line.extend_from_slice(&b"]".repeat(50_000));
    check(&[&line[..], &b"}".repeat(50_000)].concat(), true);
    check(&[&line[..], &b"}".repeat(49_999)].concat(), false);
    check(&[&line[..], &b"}".repeat(50_001)].concat(), false);
    check(&[&line[..], &b"}".repeat(49_999), b"]"].concat(), false);
}

#[test]
fn find_takes_the_last_of_duplicate_keys_and_resolves_escaped_ones() {
    let find = |line: &'static str, path: &[&str]| {
        fields::find(line.as_bytes(), path).map(|value| std::str::from_utf8(value).unwrap())
    };
    assert_eq!(
        find(r#"{"verb":"get","\u0076erb":"delete"}"#, &["verb"]),
        Some("\"delete\"")
    );
    assert_eq!(
        find(
            r#"{"user":{"username":"a"},"user":{"username":"b" , "x":[{}]}}"#,
            &["user", "username"]
        ),
        Some("\"b\"")
    );
    assert_eq!(
        find(
            r#"{"user":{"username":"a"},"user":1}"#,
            &["user", "username"]
        ),
        None
    );
    assert_eq!(find(r#"{"a":{"b":[1, 2]}} "#, &["a", "b"]), Some("[1, 2]"));
    assert_eq!(find(r#"{"a":1}"#, &["b"]), None);
    assert_eq!(find(r#"{"a":1"#, &["a"]), None);
}

#[test]
fn text_replaces_what_is_no_character() {
    let text = |value: &[u8]| fields::text(value).map(|text| text.into_owned());
    assert_eq!(
        text(br#""a\u0062\n\ud83d\ude00""#).as_deref(),
        Some("ab\n\u{1f600}")
    );
    assert_eq!(text(br#""\ud800x""#).as_deref(), Some("\u{fffd}x"));
    assert_eq!(text(br#""\ud800\u0061""#).as_deref(), Some("\u{fffd}a"));
    assert_eq!(text(br#""\udc00""#).as_deref(), Some("\u{fffd}"));
    assert_eq!(text(b"\"a\xffb\"").as_deref(), Some("a\u{fffd}b"));
    assert_eq!(text(b"\"a\" "), None);
    assert_eq!(text(b"\"a"), None);
    assert_eq!(text(b"1"), None);
}

#[test]
fn stage_timestamp_is_read_as_jiff_reads_it() {
    let mut read = 0;
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let (year, month, day) = (rng.u16(1..9999), rng.u8(1..13), rng.u8(1..32));
        let (hour, minute, second) = (rng.u8(..25), rng.u8(..61), rng.u8(..61));
        let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        let digits = rng.usize(..11);
        if digits > 0 {
            text.push('.');
            text.extend((0..digits).map(|_| char::from(rng.u8(b'0'..=b'9'))));
        }
        match rng.u8(..4) {
            0 => text.push_str(&format!(
                "{}{:02}:{:02}",
                ["+", "-"][rng.usize(..2)],
                rng.u8(..24),
                rng.u8(..60)
            )),
            1 if rng.bool() => text.push('z'),
            _ => text.push('Z'),
        }
        let ours = stage_timestamp_us(format!(r#"{{"stageTimestamp":"{text}"}}"#).as_bytes());
        let theirs: Option<jiff::Timestamp> = text.parse().ok();
        // Digits beyond microseconds are cut off, towards the past also before 1970.
        let theirs =
            theirs.map(|time| i64::try_from(time.as_nanosecond().div_euclid(1_000)).unwrap());
        assert_eq!(ours, theirs, "{text}");
        read += usize::from(ours.is_some());
    }
    assert!(read > 10_000, "{read}");
}

#[test]
fn stage_timestamp_of_another_form_is_none() {
    for value in [
        "1",
        "null",
        "\"\"",
        "\"2026-01-02\"",
        "\"2026-01-02 03:04:05Z\"",
        "\"2026-01-02T03:04:05\"",
        "\"2026-02-30T03:04:05Z\"",
        "\"2026-01-02T03:04:05.Z\"",
        "\"2026-01-02T03:04:05.1234567890Z\"",
        "\"2026-01-02T03:04:05Z \"",
        "\"+026-01-02T03:04:05Z\"",
        "\"2026-01-02T03:04:05+0100\"",
    ] {
        assert_eq!(
            stage_timestamp_us(format!(r#"{{"stageTimestamp":{value}}}"#).as_bytes()),
            None,
            "{value}"
        );
    }
    assert_eq!(
        stage_timestamp_us(br#"{"stageTimestamp":"1970-01-01T00:00:01Z"}"#),
        Some(1_000_000)
    );
    assert_eq!(
        stage_timestamp_us(br#"{"stageTimestamp":"\u003190\u0030-01-01T00:00:01Z"}"#),
        Some(-2_208_988_799_000_000)
    );
    assert_eq!(
        stage_timestamp_us(br#"{"stageTimestamp":"1970-01-01T00:00:01Z""#),
        None
    );
}

#[track_caller]
fn check_head(line: &[u8], expected: &str) {
    assert_eq!(String::from_utf8(head_fields(line)).unwrap(), expected);
}

#[test]
fn head_fields_of_a_whole_event() {
    check_head(
        EVENT,
        r#"{"auditID":"b6560098-5c2b-4e43-9d6a-6b8f0e0d9a11","stage":"ResponseComplete","level":"RequestResponse","verb":"list","requestURI":"/api/v1/namespaces/default/pods?limit=500","requestReceivedTimestamp":"2026-01-02T03:04:05.678901Z","stageTimestamp":"2026-01-02T03:04:05.680123Z","user":{"username":"system:serviceaccount:ns1:sa1"},"sourceIPs":["10.0.0.7","::1"],"objectRef":{"resource":"pods","namespace":"default","apiVersion":"v1"},"responseStatus":{"code":200}}"#,
    );
}

#[test]
fn head_fields_of_a_torn_event_are_those_that_are_whole() {
    check_head(b"", "{}");
    check_head(b"\0\0garbage", "{}");
    check_head(br#"{"auditID":"a","stage":"Resp"#, r#"{"auditID":"a"}"#);
    check_head(
        br#"{"user":{"username":"eve","groups":["x"#,
        r#"{"user":{"username":"eve"}}"#,
    );
    check_head(
        br#"{"objectRef":{"resource":"pods","name":"x"#,
        r#"{"objectRef":{"resource":"pods"}}"#,
    );
    check_head(
        b"\0\0{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"verb\":\"get\",",
        r#"{"verb":"get"}"#,
    );
}

#[test]
fn head_fields_leave_out_what_has_another_type() {
    check_head(br#"{"auditID":1,"user":"x","sourceIPs":{"a":"b"},"objectRef":[],"responseStatus":{"code":1e999}}"#, "{}");
    check_head(
        br#"{"sourceIPs":["a",1,"b"],"user":{"username":{}}}"#,
        r#"{"sourceIPs":["a","b"]}"#,
    );
}

#[test]
fn head_fields_are_cut_to_64_kib_and_stay_text() {
    let long = "\\u0001\u{e9}\\ud800".repeat(8_000);
    let mut line = String::from("{");
    for name in [
        "auditID",
        "stage",
        "level",
        "verb",
        "requestURI",
        "requestReceivedTimestamp",
        "stageTimestamp",
    ] {
        line.push_str(&format!("\"{name}\":\"{long}\","));
    }
    line.push_str(&format!(
        "\"user\":{{\"username\":\"{long}\"}},\"sourceIPs\":["
    ));
    line.push_str(&format!("\"{long}\",").repeat(30));
    line.push_str("\"\"],\"objectRef\":{");
    for name in [
        "resource",
        "namespace",
        "name",
        "uid",
        "apiGroup",
        "apiVersion",
        "resourceVersion",
    ] {
        line.push_str(&format!("\"{name}\":\"{long}\","));
    }
    line.push_str(&format!("\"subresource\":\"{long}\"}}}}"));
    let head = head_fields(line.as_bytes());
    assert!(
        (40 << 10..=64 << 10).contains(&head.len()),
        "{}",
        head.len()
    );
    let head: serde_json::Value = serde_json::from_slice(&head).unwrap();
    assert!(
        head["requestURI"]
            .as_str()
            .unwrap()
            .ends_with("...TRUNCATED")
    );
}
