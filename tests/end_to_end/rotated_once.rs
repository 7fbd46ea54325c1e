//! `run --once` over a rotated set: the file sink holds the generations in a row, byte for byte; a server holds each
//! event once, under the documented id, with the line's own bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{PATIENCE, assert_stored_once, index_sink};
use crate::contract::bench::{Target, held, read_all};
use crate::fakes::elasticsearch::FakeElasticsearch;
use crate::support::agent::{Agent, ORIGIN, Place, sink, source};
use crate::support::auditgen::{Journal, Lumberjack, Rotation, backups, gzip};
use crate::support::event::Events;
use crate::support::oracle::{Verdict, expected_of_bytes};
use crate::support::servers;

/// Writes a rotated set of about five generations.
fn rotated_set(place: &Place, compress: bool) -> Journal {
    let rotation = Rotation {
        max_bytes: 1 << 20,
        max_backups: 0,
        compress,
    };
    let mut writer = Lumberjack::new(&place.live(), rotation).keep_bytes();
    let mut events = Events::new(11);
    for _ in 0..2500 {
        let (serial, line) = events.make();
        writer.write_line(Some(serial), &line).expect("write");
    }
    let (serial, line) = (9999, events.line(9999, 220 << 10));
    writer.write_line(Some(serial), &line).expect("write");
    let journal = writer.finish();
    assert!(
        journal.generations.len() >= 4,
        "{}",
        journal.generations.len()
    );
    journal
}

#[test]
fn a_compressed_set_is_copied_byte_for_byte_and_only_once() {
    let place = Place::new();
    let journal = rotated_set(&place, true);
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    assert!(
        place.copied() == journal.bytes(),
        "the file sink differs from the generations in a row"
    );
    let status = place.lawful_status(&config);
    let lines = journal.lines().count() as u64;
    assert_eq!(source(&status)["read_events"], lines);
    assert_eq!(source(&status)["gaps_total"], 0);
    assert_eq!(sink(&status, "copy")["delivered"], lines);
    assert_eq!(sink(&status, "copy")["pending"], 0);
    place.run_once(&config, &[]).expect_code(0);
    assert!(
        place.copied() == journal.bytes(),
        "a second run adds nothing"
    );
    place.lawful_status(&config);
}

#[test]
fn plain_and_compressed_backups_and_one_killed_in_compression_are_one_stream() {
    let place = Place::new();
    let journal = rotated_set(&place, false);
    let mut names = backups(&place.live()).expect("list");
    names.sort();
    let path = |name: &str| place.live().with_file_name(name);
    // The oldest is compressed; the next was being compressed when the API server died: the plain file is whole.
    gzip(&path(&names[0]), &path(&format!("{}.gz", names[0]))).expect("gzip");
    fs::remove_file(path(&names[0])).expect("remove");
    let cut = path(&format!("{}.gz", names[1]));
    gzip(&path(&names[1]), &cut).expect("gzip");
    File::options()
        .write(true)
        .open(&cut)
        .expect("open")
        .set_len(5000)
        .expect("cut");
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    assert!(
        place.copied() == journal.bytes(),
        "the file sink differs from the generations in a row"
    );
    assert_eq!(source(&place.lawful_status(&config))["gaps_total"], 0);
}

#[test]
fn each_event_is_stored_once_under_the_documented_id() {
    let place = Place::new();
    let journal = rotated_set(&place, true);
    let fake = FakeElasticsearch::start();
    let config = place.config(&index_sink(&fake.url(), ""));
    place.run_once(&config, &[]).expect_code(0);
    assert_stored_once(&fake, super::INDEX, &journal);
    place.lawful_status(&config);
}

#[test]
fn an_unfinished_last_line_stays_unread_until_it_is_finished() {
    let place = Place::new();
    fs::write(place.live(), "{\"a\":1}\n{\"b\":").expect("write");
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(place.copied(), b"{\"a\":1}\n");
    fs::write(place.live(), "{\"a\":1}\n{\"b\":2}\n").expect("write");
    place.run_once(&config, &[]).expect_code(0);
    assert_eq!(place.copied(), b"{\"a\":1}\n{\"b\":2}\n");
    place.lawful_status(&config);
}

#[test]
fn standard_output_holds_the_lines_and_nothing_else() {
    let place = Place::new();
    let journal = rotated_set(&place, true);
    let config = place.config("[[sink]]\nname = \"out\"\ntype = \"stdout\"\nformat = \"raw\"\n");
    let finished = place.run_once(&config, &[]);
    finished.expect_code(0);
    assert!(
        finished.stdout.as_bytes() == journal.bytes(),
        "standard output differs from the generations in a row"
    );
}

