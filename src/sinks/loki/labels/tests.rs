//! Which label set a record has, and which labels cannot be.

use super::*;
use crate::event::LineKind;
use crate::sinks::testing::record;

fn fixed(pairs: &[(&str, &str)]) -> BTreeMap<String, LabelValue> {
    let pair = |(name, value): &(&str, &str)| {
        ((*name).to_owned(), LabelValue::Static((*value).to_owned()))
    };
    pairs.iter().map(pair).collect()
}

fn agent(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(pair).collect()
}

#[test]
fn a_stream_is_named_by_origin_fixed_labels_and_the_agents_sorted_by_name() {
    let labels = Labels::new(
        &fixed(&[("job", "auditship"), ("env", "own")]),
        &agent(&[("env", "agent"), ("team/name", "a \"b\" \\"), ("empty", "")]),
    );
    assert_eq!(
        labels
            .unwrap()
            .of(&record(0, LineKind::Event, b"{}"))
            .text(),
        r#"{cluster="c1", env="own", job="auditship", node="n1", source="apiserver", team_name="a \"b\" \\"}"#
    );
}

#[test]
fn a_label_from_the_event_has_a_closed_set_of_values() {
    let mut own = fixed(&[]);
    for (name, field) in ["verb", "level", "stage"].iter().zip(LabelField::ALL) {
        own.insert((*name).to_owned(), LabelValue::Field(field));
    }
    let labels = Labels::new(&own, &BTreeMap::new()).unwrap();
    let mut keys = std::collections::BTreeSet::new();
    for (kind, line, expected) in [
        (
            LineKind::Event,
            r#"{"level":"Metadata","stage":"ResponseComplete","verb":"get"}"#,
            r#"level="Metadata", node="n1", source="apiserver", stage="ResponseComplete", verb="get""#,
        ),
        (
            LineKind::Event,
            r#"{"level":"metadata","stage":7,"verb":"chosen-by-a-client"}"#,
            r#"level="other", node="n1", source="apiserver", stage="other", verb="other""#,
        ),
        (
            LineKind::Malformed,
            r#"{"verb":"get""#,
            r#"level="none", node="n1", source="apiserver", stage="none", verb="none""#,
        ),
    ] {
        let record = record(0, kind, line.as_bytes());
        assert_eq!(
            labels.of(&record).text(),
            format!("{{cluster=\"c1\", {expected}}}")
        );
        keys.insert(labels.key(&record));
    }
    assert_eq!(keys.len(), 3, "each has its own key");
}

#[test]
fn an_agents_label_that_loki_would_not_take_is_refused_by_name() {
    let problem =
        |pairs: &[(&str, &str)]| Labels::new(&fixed(&[]), &agent(pairs)).expect_err("refused");
    assert!(problem(&[("node", "x")]).contains("`agent.labels.node`"));
    assert!(problem(&[("a", &"v".repeat(2049))]).contains("2048"));
    assert!(problem(&[("__a", "x")]).contains("Loki's own"));
    let many: Vec<(String, &str)> = (0..13).map(|n| (format!("l{n}"), "x")).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert!(problem(&many).contains("16 labels"));
    assert!(Labels::new(&fixed(&[]), &agent(&many[..12])).is_ok());
}

#[test]
fn metadata_leaves_out_what_is_absent_or_empty_and_cuts_what_is_long() {
    let names = ["a", "b", "c", "d"].map(str::to_owned);
    let paths: Vec<FieldPath> = ["verb", "user.username", "stage", "responseStatus.code"]
        .iter()
        .filter_map(|path| FieldPath::named(path))
        .collect();
    let line = format!(
        r#"{{"verb":"","user":{{"username":"{}"}},"responseStatus":{{"code":403}}}}"#,
        "é".repeat(2000)
    );
    let found = metadata(&record(0, LineKind::Event, line.as_bytes()), &names, &paths);
    assert_eq!(found[1], ("d", "403".to_owned()));
    assert_eq!(
        (found.len(), found[0].0, found[0].1.as_str()),
        (2, "b", &*"é".repeat(1024))
    );
}
