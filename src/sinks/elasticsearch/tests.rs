//! What is stored, as golden text; how stored documents are compared; what a configuration may say. The sink as a
//! whole is tested against a server by the contract suite under `tests/`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::body::{Create, Encoder, Line, Shape};
use super::conflict::Comparison;
use super::settings::{Document, Settings, Target};
use super::template::{self, Product};
use super::{bulk_path, settings};
use crate::config;
use crate::event::LineKind;
use crate::sinks::testing::record;
use crate::sinks::{Form, Record};

const EVENT: &[u8] =
    br#"{"kind":"Event","auditID":"a-1","verb":"get",  "requestObject":{"a":1.50,"s":"\ud800"}}"#;

fn at(mut record: Record, time_us: i64) -> Record {
    record.head.time_us = Some(time_us);
    record
}

fn event(line: &[u8]) -> Record {
    at(record(0, LineKind::Event, line), 1_767_323_045_678_901)
}

fn malformed(line: &[u8]) -> Record {
    at(record(0, LineKind::Malformed, line), 1_767_323_045_678_901)
}

fn encoder(document: Document) -> Encoder {
    let labels = BTreeMap::from([("env".to_owned(), "prod \"1\"".to_owned())]);
    Encoder::new(document, false, &labels)
}

fn document(document: Document, record: &Record, form: Form) -> String {
    let mut out = Vec::new();
    encoder(document).document(Line::of(record, form).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

/// Id and hash replaced by `ID` and `HASH`, for readable expectations.
fn readable(text: &str, record: &Record) -> String {
    text.replace(&record.head.id.to_hex(), "ID")
        .replace(&record.head.hash.to_hex(), "HASH")
}

#[track_caller]
fn check(kind: Document, record: &Record, form: Form, expected: &str) {
    let found = document(kind, record, form);
    assert_eq!(readable(&found, record), expected);
    assert!(!found.contains('\n'));
}

#[test]
fn an_ecs_document_holds_the_event_byte_for_byte() {
    let expected = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","event":{"id":"ID","kind":"event","hash":"HASH"},"orchestrator":{"cluster":{"name":"c1"}},"host":{"name":"n1"},"labels":{"env":"prod \"1\""},"kubernetes":{"audit":{"kind":"Event","auditID":"a-1","verb":"get",  "requestObject":{"a":1.50,"s":"\ud800"}}}}"#;
    check(Document::Ecs, &event(EVENT), Form::Normal, expected);
}

#[test]
fn a_flat_document_has_the_events_own_fields_behind_ours() {
    let ours = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","auditship":{"id":"ID","hash":"HASH","cluster":"c1","node":"n1","source":"apiserver"}"#;
    for (line, rest) in [
        (" {\"verb\": \"get\" } ", ",\"verb\": \"get\" }"),
        ("{}", "}"),
        ("{ \t}", " \t}"),
        ("{ \"a\":1}", ", \"a\":1}"),
    ] {
        check(
            Document::Flat,
            &event(line.as_bytes()),
            Form::Normal,
            &format!("{ours}{rest}"),
        );
    }
}

#[test]
fn the_fallback_holds_the_line_and_what_can_be_found_in_it() {
    let line = br#"{"verb":"get","auditID":"a-1","user":{"username":"u"},"verb":"list"}"#;
    let expected = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","event":{"id":"ID","kind":"event","hash":"HASH","original":"{\"verb\":\"get\",\"auditID\":\"a-1\",\"user\":{\"username\":\"u\"},\"verb\":\"list\"}"},"orchestrator":{"cluster":{"name":"c1"}},"host":{"name":"n1"},"labels":{"env":"prod \"1\""},"kubernetes":{"audit":{"auditID":"a-1","verb":"list","user":{"username":"u"}}}}"#;
    check(Document::Ecs, &event(line), Form::Fallback, expected);
    let expected = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","auditship":{"id":"ID","hash":"HASH","cluster":"c1","node":"n1","source":"apiserver"},"auditID":"a-1","verb":"list","user":{"username":"u"},"event":{"original":"{\"verb\":\"get\",\"auditID\":\"a-1\",\"user\":{\"username\":\"u\"},\"verb\":\"list\"}"}}"#;
    check(Document::Flat, &event(line), Form::Fallback, expected);
}

