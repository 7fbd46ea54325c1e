//! The bodies are those of real servers (OpenSearch 3.7.0 and 2.19.3, Elasticsearch 8.17.4), shortened only where they
//! repeat themselves.

use std::time::Duration;

use super::*;
use crate::sinks::http_connection::REASON_BYTES_MAX;

fn item(body: &str) -> Item {
    let answer = format!(r#"{{"took":9,"errors":true,"items":[{{"create":{body}}}]}}"#);
    items(answer.as_bytes(), 1).expect("an answer").remove(0)
}

fn refused_item(status: u16, kind: &str, reason: &str) -> Item {
    let error = serde_json::json!({ "type": kind, "reason": reason });
    item(
        &serde_json::json!({ "_index": "i", "_id": "a", "status": status, "error": error })
            .to_string(),
    )
}

fn rejection_kind(item: &Item) -> Option<RejectionKind> {
    match item {
        Item::Rejected(rejection) => Some(rejection.kind),
        _ => None,
    }
}

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status,
        body: body.as_bytes().to_vec().into(),
        ..Answer::default()
    }
}

fn whole(status: u16, body: &str) -> Outcome {
    refused(&answer(status, body), "bulk request", Micros(0))
}

#[test]
fn a_created_item_is_stored() {
    let created = r#"{"_index":".ds-audit-ds-000001","_id":"a1","_version":1,"result":"created","_shards":{"total":1,"successful":1,"failed":0},"_seq_no":0,"_primary_term":1,"status":201}"#;
    assert_eq!(item(created), Item::Stored);
    assert_eq!(item(r#"{"status":200}"#), Item::Stored);
}

#[test]
fn an_item_in_the_failure_store_is_told_apart() {
    let used = r#"{"_index":".fs-logs-x-000001","_id":"a","status":201,"failure_store":"used"}"#;
    assert_eq!(item(used), Item::FailureStore);
    let not = r#"{"_index":".ds-logs-x-000001","_id":"a","status":201,"failure_store":"not_applicable_or_unknown"}"#;
    assert_eq!(item(not), Item::Stored);
}

#[test]
fn a_conflict_names_the_concrete_index() {
    let conflict = r#"{"_index":".ds-audit-ds-000001","_id":"a1","status":409,"error":{"type":"version_conflict_engine_exception","reason":"[a1]: version conflict, document already exists (current version [1])","index":".ds-audit-ds-000001","shard":"0","index_uuid":"x"}}"#;
    assert_eq!(
        item(conflict),
        Item::Conflict {
            index: ".ds-audit-ds-000001".to_owned()
        }
    );
}

#[test]
fn a_409_of_another_kind_is_not_taken_for_stored() {
    assert!(matches!(
        refused_item(409, "resource_already_exists_exception", "x"),
        Item::Retry { in_doubt: true, .. }
    ));
}

#[test]
fn what_the_server_cannot_parse_is_worth_a_fallback() {
    for (kind, reason) in [
        ("mapper_parsing_exception", "failed to parse"),
        (
            "document_parsing_exception",
            "[1:7] failed to parse: data stream timestamp field [@timestamp] is missing",
        ),
        (
            "strict_dynamic_mapping_exception",
            "mapping set to strict, dynamic introduction of [x] within [_doc] is not allowed",
        ),
        (
            "illegal_argument_exception",
            "Limit of total fields [1000] has been exceeded",
        ),
        (
            "illegal_argument_exception",
            "Document contains at least one immense term in field=\"verb\" (whose UTF8 …)",
        ),
    ] {
        assert_eq!(
            rejection_kind(&refused_item(400, kind, reason)),
            Some(RejectionKind::Unparsable),
            "{kind}: {reason}"
        );
    }
    let failed = refused_item(500, "fail_processor_exception", "no");
    assert_eq!(
        rejection_kind(&failed),
        Some(RejectionKind::Unparsable),
        "retrying it would block the cursor for ever"
    );
}

#[test]
fn configuration_stops_and_rejects_nothing() {
    for (status, kind, reason) in [
        (400, "index_closed_exception", "closed"),
        (
            400,
            "invalid_index_name_exception",
            "Invalid index name [A], must be lowercase",
        ),
        (
            400,
            "illegal_argument_exception",
            "pipeline with id [nope] does not exist",
        ),
        (
            401,
            "security_exception",
            "missing authentication credentials",
        ),
        (
            403,
            "security_exception",
            "no permissions for [indices:admin/create] and User [name=writer, backend_roles=[]]",
        ),
        (
            403,
            "cluster_block_exception",
            "index [i] blocked by: [FORBIDDEN/8/index write (api)];",
        ),
        (404, "index_not_found_exception", "no such index [newidx]"),
    ] {
        assert!(
            matches!(refused_item(status, kind, reason), Item::Stop { .. }),
            "{status} {kind}"
        );
    }
}

#[test]
fn a_full_queue_or_disk_is_for_later() {
    for (kind, reason) in [
        (
            "rejected_execution_exception",
            "rejected execution of org.opensearch.action.support…",
        ),
        (
            "es_rejected_execution_exception",
            "rejected execution of coordinating operation [coordinating_and_primary_bytes=0]",
        ),
        (
            "cluster_block_exception",
            "index [idx] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark];",
        ),
    ] {
        assert!(
            matches!(
                refused_item(429, kind, reason),
                Item::Retry {
                    in_doubt: false,
                    ..
                }
            ),
            "{kind}"
        );
    }
    assert!(matches!(
        refused_item(503, "unavailable_shards_exception", "x"),
        Item::Retry { in_doubt: true, .. }
    ));
}

#[test]
fn an_answer_that_does_not_fit_the_request_is_an_error() {
    let one = r#"{"items":[{"create":{"status":201}}]}"#;
    assert!(items(one.as_bytes(), 2).is_err());
    for body in [
        "",
        "{}",
        "null",
        "[]",
        "<html>",
        r#"{"items":[{}]}"#,
        r#"{"items":[{"create":{"status":"x"}}]}"#,
    ] {
        assert!(items(body.as_bytes(), 1).is_err(), "{body}");
    }
    let deep = format!(r#"{{"items":{}"#, "[".repeat(1 << 20));
    assert!(items(deep.as_bytes(), 1).is_err());
}

#[test]
fn a_reason_shows_no_value_of_an_event() {
    for (kind, reason) in [
        (
            "mapper_parsing_exception",
            "failed to parse field [kubernetes.audit.verb] of type [keyword] in document with id 'a6'. Preview of field's value: 'CANARY'",
        ),
        (
            "mapper_parsing_exception",
            "failed to parse field [x] of type [long]. Preview of field's value: 'it's a CANARY ]",
        ),
        (
            "illegal_argument_exception",
            "failed to parse date field [CANARY] with format [strict_date_optional_time]",
        ),
        (
            "illegal_argument_exception",
            "date[CANARY] is before the epoch in 1970",
        ),
        (
            "illegal_argument_exception",
            "Failed to parse value [CANARY] as only [true] or [false] are allowed.",
        ),
        (
            "illegal_argument_exception",
            "Value [CANARY] is out of range for an integer",
        ),
        (
            "illegal_argument_exception",
            "For input string: \"a\"CANARY\"",
        ),
        (
            "illegal_argument_exception",
            "'CANARY' is not an IP string literal.",
        ),
        (
            "illegal_argument_exception",
            "Numeric value (CANARY) out of range of long",
        ),
        (
            "illegal_argument_exception",
            "immense term in field=\"verb\". The prefix of the first immense term is: '[67, 65]...', original message: CANARY",
        ),
        (
            "illegal_argument_exception",
            "Malformed action/metadata line [1], expected one of [create, index] but found [CANARY]",
        ),
        ("parse_exception", "unterminated 'CANARY"),
        (
            "json_parse_exception",
            "Unexpected character\n at [Source: CANARY]",
        ),
    ] {
        for told in [
            format!("{:?}", refused_item(400, kind, reason)),
            format!(
                "{:?}",
                whole(
                    400,
                    &serde_json::json!({"error":{"type":kind,"reason":reason},"status":400})
                        .to_string()
                )
            ),
        ] {
            assert!(!told.contains("CANARY"), "{told}");
            assert!(told.contains(kind), "{told}");
        }
    }
    let Item::Rejected(rejection) = refused_item(
        400,
        "mapper_parsing_exception",
        "failed to parse field [kubernetes.audit.verb] of type [keyword] in document with id 'a6'. Preview of field's value: 'x'",
    ) else {
        panic!("not rejected")
    };
    assert_eq!(
        rejection.reason,
        "400 mapper_parsing_exception: failed to parse field [kubernetes.audit.verb] of type [keyword] in document with id '…'."
    );
}

#[test]
fn a_reason_is_bounded() {
    let long = format!("{} [{}]", "é".repeat(2_000), "x".repeat(4_000));
    for (status, kind) in [
        (400, "mapper_parsing_exception"),
        (429, "rejected_execution_exception"),
    ] {
        let (Item::Rejected(Rejection { reason, .. }) | Item::Retry { reason, .. }) =
            refused_item(status, kind, &long)
        else {
            panic!("unexpected verdict")
        };
        assert!(reason.len() <= REASON_BYTES_MAX, "{}", reason.len());
    }
}

#[test]
fn a_class_is_the_same_for_refusals_that_mean_the_same() {
    let class = |id: &str| {
        let body = serde_json::json!({ "status": 400, "error": { "type": "mapper_parsing_exception",
            "reason": format!("failed to parse in document with id '{id}'"),
            "caused_by": { "type": "json_parse_exception", "reason": format!("Duplicate field '{id}'") } } });
        match item(&body.to_string()) {
            Item::Rejected(rejection) => rejection.class,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(class("a"), "mapper_parsing_exception/json_parse_exception");
    assert_eq!(class("a"), class("b"));
}

#[test]
fn a_whole_request_is_split_retried_or_stops_the_sink() {
    let error = |kind: &str, reason: &str| {
        serde_json::json!({"error":{"root_cause":[],"type":kind,"reason":reason},"status":0})
            .to_string()
    };
    assert!(
        matches!(whole(413, ""), Outcome::Split { verdict } if verdict.kind == RejectionKind::TooLarge)
    );
    let too_long = error(
        "action_request_validation_exception",
        "Validation Failed: 1: id [xxx] is too long, must be no longer than 512 bytes but was: 513;",
    );
    assert!(
        matches!(whole(400, &too_long), Outcome::Split { verdict } if verdict.kind == RejectionKind::Refused)
    );
    for (status, body) in [
        (401, "Unauthorized".to_owned()),
        (401, error("security_exception", "unable to authenticate user [elastic] for REST request [/_bulk]")),
        (403, error("security_exception", "no permissions for [indices:data/write/bulk]")),
        (404, String::new()),
        (405, r#"{"error":"Incorrect HTTP method for uri [/] and method [GET], allowed: [DELETE]","status":405}"#.to_owned()),
        (406, r#"{"error":"Content-Type header [text/plain] is not supported","status":406}"#.to_owned()),
        (407, String::new()),
        (301, String::new()),
        (400, error("invalid_index_name_exception", "Invalid index name [A], must be lowercase")),
    ] {
        assert!(matches!(whole(status, &body), Outcome::Stop { .. }), "{status} {body}");
    }
    for status in [500, 502, 503, 504, 599, 204, 100] {
        assert!(
            matches!(
                whole(status, "<html>"),
                Outcome::Retry { in_doubt: true, .. }
            ),
            "{status}"
        );
    }
    let breaker = error(
        "circuit_breaking_exception",
        "[in_flight_requests] Data too large, data for [<http_request>] would be [27380/26.7kb]",
    );
    assert!(matches!(
        whole(429, &breaker),
        Outcome::Retry {
            in_doubt: false,
            ..
        }
    ));
}

#[test]
fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    // 2015-10-21T07:28:00Z is 1445412480.
    for (text, seconds) in [
        ("7", Some(7)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Some(80)),
        ("soon", None),
        ("-3", None),
    ] {
        let answer = Answer {
            status: 503,
            retry_after: Some(text.to_owned()),
            ..Answer::default()
        };
        let Outcome::Retry { after, .. } =
            refused(&answer, "bulk request", Micros(1_445_412_400_000_000))
        else {
            panic!("no retry")
        };
        assert_eq!(after, seconds.map(Duration::from_secs), "{text}");
    }
}
