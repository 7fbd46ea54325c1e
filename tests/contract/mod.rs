//! One suite for a destination, run against its fake and against the real server: what `delivery` may rely on when it
//! hands a sink a batch. Whole pipelines are the business of `end_to_end`.

/// A sink built from its configuration, batches made by hand, and what the server then holds.
pub(crate) mod bench;

/// Elasticsearch and OpenSearch: once under its id, bytes as they were, conflicts, splits, logins, templates.
mod elasticsearch;

/// What every destination owes, fake and real: one table of cases against one of destinations.
mod conformance;

/// Loki: lines once and byte for byte, nothing lost under a 204, refusals, limits, logins.
mod loki;

/// S3: one object for its records, resends, conflicts, parts, credentials.
mod s3;

/// Kafka: idempotent, in order, byte for byte, logins, leaders that change.
mod kafka;

/// The fake against the real server, request by request.
mod fidelity;

use std::fs;
use std::path::Path;

use auditship::sinks::SINKS;

#[test]
fn every_kind_of_sink_is_documented_shown_and_held_by_a_suite() {
    for kind in SINKS {
        assert!(!kind.summary.is_empty(), "{} has no summary", kind.name);
        for field in kind.fields {
            assert!(
                field.doc().len() > 10,
                "{}.{} is not documented",
                kind.name,
                field.name()
            );
        }
        let held = match kind.name {
            "elasticsearch" => "tests/contract/elasticsearch/mod.rs",
            "loki" => "tests/contract/loki/mod.rs",

            "s3" => "tests/contract/s3/mod.rs",

            "kafka" => "tests/contract/kafka/mod.rs",
            "file" | "stdout" => "tests/end_to_end/rotated_once.rs",
            other => panic!("the sink {other} has no suite: give it a fake and a contract"),
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(root.join(held).exists(), "{held}");
        let shown = fs::read_dir(root.join("pipelines"))
            .expect("pipelines")
            .any(|entry| {
                let path = entry.expect("list").path();
                path.extension().is_some_and(|ext| ext == "toml")
                    && fs::read_to_string(&path)
                        .expect("read")
                        .contains(&format!("type = \"{}\"", kind.name))
            });
        assert!(shown, "no file in pipelines/ shows the sink {}", kind.name);
    }
}
