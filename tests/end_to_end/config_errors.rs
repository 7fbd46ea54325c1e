//! Mistakes in a configuration: exit 2, all of them at once, each with file, line, the line itself, a caret, what was found
//! and what is allowed.

use crate::support::agent::{Place, command};

struct Mistake {
    /// What stands in the configuration.
    line: &'static str,
    /// What must be said about it.
    said: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        line: "clutser = \"a\"",
        said: &["clutser", "cluster"],
    },
    Mistake {
        line: "memory = \"64 parsecs\"",
        said: &["64 parsecs", "MiB"],
    },
    Mistake {
        line: "shutdown_timeout = 20",
        said: &["shutdown_timeout", "20"],
    },
    Mistake {
        line: "node = \"${AUDITSHIP_TEST_UNSET_VARIABLE}\"",
        said: &["AUDITSHIP_TEST_UNSET_VARIABLE"],
    },
    Mistake {
        line: "compression = \"zstandard\"",
        said: &["zstandard", "zstd", "none"],
    },
    Mistake {
        line: "max_bytes = true",
        said: &["max_bytes", "true"],
    },
    Mistake {
        line: "start = \"oldst\"",
        said: &["oldst", "oldest"],
    },
    Mistake {
        line: "type = \"elasticsaerch\"",
        said: &["elasticsaerch", "elasticsearch"],
    },
    Mistake {
        line: "index = \"{audit.verb}\"",
        said: &["audit.verb", "prefix"],
    },
    Mistake {
        line: "tls = { ca = \"/nonexistent/ca.pem\", cert = \"/nonexistent/us.pem\", key = \"/nonexistent/us.key\" }",
        said: &[
            "/nonexistent/ca.pem: No",
            "/nonexistent/us.pem: No",
            "/nonexistent/us.key: No",
        ],
    },
    Mistake {
        line: "type = \"slack\"",
        said: &["slack", "not built yet"],
    },
];

const CONFIG: &str = r#"
[agent]
clutser = "a"
cluster = "test"
memory = "64 parsecs"
shutdown_timeout = 20
node = "${AUDITSHIP_TEST_UNSET_VARIABLE}"
state_dir = "state"

[spool]
compression = "zstandard"
max_bytes = true

[[source]]
name = "apiserver"
type = "file"
path = "log/audit.log"
start = "oldst"

[[sink]]
name = "one"
type = "elasticsaerch"

[[sink]]
name = "two"
type = "elasticsearch"
endpoints = ["http://127.0.0.1:9200"]
index = "{audit.verb}"

[[sink]]
name = "three"
type = "elasticsearch"
endpoints = ["https://127.0.0.1:9200"]
tls = { ca = "/nonexistent/ca.pem", cert = "/nonexistent/us.pem", key = "/nonexistent/us.key" }

[[sink]]
name = "four"
type = "slack"
"#;

#[test]
fn every_mistake_is_shown_at_once_in_its_place() {
    let place = Place::new();
    let config = place.write_config("broken.toml", CONFIG);
    for arguments in [["check"].as_slice(), &["run"]] {
        let path = config.to_string_lossy();
        let output = command(&[arguments, &[&*path]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "people read stderr");
        for mistake in MISTAKES {
            let number = 1 + CONFIG
                .lines()
                .position(|line| line == mistake.line)
                .expect("it stands there");
            assert!(
                said.contains(&format!("broken.toml:{number}:")),
                "{}: no place {number} in\n{said}",
                mistake.line
            );
            assert!(
                said.contains(mistake.line),
                "{}: not shown in\n{said}",
                mistake.line
            );
            for word in mistake.said {
                assert!(
                    said.contains(word),
                    "{}: nothing about {word} in\n{said}",
                    mistake.line
                );
            }
        }
        assert!(
            said.matches('^').count() >= MISTAKES.len(),
            "a caret each:\n{said}"
        );
    }
    assert!(
        !place.path().join("state").exists(),
        "a broken configuration touches nothing"
    );
}

#[test]
fn a_file_that_is_not_there_and_a_wrong_argument_exit_with_2() {
    for arguments in [
        &["run", "/nonexistent/auditship.toml"][..],
        &["check"],
        &["run", "--onse"],
        &["frobnicate"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_auditship"))
            .args(arguments)
            .env("AUDITSHIP_CONFIG", "/nonexistent/auditship.toml")
            .output()
            .expect("start");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(!said.is_empty());
    }
}

#[test]
fn another_cluster_or_node_is_refused_once_they_are_pinned() {
    let place = Place::new();
    std::fs::write(place.live(), "{\"a\":1}\n").expect("write");
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    for key in ["agent.cluster=other", "agent.node=other"] {
        let finished = place.run_once(&config, &["--set", key]);
        assert!(
            matches!(finished.status.code(), Some(1 | 2)),
            "{key}: {finished:?}"
        );
        assert!(
            finished.stderr.contains("other") && finished.stderr.contains("test-"),
            "{}",
            finished.stderr
        );
    }
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(place.copied(), b"{\"a\":1}\n");
}
