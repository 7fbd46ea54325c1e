//! What templates give, what they refuse and where, and that no event makes a name of another form.

use fastrand::Rng;

use super::*;

const LINE: &[u8] = br#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","verb":"list","objectRef":{"resource":"pods","namespace":"Kube System/../x"}}"#;

/// 2026-01-02T03:04:05.678901Z
const TIME_US: i64 = 1_767_323_045_678_901;

fn origin() -> Origin {
    Origin {
        cluster: "Prod-Tokyo".into(),
        node: "cp.1".into(),
        source: "apiserver".into(),
    }
}

#[track_caller]
fn check(text: &str, kind: NameKind, expected: &str) -> Rendered {
    let rendered = Template::parse(text, kind)
        .unwrap()
        .render(&origin(), TIME_US, LINE);
    assert_eq!(rendered.name, expected);
    rendered
}

#[track_caller]
fn check_error(text: &str, kind: NameKind, wrong: &str, problem: &str) {
    let errors = Template::parse(text, kind).unwrap_err();
    let error = &errors[0];
    assert_eq!(&text[error.at..error.at + error.length], wrong);
    assert!(error.problem.contains(problem), "{}", error.problem);
}

#[test]
fn placeholders_become_what_they_stand_for() {
    check("audit", NameKind::Index, "audit");
    check(
        "audit-{origin.cluster}-{event:%Y.%m.%d}",
        NameKind::Index,
        "audit-prod-tokyo-2026.01.02",
    );
    check(
        "a-{audit.level}-{audit.stage}",
        NameKind::Index,
        "a-metadata-responsecomplete",
    );
    check(
        "a-{audit.verb}-{audit.objectRef.resource}",
        NameKind::Index,
        "a-list-pods",
    );
    check(
        "/var/{origin.cluster}/{origin.node}-{origin.source}",
        NameKind::Path,
        "/var/Prod-Tokyo/cp.1-apiserver",
    );
    check(
        "{event:%Y/%m/%d}/Audit {event:%H}.jsonl",
        NameKind::Path,
        "2026/01/02/Audit 03.jsonl",
    );
}

#[test]
fn what_a_client_writes_into_a_field_is_cleaned() {
    check(
        "a-{audit.objectRef.namespace}",
        NameKind::Index,
        "a-kube-system-..-x",
    );
}

#[test]
fn absent_fields_are_none() {
    let template = Template::parse(
        "a-{audit.verb}-{audit.objectRef.namespace}",
        NameKind::Index,
    )
    .unwrap();
    let name = |line: &[u8]| template.render(&origin(), 0, line).name;
    assert_eq!(name(b"torn"), "a-none-none");
    assert_eq!(
        name(br#"{"verb":"","objectRef":{"namespace":1}}"#),
        "a-none-none"
    );
}

#[test]
fn names_are_counted_without_their_time_and_only_where_a_client_has_a_part_in_them() {
    let rendered = check("a-{event:%Y}-{audit.verb}", NameKind::Index, "a-2026-list");
    assert_eq!(rendered.distinct.as_deref(), Some("a--list"));
    assert_eq!(
        check("a-{event:%Y}", NameKind::Index, "a-2026").distinct,
        None
    );
}

#[test]
fn mistakes_are_shown_where_they_stand() {
    check_error(
        "a-{audit.user}",
        NameKind::Index,
        "{audit.user}",
        "{audit.verb}",
    );
    check_error(
        "a-{audit.verb}",
        NameKind::Path,
        "{audit.verb}",
        "cannot be in a path",
    );
    check_error("a-{event:%J}", NameKind::Index, "{event:%J}", "strftime");
    check_error("a-{event:}", NameKind::Index, "{event:}", "strftime");
    check_error("a-{origin.node", NameKind::Index, "{", "without `}`");
    check_error("a-}b", NameKind::Index, "}", "without `{`");
    check_error("Audit", NameKind::Index, "A", "allowed are a-z");
    check_error("a b", NameKind::Index, " ", "allowed are a-z");
    check_error("-audit", NameKind::Index, "-", "cannot begin");
    check_error(
        "{origin.node}-a",
        NameKind::Index,
        "{origin.node}",
        "must begin with a literal",
    );
    check_error("", NameKind::Index, "", "is empty");
    check_error("", NameKind::Path, "", "is empty");
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let errors = Template::parse("a-{x}-B-{event:%J}", NameKind::Index).unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error.at, error.length))
        .collect();
    assert_eq!(places, [(2, 3), (6, 1), (8, 10)]);
}

#[test]
fn no_field_makes_a_name_of_another_form() {
    let index = Template::parse("a{audit.verb}{origin.node}{event:%c}", NameKind::Index).unwrap();
    let path = Template::parse("/v/{origin.cluster}/{origin.node}", NameKind::Path).unwrap();
    for seed in 0..2_000 {
        let mut rng = Rng::with_seed(seed);
        let longest = [5, 400][rng.usize(..2)];
        let mut text = || -> String {
            (0..rng.usize(..longest))
                .map(|_| {
                    if rng.bool() {
                        rng.char(..)
                    } else {
                        *rng.choice(&['.', '/', 'a']).unwrap()
                    }
                })
                .collect()
        };
        let line = format!(r#"{{"verb":{}}}"#, serde_json::to_string(&text()).unwrap());
        let origin = Origin {
            cluster: text(),
            node: text(),
            source: text(),
        };
        let time_us = rng.i64(..);
        let name = index.render(&origin, time_us, line.as_bytes()).name;
        assert!(name.len() <= 255 && name.starts_with('a'), "{name}");
        assert!(
            name.bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')),
            "{name}"
        );
        let name = path.render(&origin, time_us, line.as_bytes()).name;
        assert_eq!(name.matches('/').count(), 3, "{name}");
        assert!(!name.contains("/."), "{name}");
    }
}

#[test]
fn the_65th_name_and_all_later_ones_are_other() {
    let mut names = BoundedNames::new("audit-", []);
    for number in 0..BoundedNames::MAX {
        let name = format!("audit-{number}");
        assert_eq!(names.admission(&name), Admission::New);
        assert!(names.add(name.clone()));
        assert_eq!(names.admission(&name), Admission::Known);
    }
    assert_eq!(names.admission("audit-64"), Admission::Full);
    assert!(!names.add("audit-64".into()));
    assert_eq!(names.other(), "audit-other");
    let kept: Vec<String> = names.names().map(str::to_owned).collect();
    let again = BoundedNames::new("audit-", kept);
    assert_eq!(again, names);
    assert_eq!(again.admission("audit-63"), Admission::Known);
}
