//! Bodies as the real servers sent them.

use serde_json::{Value, json};

use super::Flavor;
use crate::fakes::http_server::{Answer, Request};

/// `{"error":{…},"status":N}`.
pub(super) fn error(status: u16, kind: &str, reason: &str) -> Answer {
    let cause = json!({"type": kind, "reason": reason});
    let mut body = json!({"error": {"root_cause": [cause], "type": kind, "reason": reason}});
    body["status"] = status.into();
    Answer::json(status, body.to_string())
}

pub(super) fn bad_request(reason: &str) -> Answer {
    error(400, "illegal_argument_exception", reason)
}

pub(super) fn no_such_index(name: &str) -> Answer {
    let cause = no_such_index_error(name);
    let mut error = json!({"root_cause": [cause]});
    merge(&mut error, &cause);
    Answer::json(404, json!({"error": error, "status": 404}).to_string())
}

/// The inner part, for an item.
pub(super) fn no_such_index_error(name: &str) -> Value {
    json!({"type": "index_not_found_exception", "reason": format!("no such index [{name}]"), "index": name,
           "resource.id": name, "resource.type": "index_or_alias", "index_uuid": "_na_"})
}

pub(super) fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().expect("an object") {
        into[key] = value.clone();
    }
}

pub(super) fn version(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::OpenSearch => "3.7.0",
        Flavor::Elasticsearch => "8.17.4",
    }
}

pub(super) fn root(flavor: Flavor) -> Answer {
    let body = match flavor {
        Flavor::OpenSearch => {
            json!({"name": "n1", "cluster_name": "auditship-test", "cluster_uuid": "fake",
            "version": {"distribution": "opensearch", "number": version(flavor), "build_type": "zip",
                        "build_snapshot": false, "lucene_version": "10.4.0",
                        "minimum_wire_compatibility_version": "2.19.0",
                        "minimum_index_compatibility_version": "2.0.0"},
            "tagline": "The OpenSearch Project: https://opensearch.org/"})
        }
        Flavor::Elasticsearch => {
            json!({"name": "n1", "cluster_name": "auditship-test", "cluster_uuid": "fake",
            "version": {"number": version(flavor), "build_flavor": "default", "build_type": "zip",
                        "build_snapshot": false, "lucene_version": "9.12.0",
                        "minimum_wire_compatibility_version": "7.17.0",
                        "minimum_index_compatibility_version": "7.0.0"},
            "tagline": "You Know, for Search"})
        }
    };
    Answer::json(200, body.to_string())
}

/// 401: plain text from OpenSearch's security plugin, JSON from Elasticsearch.
pub(super) fn unauthorized(flavor: Flavor, request: &Request) -> Answer {
    match flavor {
        Flavor::OpenSearch => Answer::text(401, "Unauthorized")
            .with("WWW-Authenticate", "Basic realm=\"OpenSearch Security\""),
        Flavor::Elasticsearch => {
            let what = match request.header("authorization") {
                None => "missing authentication credentials",
                Some(_) => "unable to authenticate with provided credentials",
            };
            error(
                401,
                "security_exception",
                &format!("{what} for REST request [{}]", request.path),
            )
            .with(
                "WWW-Authenticate",
                "Basic realm=\"security\", charset=\"UTF-8\"",
            )
            .with("WWW-Authenticate", "ApiKey")
        }
    }
}

/// A whole request refused with this status.
pub(super) fn refused(flavor: Flavor, status: u16) -> Answer {
    match status {
        401 => Answer::text(401, "Unauthorized"),
        403 => error(
            403,
            "security_exception",
            "no permissions for [indices:data/write/bulk] and User [name=writer, backend_roles=[], requestedTenant=null]",
        ),
        404 => error(
            404,
            "index_not_found_exception",
            "no such index [forbidden]",
        ),
        413 => Answer::empty(413),
        429 => error(
            429,
            rejected_type(flavor),
            "rejected execution of coordinating operation [coordinating_and_primary_bytes=0, replica_bytes=0, all_bytes=0, coordinating_operation_bytes=142564, max_coordinating_and_primary_bytes=61440]",
        ),
        503 => Answer::text(503, "Service Unavailable"),
        400 => error(
            400,
            "action_request_validation_exception",
            "Validation Failed: 1: a document of this request is not to be had;",
        ),
        _ => error(status, "exception", "scripted"),
    }
}

/// What a full queue is called.
pub(super) fn rejected_type(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::OpenSearch => "rejected_execution_exception",
        Flavor::Elasticsearch => "es_rejected_execution_exception",
    }
}

/// What a document that does not parse is called.
pub(super) fn parse_failure(flavor: Flavor, kind: &str, reason: &str) -> Value {
    let cause = json!({"type": kind, "reason": reason});
    match flavor {
        Flavor::OpenSearch => {
            json!({"type": "mapper_parsing_exception", "reason": "failed to parse", "caused_by": cause})
        }
        Flavor::Elasticsearch => {
            json!({"type": "document_parsing_exception", "reason": format!("[1:7] failed to parse: {reason}"), "caused_by": cause})
        }
    }
}