#[test]
fn the_start_of_the_live_file_or_its_end_can_be_where_reading_begins() {
    for (start, expected) in [("live", "{\"l\":1}\n"), ("end", "")] {
        let place = Place::new();
        fs::write(
            place.path().join("log/audit-2026-01-01T00-00-00.000.log"),
            "{\"old\":1}\n",
        )
        .expect("write");
        fs::write(place.live(), "{\"l\":1}\n").expect("write");
        let config = place.config_with(&format!("start = \"{start}\""), &place.file_sink());
        place.run_once(&config, &[]).expect_code(0);
        assert_eq!(
            String::from_utf8_lossy(&place.copied()),
            expected,
            "start = {start}"
        );
        place.lawful_status(&config);
    }
}

// --- what a real API server left ---

/// The recorded files, where this checkout has them beside it.
fn corpus(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let path = std::env::var_os("AUDITSHIP_CORPUS").map_or(beside, PathBuf::from);
    if !path.exists() {
        servers::skip(
            test,
            &format!("no recorded audit logs at {}", path.display()),
        );
        return None;
    }
    Some(path)
}

/// Copies a recorded set to the place and gives the bytes of its generations, oldest first. A plain file counts before
/// its compressed twin, which may be cut.
fn copy_set(from: &Path, place: &Place) -> Vec<Vec<u8>> {
    let mut names: Vec<String> = backups(&from.join("audit.log")).expect("list");
    names.sort();
    let mut generations = Vec::new();
    for name in &names {
        fs::copy(from.join(name), place.live().with_file_name(name)).expect("copy");
        let mut bytes = Vec::new();
        if !name.ends_with(".gz") {
            bytes = fs::read(from.join(name)).expect("read");
        } else if names
            .iter()
            .any(|other| Some(other.as_str()) == name.strip_suffix(".gz"))
        {
            continue;
        } else {
            let file = File::open(from.join(name)).expect("open");
            flate2::read::GzDecoder::new(file)
                .read_to_end(&mut bytes)
                .expect("gunzip");
        }
        generations.push(bytes);
    }
    generations.push(fs::read(from.join("audit.log")).expect("read"));
    fs::copy(from.join("audit.log"), place.live()).expect("copy");
    generations
}

#[test]
fn recorded_sets_of_a_real_api_server_are_copied_byte_for_byte() {
    let Some(corpus) = corpus("recorded_sets_copied") else {
        return;
    };
    for set in [
        "kube-apiserver-1.37.2/rotated",
        "kube-apiserver-1.37.2/crashed",
    ] {
        let place = Place::new();
        let generations = copy_set(&corpus.join(set), &place);
        let config = place.config(&place.file_sink());
        place.run_once(&config, &[]).expect_code(0);
        assert!(
            place.copied() == generations.concat(),
            "{set}: the file sink differs"
        );
        assert_eq!(
            source(&place.lawful_status(&config))["malformed_events"],
            0,
            "{set}: every line is an event"
        );
    }
}

#[test]
fn recorded_sets_of_a_real_api_server_are_stored_once_in_a_real_opensearch() {
    let Some(corpus) = corpus("recorded_sets_stored") else {
        return;
    };
    let Some(server) = servers::opensearch("recorded_sets_stored") else {
        return;
    };
    let target = Target::real(server);
    let name = target.data_stream();
    let place = Place::new();
    let generations = copy_set(&corpus.join("kube-apiserver-1.37.2/rotated"), &place);
    let config = place.config(&format!(
        "[[sink]]\nname = \"search\"\ntype = \"elasticsearch\"\nendpoints = [\"{}\"]\ndata_stream = \"{name}\"\n",
        target.url
    ));
    let setup = Agent::spawn(
        place.path(),
        &["check", &config.to_string_lossy(), "--connect", "--setup"],
    );
    setup.wait(PATIENCE).expect_code(0);
    place.run_once(&config, &[]).expect_code(0);
    let there: Vec<_> = read_all(&target.http, &name).iter().map(held).collect();
    assert_eq!(there.len(), 8063);
    let expected = expected_of_bytes(generations.iter().map(Vec::as_slice), ORIGIN);
    Verdict::of_set(&expected, &there).assert_clean("OpenSearch");
    let status = place.lawful_status(&config);
    assert_eq!(sink(&status, "search")["dead_letter"], 0);
}

#[test]
fn a_single_recorded_file_is_copied_byte_for_byte() -> io::Result<()> {
    let Some(corpus) = corpus("single_recorded_file") else {
        return Ok(());
    };
    let place = Place::new();
    fs::copy(corpus.join("openshift-100.log"), place.live())?;
    let config = place.config(&place.file_sink());
    place.run_once(&config, &[]).expect_code(0);
    assert!(
        place.copied() == fs::read(place.live())?,
        "the file sink differs"
    );
    Ok(())
}
