//! What a configuration may say, and what it is told where it may not.

use std::path::Path;

use super::*;
use crate::config;

/// The settings of a sink with these keys beside its endpoint, or what is wrong with them.
fn settings(keys: &str) -> Result<Settings, String> {
    let keys = match keys.contains("endpoint") {
        true => keys.to_owned(),
        false => format!("endpoint = \"http://loki:3100\"\n{keys}"),
    };
    let document =
        config::Document::parse("test.toml", &keys, Path::new(".")).map_err(|d| d.to_string())?;
    let mut section = document.root();
    let settings = Settings::read(&mut section);
    section.finish();
    document.finish().map_err(|d| d.to_string())?;
    settings.ok_or_else(|| panic!("neither settings nor a mistake for {keys}"))
}

#[test]
fn the_shortest_configuration_names_an_endpoint_and_has_lokis_own_limits() {
    let settings = settings("endpoint = \"https://gw.example.com/loki/\"").unwrap();
    assert_eq!(settings.access.endpoints, ["https://gw.example.com/loki"]);
    assert!(settings.access.headers.is_empty() && settings.access.auth.is_none());
    let job = LabelValue::Static("auditship".to_owned());
    assert_eq!(settings.labels, BTreeMap::from([("job".to_owned(), job)]));
    let metadata: Vec<(&str, String)> = settings
        .metadata
        .iter()
        .map(|(name, path)| (name.as_str(), path.name()))
        .collect();
    let expected = METADATA.map(|(name, path)| (name, path.to_owned()));
    assert_eq!(metadata, expected);
    let hour = 3_600_000_000_000;
    assert_eq!(
        settings.limits,
        Limits {
            age: 168 * hour,
            ahead: hour / 6,
            behind: hour
        }
    );
    assert_eq!(settings.line_max, 262_144);
    assert_eq!(settings.encoding, Encoding::Protobuf);
}

#[test]
fn labels_are_fixed_or_one_of_few_fields() {
    let settings = settings(
        "labels = { job = \"k8s\", team = \"stage\", verb = \"{audit.verb}\", stage = \"{audit.stage}\" }\ntenant = \"t-1\"",
    )
    .unwrap();
    let fixed = |text: &str| LabelValue::Static(text.to_owned());
    let expected = [
        ("job", fixed("k8s")),
        ("stage", LabelValue::Field(LabelField::Stage)),
        ("team", fixed("stage")),
        ("verb", LabelValue::Field(LabelField::Verb)),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(settings.labels, BTreeMap::from(expected));
    assert_eq!(settings.access.headers["x-scope-orgid"], "t-1");
    let names: Vec<&str> = settings
        .metadata
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        ["code", "namespace", "resource", "user"],
        "`verb` is a label"
    );
}

#[test]
fn no_structured_metadata_is_an_empty_table() {
    assert_eq!(settings("structured_metadata = {}").unwrap().metadata, []);
}

#[test]
fn what_cannot_work_is_a_mistake_at_its_place() {
    let many: Vec<String> = (0..12).map(|n| format!("l{n} = \"x\"")).collect();
    let many = format!("labels = {{ {} }}", many.join(", "));
    let long = format!("labels = {{ a = \"{}\" }}", "x".repeat(2049));
    for (keys, words) in [
        ("endpoint = \"loki:3100\"", "not http or https"),
        ("endpoint = \"http://u:p@loki\"", "auth.basic"),
        (
            "labels = { user = \"{audit.user.username}\" }",
            "structured_metadata = { user = \"user.username\" }",
        ),
        (
            "labels = { id = \"auditID\" }",
            "`auditID` has too many values",
        ),
        ("labels = { stage = \"stage\" }", "write `{audit.stage}`"),
        (
            "labels = { ns = \"objectRef.namespace\" }",
            "structured_metadata = { ns = \"objectRef.namespace\" }",
        ),
        ("labels = { uri = \"audit.requestURI\" }", "too many values"),
        ("labels = { verb = \"audit.verb\" }", "write `{audit.verb}`"),
        (
            "labels = { a = \"x-{audit.verb}\" }",
            "a fixed value, or one of `{audit.verb}`",
        ),
        (
            "labels = { a = \"{origin.cluster}\" }",
            "nothing that can be a label",
        ),
        ("labels = { cluster = \"c\" }", "always there"),
        ("labels = { a-b = \"x\" }", "cannot hold `-`"),
        ("labels = { __x = \"x\" }", "Loki's own"),
        ("labels = { a = \"\" }", "without a value"),
        ("labels = { a = \"x\\u0001\" }", "control characters"),
        (&many, "Loki takes 15"),
        (&long, "at most 2048 bytes"),
        (
            "structured_metadata = { a = \"requestObject\" }",
            "one of auditID",
        ),
        (
            "structured_metadata = { node = \"verb\" }",
            "a label of this name",
        ),
        (
            "structured_metadata = { \"a.b\" = \"verb\" }",
            "cannot hold `.`",
        ),
        ("tenant = \"a/b\"", "it holds `/`"),
        ("tenant = \"..\"", "no tenant of this name"),
        ("tenant = \"\"", "it is empty"),
        ("auth = {}", "names no credentials"),
        (
            "auth = { bearer = \"t\", basic = { user = \"u\", password = \"p\" } }",
            "two ways to log in",
        ),
        ("auth = { basic = { user = \"u\" } }", "password"),
        ("tls = {}", "does nothing for http://loki"),
        ("line_max = \"2MiB\"", "more than `\"1MiB\"`"),
        ("max_behind = \"0s\"", "less than `\"1m\"`"),
        ("compression = \"none\"", "snappy"),
        ("endpoints = [\"http://loki\"]", "endpoint"),
    ] {
        let mistake = settings(keys).expect_err(keys);
        assert!(mistake.contains(words), "{keys}\n{mistake}");
        assert!(mistake.contains("test.toml:"), "{mistake}");
    }
}