#[test]
fn a_malformed_line_stands_as_text_or_in_base64() {
    let text = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","event":{"id":"ID","kind":"event","hash":"HASH","original":"\u0000torn\t\"\\é"},"orchestrator":{"cluster":{"name":"c1"}},"host":{"name":"n1"},"labels":{"env":"prod \"1\""}}"#;
    check(
        Document::Ecs,
        &malformed("\0torn\t\"\\é".as_bytes()),
        Form::Normal,
        text,
    );
    let base64 = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","event":{"id":"ID","kind":"event","hash":"HASH","original":"/2E="},"orchestrator":{"cluster":{"name":"c1"}},"host":{"name":"n1"},"labels":{"env":"prod \"1\""},"auditship":{"encoding":"base64"}}"#;
    check(Document::Ecs, &malformed(b"\xffa"), Form::Normal, base64);
    let flat = r#"{"@timestamp":"2026-01-02T03:04:05.678901Z","auditship":{"id":"ID","hash":"HASH","cluster":"c1","node":"n1","source":"apiserver","encoding":"base64"},"event":{"original":"/2E="}}"#;
    check(Document::Flat, &malformed(b"\xffa"), Form::Normal, flat);
}

#[test]
fn head_fields_of_another_type_are_left_out_of_the_fallback() {
    let line = br#"{"auditID":{"x":1},"stage":7,"sourceIPs":[{"a":1}],"user":{"username":["u"]},"objectRef":{"resource":"pods","name":null},"responseStatus":{"code":"x"},"verb":"get""#;
    let found = document(Document::Ecs, &malformed(line), Form::Normal);
    assert!(
        found
            .ends_with(r#""kubernetes":{"audit":{"verb":"get","objectRef":{"resource":"pods"}}}}"#),
        "{found}"
    );
}

#[test]
fn a_line_feed_inside_an_event_cannot_begin_another_action() {
    let forged = event(b"{\"a\":\n1}\n{\"delete\":{\"_id\":\"x\"}}");
    assert!(Line::of(&forged, Form::Normal).unwrap().shape == Shape::Original);
    assert!(!document(Document::Flat, &forged, Form::Normal).contains('\n'));
}

#[test]
fn a_time_that_no_date_field_holds_is_replaced_by_the_append_time() {
    for time in [-1, i64::MAX, 9_223_372_036_854_776] {
        let found = document(
            Document::Ecs,
            &at(record(0, LineKind::Event, b"{}"), time),
            Form::Normal,
        );
        assert!(
            found.starts_with(r#"{"@timestamp":"2023-11-14T22:13:20.000000Z","#),
            "{found}"
        );
    }
}

#[test]
fn a_body_is_the_same_gzipped_and_plain_and_no_heavier_than_weighed() {
    let records: Vec<Record> = (0..200)
        .map(|n| match n % 3 {
            0 => event(format!(r#"{{"n":{n},"pad":"{}"}}"#, "x".repeat(n * 10)).as_bytes()),
            1 => malformed(&vec![0; n]),
            _ => malformed(&vec![0xff; n * 100]),
        })
        .collect();
    let creates = || {
        records.iter().map(|record| Create {
            line: Line::of(record, Form::Normal).unwrap(),
            id: "id",
            index: Some("audit-1"),
        })
    };
    let plain = encoder(Document::Ecs).bulk(creates(), Vec::new()).unwrap();
    let weighed: u64 = records
        .iter()
        .map(|record| encoder(Document::Ecs).weigh(record))
        .sum();
    assert!(plain.len() as u64 <= weighed, "{} {weighed}", plain.len());
    assert!(
        plain.starts_with(b"{\"create\":{\"_index\":\"audit-1\",\"_id\":\"id\"}}\n{\"@timestamp\"")
    );
    assert_eq!(memchr::memchr_iter(b'\n', &plain).count(), 400);
    let gzip = Encoder::new(
        Document::Ecs,
        true,
        &BTreeMap::from([("env".to_owned(), "prod \"1\"".to_owned())]),
    );
    let body = gzip
        .bulk(creates(), b"what was there before".to_vec())
        .unwrap();
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(body.as_slice())
        .read_to_end(&mut inflated)
        .unwrap();
    assert_eq!(inflated, plain);
}

#[test]
fn a_stored_document_is_ours_only_when_it_holds_the_same_event() {
    let same = |kind, pipeline, source: &str, record: &Record, form| {
        Comparison {
            document: kind,
            pipeline,
        }
        .same(source.as_bytes(), Line::of(record, form).unwrap())
    };
    for kind in [Document::Ecs, Document::Flat] {
        // What serde_json refuses too: a lone surrogate, a number beyond f64, depth.
        let deep = format!(
            r#"{{"verb":"get","d":{}{}}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        for line in [EVENT, br#"{"n":1e999}"#, b"{}", b" { } ", deep.as_bytes()] {
            let ours = event(line);
            let stored = document(kind, &ours, Form::Normal);
            assert!(same(kind, false, &stored, &ours, Form::Normal), "{stored}");
            let relabelled = stored
                .replace("2026-01-02", "2026-01-03")
                .replace("prod", "test");
            assert!(
                same(kind, false, &relabelled, &ours, Form::Normal),
                "only the event counts: {relabelled}"
            );
            let other = event(br#"{"verb":"delete"}"#);
            assert!(
                !same(kind, false, &stored, &other, Form::Normal),
                "{stored}"
            );
        }
        for record in [malformed(b"torn {"), malformed(b"\xff\xfe")] {
            let stored = document(kind, &record, Form::Normal);
            assert!(
                same(kind, false, &stored, &record, Form::Normal),
                "{stored}"
            );
            assert!(
                !same(kind, false, &stored, &malformed(b"torn ["), Form::Normal),
                "{stored}"
            );
        }
        for junk in [
            "{}",
            "",
            "null",
            r#"{"kubernetes":{"audit":{}}}"#,
            r#"{"event":{"original":1}}"#,
        ] {
            assert!(
                !same(kind, false, junk, &event(EVENT), Form::Normal),
                "{junk}"
            );
        }
    }
    // As an attempt before had to store it: found again when the event is sent in its usual form first.
    for kind in [Document::Ecs, Document::Flat] {
        let ours = event(br#"{"verb":"get","a":{"b":1,"b":2}}"#);
        let stored = document(kind, &ours, Form::Fallback);
        assert!(same(kind, false, &stored, &ours, Form::Normal), "{stored}");
        let forged = stored.replace(r#""verb":"get""#, r#""verb":"list""#);
        assert_ne!(forged, stored);
        assert!(
            !same(kind, false, &forged, &ours, Form::Normal),
            "what people search by is another's: {forged}"
        );
    }
    let reordered = r#"{"kubernetes":{"audit":{"b":[1,2],"a":"\u0078"}}}"#;
    assert!(same(
        Document::Ecs,
        false,
        reordered,
        &event(br#"{"a":"x","b":[1,2]}"#),
        Form::Normal
    ));
}

#[test]
fn a_right_hash_beside_another_event_does_not_make_it_ours_unless_a_pipeline_changes_events() {
    let ours = event(br#"{"verb":"delete"}"#);
    let forged = format!(
        r#"{{"event":{{"hash":"{}"}},"kubernetes":{{"audit":{{"verb":"get"}}}}}}"#,
        ours.head.hash.to_hex()
    );
    let same = |pipeline, source: &str| {
        Comparison {
            document: Document::Ecs,
            pipeline,
        }
        .same(source.as_bytes(), Line::of(&ours, Form::Normal).unwrap())
    };
    assert!(!same(false, &forged));
    assert!(same(true, &forged));
    let original = forged.replace(
        r#"{"event":{"#,
        r#"{"event":{"original":"{\"verb\":\"get\"}","#,
    );
    assert!(
        !same(true, &original),
        "where the line is there, it decides"
    );
}

/// The settings of a sink with these keys, or what is wrong with them.
fn settings(keys: &str) -> Result<Settings, String> {
    let document =
        config::Document::parse("test.toml", keys, Path::new(".")).map_err(|d| d.to_string())?;
    let mut section = document.root();
    let settings = Settings::read(&mut section);
    section.finish();
    document.finish().map_err(|d| d.to_string())?;
    settings.ok_or_else(|| panic!("neither settings nor a mistake for {keys}"))
}

#[test]
fn the_shortest_configuration_names_endpoints_only() {
    let settings = settings("endpoints = [\"https://es.example.com:9200/es/\"]").unwrap();
    assert_eq!(
        settings.access.endpoints,
        ["https://es.example.com:9200/es"]
    );
    assert!(
        matches!(&settings.target, Target::DataStream(name) if name == "logs-kubernetes.audit-default")
    );
    assert!(
        settings.gzip
            && settings.managed_template
            && settings.verify_conflicts
            && settings.access.auth.is_none()
    );
    assert!(bulk_path(&settings).starts_with("/logs-kubernetes.audit-default/_bulk?filter_path="));
}

#[test]
fn an_index_is_fixed_or_depends_on_the_event() {
    let target = |index: &str| {
        settings(&format!(
            "endpoints=[\"http://es\"]\nindex=\"{index}\"\npipeline=\"p\""
        ))
        .unwrap()
    };
    let fixed = target("audit");
    assert!(matches!(&fixed.target, Target::Index(name) if name == "audit"));
    assert!(bulk_path(&fixed).ends_with("&pipeline=p"));
    let dated = target("audit-{event:%Y}-{audit.verb}");
    assert!(bulk_path(&dated).starts_with("/_bulk?"));
    let Target::Template(template) = &dated.target else {
        panic!("not a template")
    };
    assert_eq!(
        template.index_of(&event(br#"{"verb":"GET/x"}"#)).name,
        "audit-2026-get-x"
    );
    assert_eq!(
        (dated.target.pattern(), dated.target.example()),
        ("audit-*".to_owned(), "audit-other".to_owned())
    );
}

#[test]
fn what_cannot_work_is_a_mistake_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (keys, words) in [
        ("endpoints=[]", "no endpoint is named"),
        ("endpoints=[\"es:9200\"]", "not http or https"),
        ("endpoints=[\"/\"]", "no URL"),
        (
            "endpoints=[\"https://u:p@es\"]",
            "credentials do not stand in a URL",
        ),
        ("endpoints=[\"https://es/?a=b\"]", "ends with its path"),
        (
            "endpoints=[\"http://es\"]\nindex=\"a\"\ndata_stream=\"b\"",
            "two places",
        ),
        (
            "endpoints=[\"http://es\"]\nindex=\"{audit.verb}\"",
            "must begin with a literal",
        ),
        (
            "endpoints=[\"http://es\"]\nindex=\"Audit\"",
            "cannot be in the name of an index",
        ),
        (
            "endpoints=[\"http://es\"]\ndata_stream=\"logs-A\"",
            "cannot be in the name of a data stream",
        ),
        (
            "endpoints=[\"http://es\"]\ndata_stream=\".logs\"",
            "may not begin with",
        ),
        (
            "endpoints=[\"http://es\"]\nauth={api_key=\"k\",basic={user=\"u\",password=\"p\"}}",
            "two ways to log in",
        ),
        ("endpoints=[\"http://es\"]\nauth={}", "names no credentials"),
        (
            "endpoints=[\"http://es\"]\nauth={aws={region=\"x\"}}",
            "not built yet",
        ),
        (
            "endpoints=[\"http://es\"]\nauth={basic={user=\"u\"}}",
            "password",
        ),
        (
            "endpoints=[\"https://es\"]\ntls={cert=\"c\"}",
            "a certificate without its key",
        ),
        (
            "endpoints=[\"https://es\"]\ntls={key=\"c\"}",
            "a key without its certificate",
        ),
        (
            "endpoints=[\"https://es\"]\ntls={ca=\"/nonexistent/ca.pem\"}",
            "/nonexistent/ca.pem",
        ),
        (
            "endpoints=[\"https://es\"]\ntls={server_name=\"a b\"}",
            "no host name",
        ),
        (
            "endpoints=[\"http://es\"]\ntls={}",
            "does nothing for http://es",
        ),
        (
            "endpoints=[\"http://es\"]\npipeline=\"a/b\"",
            "a pipeline's name",
        ),
        ("endpoints=[\"http://es\"]\ndocument=\"ECS\"", "ecs"),
        ("endpoints=[\"http://es\"]\nindexx=\"a\"", "index"),
    ] {
        let mistake = settings(keys).expect_err(keys);
        assert!(mistake.contains(words), "{keys}\n{mistake}");
        assert!(mistake.contains("test.toml:"), "{mistake}");
    }
    let mistake =
        settings(&format!("endpoints=[\"https://es\"]\ntls={{ca={empty:?}}}")).unwrap_err();
    assert!(mistake.contains("no PEM certificate"), "{mistake}");
}

#[test]
fn mistakes_in_one_value_or_table_do_not_hide_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.pem");
    std::fs::write(&junk, "not PEM").unwrap();
    let mistake = settings(&format!(
        "endpoints=[\"https://es\"]\nindex=\"{{audit.verbs}}-{{event:%!}}\"\ndata_stream=\"Logs\"\n[tls]\n\
         ca={junk:?}\ncert=\"/nonexistent/cert.pem\"\nkey=\"/nonexistent/key.pem\"\nserver_name=\"a b\""
    ))
    .unwrap_err();
    for words in [
        "must begin with a literal prefix",
        "unknown placeholder `{audit.verbs}`",
        "`%!` is no date format",
        "`L` cannot be in the name of a data stream",
        "two places",
        "junk.pem: no PEM certificate in it",
        "read /nonexistent/cert.pem",
        "read /nonexistent/key.pem",
        "no host name",
    ] {
        assert!(mistake.contains(words), "{words}\n{mistake}");
    }
    for (key, line) in [("ca", 5), ("cert", 6), ("key", 7)] {
        let at = format!("test.toml:{line}:{}", key.len() + 2);
        assert!(mistake.contains(&at), "{at}\n{mistake}");
    }
}

#[test]
fn the_template_speaks_the_dialect_of_the_server() {
    let data_stream = settings("endpoints=[\"http://es\"]").unwrap();
    let elasticsearch = template::template(&data_stream, Product::Elasticsearch);
    assert_eq!(elasticsearch["priority"], 250);
    assert_eq!(
        elasticsearch["template"]["settings"]["index"]["mode"],
        "standard"
    );
    assert_eq!(elasticsearch["template"]["mappings"]["dynamic"], false);
    let audit = |template: &serde_json::Value| {
        template["template"]["mappings"]["properties"]["kubernetes"]["properties"]["audit"]["properties"].clone()
    };
    assert_eq!(
        audit(&elasticsearch)["annotations"],
        serde_json::json!({"type":"flattened","ignore_above":1024})
    );
    assert_eq!(audit(&elasticsearch)["requestObject"]["enabled"], false);
    let opensearch = template::template(&data_stream, Product::OpenSearch);
    assert_eq!(
        audit(&opensearch)["user"]["properties"]["extra"],
        serde_json::json!({"type":"flat_object"})
    );
    assert!(
        opensearch["template"].get("settings").is_none() && opensearch.get("data_stream").is_some()
    );
    let index =
        settings("endpoints=[\"http://es\"]\nindex=\"audit-{event:%Y}\"\ndocument=\"flat\"")
            .unwrap();
    let flat = template::template(&index, Product::OpenSearch);
    assert!(flat.get("data_stream").is_none());
    assert_eq!(flat["index_patterns"], serde_json::json!(["audit-*"]));
    assert_eq!(
        flat["template"]["mappings"]["properties"]["verb"]["type"],
        "keyword"
    );
    assert_eq!(template::name(&index), "auditship-audit");
}

#[test]
fn names_of_data_streams_are_what_servers_take() {
    assert_eq!(settings::problem("logs-kubernetes.audit-default"), None);
    for bad in ["", "-a", "_a", "A", "a b", "a/b", "a,b", &"a".repeat(256)] {
        assert!(settings::problem(bad).is_some(), "{bad}");
    }
}
