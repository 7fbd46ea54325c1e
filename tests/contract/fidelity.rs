//! Keeps the fake honest: the same requests, in the same order, to the fake and to a real OpenSearch, and the same answers
//! but for what each server draws for itself.

use serde_json::{Value, json};

use super::bench::Target;
use crate::fakes::elasticsearch::bare_template;
use crate::support::servers;

/// Requests on a data stream `NAME` (its backing indices are `.ds-NAME-00000N`) and on an index `PLAIN`.
fn requests() -> Vec<(&'static str, &'static str, String)> {
    let bulk = |lines: &[&str]| lines.join("\n") + "\n";
    let time = "\"@timestamp\":\"2026-01-01T00:00:00Z\"";
    let document = |body: &str| format!("{{{time},\"kubernetes\":{{\"audit\":{body}}}}}");
    let arrays = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let long = format!("{{\"create\":{{\"_id\":\"{}\"}}}}", "x".repeat(513));
    vec![
        ("GET", "/_data_stream/NAME", String::new()),
        ("POST", "/_index_template/_simulate_index/NAME", String::new()),
        ("GET", "/_index_template/NAME", String::new()),
        ("PUT", "/_index_template/NAME", bare_template("NAME").to_string()),
        ("PUT", "/_index_template/NAME-bad", json!({"index_patterns": ["x-NAME*"], "foo": 1}).to_string()),
        ("POST", "/_index_template/_simulate_index/NAME", String::new()),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"a"}}"#, &document(r#"{"b":1,"x":"\ud800","n":1e999}"#)])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"a"}}"#, &document("{}"), r#"{"create":{"_id":"b"}}"#, &document("{}")])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"c"}}"#, &document(r#"{"b":1,"b":2}"#)])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"c"}}"#, "{\"b\""])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"c"}}"#, &document(&arrays(1100))])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"c"}}"#, "{\"no\":1}"])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"index":{"_id":"c"}}"#, &document("{}")])),
        ("POST", "/NAME/_bulk", bulk(&[&long, &document("{}")])),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"craete":{"_id":"c"}}"#, &document("{}")])),
        ("POST", "/NAME/_bulk", "{\"create\":{}}\n{}".to_owned()),
        ("POST", "/NAME/_bulk", String::new()),
        ("POST", "/_bulk", bulk(&[r#"{"create":{"_index":"PLAIN","_id":"a"}}"#, "{\"no\":1}"])),
        ("POST", "/PLAIN/_bulk", bulk(&[r#"{"create":{"_id":"a"}}"#, "{\"no\":2}"])),
        ("GET", "/_data_stream/NAME", String::new()),
        ("POST", "/NAME/_mget", r#"{"ids":["a"]}"#.to_owned()),
        ("POST", "/_mget", r#"{"docs":[{"_index":".ds-NAME-000001","_id":"a"},{"_index":".ds-NAME-000001","_id":"z"},{"_index":"no-PLAIN","_id":"a"}]}"#.to_owned()),
        ("POST", "/NAME/_refresh", String::new()),
        ("POST", "/NAME/_search", r#"{"query":{"ids":{"values":["a","b","z"]}}}"#.to_owned()),
        ("POST", "/no-PLAIN/_search", r#"{"query":{"ids":{"values":["a"]}}}"#.to_owned()),
        ("POST", "/NAME/_rollover", String::new()),
        ("POST", "/NAME/_bulk", bulk(&[r#"{"create":{"_id":"a"}}"#, &document("{}")])),
        ("GET", "/_data_stream/NAME", String::new()),
        ("POST", "/NAME/_refresh", String::new()),
        ("POST", "/NAME/_search", r#"{"size":0,"aggs":{"indices":{"terms":{"field":"_index","size":8,"order":{"_key":"desc"}}}}}"#.to_owned()),
        ("GET", "/NAME/_mapping", String::new()),
        ("GET", "/no-PLAIN/_mapping", String::new()),
        ("GET", "/no-PLAIN", String::new()),
    ]
}

/// Takes out what is each server's own: times, ids, shards, scores, and words of reasons behind the first colon.
fn comparable(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for own in [
                "took",
                "_shards",
                "_seq_no",
                "_primary_term",
                "max_score",
                "_score",
                "uuid",
                "index_uuid",
                "shard",
                "resource.id",
                "resource.type",
                "excluded_ds",
                "terminated_early",
            ] {
                fields.shift_remove(own);
            }
            // Nested causes say the same again, more closely.
            if let Some(cause) = fields.get_mut("caused_by").and_then(Value::as_object_mut) {
                cause.shift_remove("caused_by");
            }
            if let Some(Value::String(reason)) = fields.get_mut("reason") {
                reason.truncate(
                    reason
                        .find(['\n', ':', '('])
                        .unwrap_or(reason.len())
                        .min(60),
                );
            }
            fields.values_mut().for_each(comparable);
        }
        Value::Array(items) => items.iter_mut().for_each(comparable),
        _ => {}
    }
}

fn answers(target: &Target) -> Vec<(u16, Value)> {
    let (stream, plain) = (target.data_stream(), target.index());
    let fill = |text: &str| text.replace("NAME", &stream).replace("PLAIN", &plain);
    let mut all = Vec::new();
    for (method, path, body) in requests() {
        let (status, answer) = target
            .http
            .request(method, &fill(path), fill(&body).as_bytes())
            .expect("an answer");
        let text = String::from_utf8_lossy(&answer)
            .replace(&stream, "NAME")
            .replace(&plain, "PLAIN");
        // A lone surrogate and 1e999 are no values of ours.
        let text = text.replace("\\ud800", "surrogate").replace("1e999", "999");
        let mut value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{method} {path}: {error} in {text}"));
        comparable(&mut value);
        all.push((status, value));
    }
    all
}

#[test]
fn the_fake_answers_as_the_real_server_does() {
    let Some(server) = servers::opensearch("the_fake_answers_as_the_real_server_does") else {
        return;
    };
    let (fake, real) = (answers(&Target::fake()), answers(&Target::real(server)));
    let mut differing = String::new();
    for ((fake, real), (method, path, body)) in fake.iter().zip(&real).zip(requests()) {
        if fake != real {
            let body: String = body.chars().take(100).collect();
            differing.push_str(&format!(
                "\n{method} {path} {body}\n  fake {fake:?}\n  real {real:?}\n"
            ));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}
