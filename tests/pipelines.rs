//! Every file under `pipelines/` is a configuration that works: each is checked by the built binary, and the quickstart
//! is run as the README says.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn auditship(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_auditship"))
        .args(arguments)
        .current_dir(dir)
        .env("ELASTICSEARCH_API_KEY", "bm90OmE=")
        .env("KAFKA_PASSWORD", "not-a-password")
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

#[test]
fn every_pipeline_is_a_valid_configuration() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("pipelines")).expect("pipelines") {
        let path = entry.expect("listed").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let output = auditship(root(), &["check", &path.to_string_lossy()]);
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                said(&output)
            );
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} pipelines");
}

/// A copy of `pipelines/`, so that the run leaves nothing in the tree.
fn copy_of_pipelines() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for part in ["pipelines", "pipelines/samples"] {
        fs::create_dir(dir.path().join(part)).expect("made");
        for entry in fs::read_dir(root().join(part)).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                fs::copy(&path, dir.path().join(part).join(name)).expect("copied");
            }
        }
    }
    dir
}

/// The sample's generations, oldest first, as one text.
fn samples() -> Vec<u8> {
    let dir = root().join("pipelines/samples");
    let mut names: Vec<_> = fs::read_dir(&dir)
        .expect("samples")
        .map(|entry| entry.expect("listed").path())
        .collect();
    // `audit-<time>.log` before `audit.log`: `-` sorts before `.`.
    names.sort();
    let mut all = Vec::new();
    for path in names {
        let bytes = fs::read(&path).expect("readable");
        if path.extension().is_some_and(|extension| extension == "gz") {
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(&*bytes), &mut all).expect("gzip");
        } else {
            all.extend_from_slice(&bytes);
        }
    }
    all
}

#[test]
fn the_quickstart_shows_every_event_once_and_writes_the_log_byte_for_byte() {
    let dir = copy_of_pipelines();
    let run = || auditship(dir.path(), &["run", "pipelines/quickstart.toml", "--once"]);
    let output = run();
    assert!(output.status.success(), "{}", said(&output));
    let expected = samples();
    let lines = expected.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(
        output.stdout.iter().filter(|&&byte| byte == b'\n').count(),
        lines,
        "{}",
        said(&output)
    );
    let archive = dir.path().join("quickstart/audit.jsonl");
    assert!(
        fs::read(&archive).expect("written") == expected,
        "{}",
        said(&output)
    );

    let again = run();
    assert!(again.status.success(), "{}", said(&again));
    assert!(again.stdout.is_empty(), "{}", said(&again));
    assert!(
        fs::read(&archive).expect("still there") == expected,
        "nothing is written twice"
    );
}
