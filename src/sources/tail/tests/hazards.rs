//! Each hazard of the audit log (the numbers are those of the catalogue the source was built from), and what became of
//! it once as named regressions.

use std::time::Duration;

use super::super::model::{Model, gzip};
use super::super::resume::Start;
use super::{Out, QUIET_HABITS, Settings, Tail, drain, gaps, lines, settings, tail_of};
use crate::event::Generation;
use crate::event::encoding::{GapReason, GenerationPosition};
use crate::sources::{Next, Source, SourceState};

const BACKUP_1: &str = "audit-2026-01-01T03-00-00.000.log";
const BACKUP_2: &str = "audit-2026-01-01T04-00-00.000.log";
const BACKUP_3: &str = "audit-2026-01-01T05-00-00.000.log";

fn quiet() -> Model {
    Model::new(QUIET_HABITS, 1)
}

fn start(model: &Model) -> Tail {
    tail_of(model, settings(), Vec::new())
}

/// Reads what is there and gives the position list at the end, with what came out.
fn drain_to_positions(tail: &mut Tail) -> (Vec<Out>, Vec<GenerationPosition>) {
    let out = drain(tail);
    (out, tail.rotation.positions())
}

fn check(out: &[Out], expected: &[&str]) {
    assert_eq!(lines(out), expected);
    assert_eq!(gaps(out), []);
}

#[test]
fn h01_missing_live_file_is_not_the_end() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_1);
    check(&drain(&mut tail), &[]);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut tail), &["b"]);
}

#[test]
fn h02_rest_of_a_renamed_file_comes_before_the_new_one() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().append("audit.log", b"b\n");
    model.world().rename("audit.log", BACKUP_1);
    model.world().put("audit.log", b"c\n");
    check(&drain(&mut tail), &["b", "c"]);
}

#[test]
fn h02_open_descriptor_survives_deletion() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().append("audit.log", b"b\n");
    model.world().unlink("audit.log");
    model.world().put("audit.log", b"c\n");
    check(&drain(&mut tail), &["b", "c"]);
}

#[test]
fn h03_rotations_between_two_looks_are_found_by_the_listing() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_1);
    model.world().put(BACKUP_2, b"b\n");
    model.world().put(&format!("{BACKUP_3}.gz"), &gzip(b"c\n"));
    model.world().put("audit.log", b"d\n");
    check(&drain(&mut tail), &["b", "c", "d"]);
}

#[test]
fn h04_backup_gone_unread_before_it_could_be_held_is_a_gap() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().open_error = Some(rustix::io::Errno::MFILE.raw_os_error());
    model.world().put(BACKUP_1, b"b\n");
    check(&drain(&mut tail), &[]);
    model.world().open_error = None;
    model.world().unlink(BACKUP_1);
    model.world().append("audit.log", b"c\n");
    let out = drain(&mut tail);
    assert_eq!(lines(&out), ["c"]);
    let gaps = gaps(&out);
    assert_eq!(
        (gaps.len(), gaps[0].reason, gaps[0].from, gaps[0].to),
        (1, GapReason::Deleted, Some(0), None)
    );
}

#[test]
fn h04_held_backups_beyond_the_bound_are_given_up_oldest_first_with_exact_gaps() {
    let model = quiet();
    for (name, text) in [
        (BACKUP_1, "a\n"),
        (BACKUP_2, "bb\n"),
        (BACKUP_3, "ccc\n"),
        ("audit.log", "d\n"),
    ] {
        model.world().put(name, text.as_bytes());
    }
    let mut tail = tail_of(
        &model,
        Settings {
            hold_deleted: 7,
            ..settings()
        },
        Vec::new(),
    );
    // Nothing is read yet, as while the spool is full.
    tail.look();
    for name in [BACKUP_1, BACKUP_2, BACKUP_3] {
        model.world().unlink(name);
    }
    for _ in 0..3 {
        model.world().clock.advance(Duration::from_secs(1));
        tail.look();
    }
    assert_eq!(tail.report().held_deleted_bytes, 7);
    assert!(tail.about_to_lose(Duration::from_secs(60)));
    let out = drain(&mut tail);
    assert_eq!(lines(&out), ["bb", "ccc", "d"]);
    let gaps = gaps(&out);
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].reason, GapReason::HoldDeleted);
    assert_eq!(gaps[0].generation, Some(Generation::of_first_line(b"a")));
    assert_eq!((gaps[0].from, gaps[0].to), (Some(0), Some(2)));
}

#[test]
fn h05_plain_removed_while_gz_appears() {
    let model = quiet();
    model.world().put("audit.log", b"a\nb\nc\n");
    let (_, positions) = drain_to_positions(&mut start(&model));
    let first = GenerationPosition {
        offset: 2,
        tail: super::super::file_identity::tail_hash(b"a\n"),
        ..positions[0].clone()
    };
    model.world().unlink("audit.log");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &gzip(b"a\nb\nc\n"));
    model.world().put("audit.log", b"d\n");
    check(
        &drain(&mut tail_of(&model, settings(), vec![first])),
        &["b", "c", "d"],
    );
}

#[test]
fn h05_held_file_is_recognised_in_its_gz_and_not_read_twice() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().append("audit.log", b"b\n");
    model.world().unlink("audit.log");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &gzip(b"a\nb\n"));
    model.world().put("audit.log", b"c\n");
    check(&drain(&mut tail), &["b", "c"]);
}

#[test]
fn h06_half_written_gz_beside_its_plain_file_is_not_read() {
    let model = quiet();
    model.world().put(BACKUP_1, b"a\n");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &gzip(b"a\n")[..12]);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut start(&model)), &["a", "b"]);
}

#[test]
fn h06_half_written_gz_alone_is_tried_again_and_read_once_it_is_whole() {
    let model = quiet();
    let name = format!("{BACKUP_1}.gz");
    let whole = gzip(b"a\nb\n");
    model.world().put(&name, &whole[..whole.len() - 9]);
    model.world().put("audit.log", b"c\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &[]);
    let report = tail.report();
    assert_eq!(report.state, SourceState::Waiting);
    assert!(report.reason.unwrap().contains("incomplete or damaged"));
    model.world().append(&name, &whole[whole.len() - 9..]);
    check(&drain(&mut tail), &["a", "b", "c"]);
}

#[test]
fn h06_gz_that_stays_damaged_is_a_gap_and_the_rest_goes_on() {
    let model = quiet();
    let mut bytes = gzip(b"a\nb\n");
    let crc = bytes.len() - 8;
    bytes[crc] ^= 1;
    model.world().put(&format!("{BACKUP_1}.gz"), &bytes);
    model.world().put("audit.log", b"c\n");
    let mut tail = start(&model);
    drain(&mut tail);
    model.world().leap = Some(Duration::from_secs(60));
    let mut out = Vec::new();
    for _ in 0..5 {
        out.extend(drain(&mut tail));
    }
    assert!(lines(&out).contains(&"c".to_owned()));
    assert_eq!(gaps(&out).len(), 1);
}

#[test]
fn h06_with_once_a_damaged_gz_is_a_gap_at_once() {
    let model = quiet();
    let whole = gzip(b"a\nb\n");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &whole[..whole.len() - 9]);
    model.world().put("audit.log", b"c\n");
    let mut tail = start(&model);
    tail.limit_to_present().unwrap();
    let out = drain(&mut tail);
    assert_eq!(lines(&out).last().unwrap(), "c");
    assert_eq!(gaps(&out).len(), 1);
    assert!(matches!(tail.next(Duration::ZERO).unwrap(), Next::Finished));
}

#[test]
fn h07_reused_inode_is_another_file() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let (_, positions) = drain_to_positions(&mut start(&model));
    model.world().unlink("audit.log");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &gzip(b"a\nb\n"));
    model.world().unlink(&format!("{BACKUP_1}.gz"));
    // The lowest number is free again.
    model.world().put("audit.log", b"c\n");
    model
        .world()
        .put(&format!("{BACKUP_1}.gz"), &gzip(b"a\nb\n"));
    check(
        &drain(&mut tail_of(&model, settings(), positions)),
        &["b", "c"],
    );
}

#[test]
fn h07_identical_first_lines_are_told_apart_by_inode_and_order() {
    let model = quiet();
    model.world().put(BACKUP_1, b"same\n1\n");
    model.world().put(BACKUP_2, b"same\n2\n");
    model.world().put("audit.log", b"same\n3\n");
    let mut tail = start(&model);
    let (out, positions) = drain_to_positions(&mut tail);
    check(&out, &["same", "1", "same", "2", "same", "3"]);
    drop(tail);
    model.world().append("audit.log", b"4\n");
    check(&drain(&mut tail_of(&model, settings(), positions)), &["4"]);
}

#[test]
fn h08_partly_visible_last_line_waits() {
    let model = quiet();
    model.world().put("audit.log", b"a\n{\"b\":");
    let mut tail = start(&model);
    let (out, positions) = drain_to_positions(&mut tail);
    check(&out, &["a"]);
    assert_eq!(positions[0].offset, 2);
    model.world().append("audit.log", b"1}\n");
    check(&drain(&mut tail), &["{\"b\":1}"]);
}

#[test]
fn h08_before_the_first_line_feed_there_is_no_generation() {
    let model = quiet();
    model.world().put("audit.log", b"{\"b\":");
    let mut tail = start(&model);
    let (out, positions) = drain_to_positions(&mut tail);
    check(&out, &[]);
    assert_eq!((positions[0].generation, positions[0].offset), (None, 0));
    model.world().append("audit.log", b"1}\n");
    check(&drain(&mut tail), &["{\"b\":1}"]);
}

#[test]
fn h09_torn_line_at_the_end_of_a_backup_becomes_a_line_when_it_is_retired() {
    let model = quiet();
    model.world().put("audit.log", b"a\n{\"torn");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_1);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut tail), &["b"]);
    model.world().leap = Some(Duration::from_secs(301));
    check(&drain(&mut tail), &["{\"torn"]);
    assert_eq!(tail.rotation.positions().len(), 1);
}

#[test]
fn h09_line_glued_to_a_torn_one_is_an_event_of_its_own() {
    let model = quiet();
    model.world().put(
        "audit.log",
        b"{\"n\":{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"}\n",
    );
    let out = drain(&mut start(&model));
    check(
        &out,
        &[
            "{\"n\":",
            "{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"}",
        ],
    );
}

#[test]
fn h10_long_run_of_nul_is_a_gap_with_exact_range() {
    let model = quiet();
    let mut bytes = b"a\n".to_vec();
    bytes.resize(2 + 70_000, 0);
    bytes.extend_from_slice(b"{\"b\":1}\n");
    model.world().put("audit.log", &bytes);
    let out = drain(&mut start(&model));
    assert_eq!(lines(&out), ["a", "{\"b\":1}"]);
    let gaps = gaps(&out);
    assert_eq!(
        (gaps.len(), gaps[0].reason, gaps[0].from, gaps[0].to),
        (1, GapReason::Nul, Some(2), Some(70_002))
    );
}

#[test]
fn h10_thousands_of_reads_that_give_no_line_are_no_panic() {
    let model = quiet();
    let reads = 6000;
    let mut bytes = vec![0; reads * settings().sizes.read];
    bytes.extend_from_slice(b"\n{\"b\":1}\n");
    model.world().put("audit.log", &bytes);
    let out = drain(&mut start(&model));
    assert_eq!(gaps(&out).len(), 1);
    assert_eq!(lines(&out).last().map(String::as_str), Some("{\"b\":1}"));
}

#[test]
fn h11_copytruncate_is_a_gap_and_begins_anew() {
    let model = quiet();
    model.world().put("audit.log", b"a\nb\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a", "b"]);
    model.world().overwrite("audit.log", b"c\n");
    let out = drain(&mut tail);
    assert_eq!(lines(&out), ["c"]);
    let gaps = gaps(&out);
    assert_eq!(
        (gaps.len(), gaps[0].reason, gaps[0].from, gaps[0].to),
        (1, GapReason::Shrunk, Some(4), None)
    );
}

#[test]
fn h11_truncated_and_grown_beyond_the_offset_is_noticed() {
    for size in [2_usize, 3, 100, 5000] {
        let model = quiet();
        model.world().put("audit.log", b"a\n");
        let mut tail = start(&model);
        check(&drain(&mut tail), &["a"]);
        let line = "x".repeat(size);
        model
            .world()
            .overwrite("audit.log", format!("{line}\n").as_bytes());
        let out = drain(&mut tail);
        assert_eq!(lines(&out), [line]);
        assert_eq!(
            gaps(&out).iter().map(|gap| gap.reason).collect::<Vec<_>>(),
            [GapReason::Overwritten]
        );
    }
}

#[test]
fn h12_renamed_file_that_keeps_growing_is_followed_under_any_name() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", "audit.log.1");
    model.world().put("audit.log", b"");
    check(&drain(&mut tail), &[]);
    model.world().append("audit.log.1", b"b\n");
    check(&drain(&mut tail), &["b"]);
    model.world().append("audit.log", b"c\n");
    check(&drain(&mut tail), &["c"]);
}

#[test]
fn h13_late_bytes_of_a_backup_are_read_where_they_are() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_1);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut tail), &["b"]);
    model.world().append(BACKUP_1, b"late\n");
    check(&drain(&mut tail), &["late"]);
    model.world().append("audit.log", b"c\n");
    check(&drain(&mut tail), &["c"]);
}

/// Seed 35146: the position list named the older file alone, and a restart then read the younger one twice.
#[test]
fn h13_late_bytes_do_not_drop_the_younger_file_from_the_position_list() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_1);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut tail), &["b"]);
    // More than one chunk takes.
    let count = 40;
    model.world().append(BACKUP_1, &b"late\n".repeat(count));
    let (read, positions) = loop {
        if let Next::Chunk(chunk) = tail.next(Duration::from_secs(1)).unwrap() {
            break (chunk.lines.heads.len(), chunk.positions);
        }
    };
    drop(tail);
    model.world().append("audit.log", b"c\n");
    let mut expected = vec!["late"; count - read];
    expected.push("c");
    check(
        &drain(&mut tail_of(&model, settings(), positions)),
        &expected,
    );
}

#[test]
fn h14_file_shorter_than_the_stored_position_is_a_gap() {
    let model = quiet();
    model.world().put("audit.log", b"a\nb\n");
    let (_, positions) = drain_to_positions(&mut start(&model));
    model.world().overwrite("audit.log", b"a\n");
    model.world().append("audit.log", b"c\n");
    let out = drain(&mut tail_of(&model, settings(), positions));
    assert_eq!(
        gaps(&out).iter().map(|gap| gap.reason).collect::<Vec<_>>(),
        [GapReason::Overwritten]
    );
    // The same ids as the first time where the lines are the same.
    assert_eq!(lines(&out), ["a", "c"]);
}

#[test]
fn h15_file_first_seen_later_is_younger_whatever_its_name_says() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    model.world().rename("audit.log", BACKUP_2);
    model.world().put("audit.log", b"b\n");
    check(&drain(&mut tail), &["b"]);
    // The clock has stepped back by hours.
    model.world().rename("audit.log", BACKUP_1);
    model.world().put("audit.log", b"c\n");
    check(&drain(&mut tail), &["c"]);
    model.world().append("audit.log", b"d\n");
    check(&drain(&mut tail), &["d"]);
}

#[test]
fn h16_after_rotations_while_down_reading_goes_on_where_it_stood() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let (_, positions) = drain_to_positions(&mut start(&model));
    model.world().append("audit.log", b"b\n");
    let bytes = model.world().bytes("audit.log");
    model.world().put(&format!("{BACKUP_1}.gz"), &gzip(&bytes));
    model.world().put(BACKUP_2, b"c\n");
    model.world().put(&format!("{BACKUP_3}.gz"), &gzip(b"d\n"));
    model.world().put("audit.log", b"e\n");
    check(
        &drain(&mut tail_of(&model, settings(), positions)),
        &["b", "c", "d", "e"],
    );
}

#[test]
fn h16_position_that_is_gone_is_a_gap_before_the_oldest_that_is_left() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    let (_, positions) = drain_to_positions(&mut start(&model));
    model.world().unlink("audit.log");
    model.world().put(BACKUP_2, b"c\n");
    model.world().put("audit.log", b"d\n");
    let out = drain(&mut tail_of(&model, settings(), positions));
    assert!(
        matches!(&out[0], Out::Gap(gap) if gap.reason == GapReason::Deleted
        && gap.generation == Some(Generation::of_first_line(b"a"))
        && (gap.from, gap.to, gap.events) == (Some(2), None, None))
    );
    assert_eq!(lines(&out), ["c", "d"]);
}

#[test]
fn h17_other_names_are_left_alone() {
    let model = quiet();
    model.world().put("audit.log", b"a\n");
    model.world().put("audit.log.1", b"x\n");
    model.world().put("audit-copy.log", b"x\n");
    model.world().put("kube-audit.log", b"x\n");
    check(&drain(&mut start(&model)), &["a"]);
}

#[test]
fn h18_only_the_first_line_of_a_long_file_is_hashed() {
    let model = quiet();
    let mut bytes = b"first\n".to_vec();
    bytes.extend(b"line\n".repeat(2000));
    model.world().put("audit.log", &bytes);
    let mut tail = start(&model);
    let (out, positions) = drain_to_positions(&mut tail);
    assert_eq!(out.len(), 2001);
    assert_eq!(
        positions[0].generation,
        Some(Generation::of_first_line(b"first"))
    );
}

#[test]
fn h19_gap_names_the_times_around_it() {
    let model = quiet();
    let event = |second: u8| {
        format!("{{\"stageTimestamp\":\"2026-01-01T00:00:0{second}.000000Z\"}}\n").into_bytes()
    };
    model.world().put("audit.log", &event(1));
    let mut tail = start(&model);
    drain(&mut tail);
    model.world().overwrite("audit.log", b"");
    model.world().append("audit.log", &event(5));
    model.world().append("audit.log", &event(6));
    let gaps = gaps(&drain(&mut tail));
    let second = 1_000_000;
    let start = 1_767_225_600 * second;
    assert_eq!(
        (gaps[0].after_us, gaps[0].before_us),
        (Some(start + second), Some(start + 5 * second))
    );
}

#[test]
fn h20_forbidden_and_missing_are_told_apart() {
    let model = quiet();
    let mut tail = start(&model);
    check(&drain(&mut tail), &[]);
    let report = tail.report();
    assert_eq!(report.state, SourceState::Waiting);
    assert!(report.reason.unwrap().contains("is not there yet"));
    model.world().put("audit.log", b"a\n");
    model.world().open_error = Some(rustix::io::Errno::ACCESS.raw_os_error());
    check(&drain(&mut tail), &[]);
    let reason = tail.report().reason.unwrap();
    assert!(
        reason.contains("audit.log") && reason.contains("ermission denied"),
        "{reason}"
    );
    model.world().open_error = None;
    model.world().list_error = Some(rustix::io::Errno::ACCESS.raw_os_error());
    check(&drain(&mut tail), &[]);
    let reason = tail.report().reason.unwrap();
    assert!(
        reason.contains("/logs") && reason.contains("ermission denied"),
        "{reason}"
    );
    model.world().list_error = None;
    check(&drain(&mut tail), &["a"]);
    assert_eq!(tail.report().state, SourceState::CaughtUp);
}

#[test]
fn too_many_open_files_skip_nothing() {
    let model = quiet();
    model.world().put(BACKUP_1, b"a\n");
    model.world().put("audit.log", b"b\n");
    model.world().open_error = Some(rustix::io::Errno::MFILE.raw_os_error());
    let mut tail = start(&model);
    check(&drain(&mut tail), &[]);
    assert!(tail.report().reason.unwrap().contains("raise the limit"));
    model.world().open_error = None;
    check(&drain(&mut tail), &["a", "b"]);
}

#[test]
fn what_is_no_regular_file_is_ignored_and_said() {
    let model = quiet();
    model.world().put_fifo(BACKUP_1);
    model.world().put("audit.log", b"a\n");
    let mut tail = start(&model);
    check(&drain(&mut tail), &["a"]);
    assert_eq!(
        tail.report().notes,
        [format!("{BACKUP_1}: ignored, not a regular file")]
    );
}

#[test]
fn first_start_begins_where_it_is_told() {
    for (begin, expected) in [
        (Start::Oldest, vec!["a", "b", "c", "d"]),
        (Start::Live, vec!["b", "c", "d"]),
        (Start::End, vec!["c", "d"]),
    ] {
        let model = quiet();
        model.world().put(BACKUP_1, b"a\n");
        model.world().put("audit.log", b"b\nc");
        let settings = Settings {
            start: begin,
            ..settings()
        };
        let mut tail = tail_of(&model, settings.clone(), Vec::new());
        let (mut out, positions) = drain_to_positions(&mut tail);
        drop(tail);
        // Killed and started again before the unfinished line was ended.
        model.world().append("audit.log", b"\nd\n");
        out.extend(drain(&mut tail_of(&model, settings, positions)));
        check(&out, &expected);
    }
}

#[test]
fn once_ends_at_what_was_there_and_leaves_an_unfinished_last_line() {
    let model = quiet();
    model.world().put(BACKUP_1, b"a\ntorn");
    model.world().put("audit.log", b"b\nunfinished");
    let mut tail = start(&model);
    tail.limit_to_present().unwrap();
    model.world().append("audit.log", b" no more\nc\n");
    check(&drain(&mut tail), &["a", "torn", "b"]);
    assert!(matches!(tail.next(Duration::ZERO).unwrap(), Next::Finished));
    assert_eq!(tail.report().notes.len(), 1);
    assert!(
        tail.report().notes[0].contains("10 bytes"),
        "{:?}",
        tail.report().notes
    );
}

#[test]
fn once_without_a_log_is_an_error() {
    let error = start(&quiet()).limit_to_present().unwrap_err();
    assert!(error.to_string().contains("nothing to read"), "{error}");
}

#[test]
fn read_rate_bounds_what_is_read_in_a_second() {
    let model = quiet();
    model
        .world()
        .put("audit.log", &b"0123456789abcde\n".repeat(100));
    let mut tail = tail_of(
        &model,
        Settings {
            read_rate: Some(160),
            ..settings()
        },
        Vec::new(),
    );
    let before = model.world().clock.clone();
    let out = drain_slowly(&mut tail, 100);
    let took = crate::clock::Clock::monotonic(&*before).as_secs_f64();
    assert_eq!(out, 100);
    assert!(
        (8.5..12.0).contains(&took),
        "1600 bytes at 160 a second took {took} s"
    );
}

/// Reads so many lines, however long it takes.
fn drain_slowly(tail: &mut Tail, count: usize) -> usize {
    let mut seen = 0;
    for _ in 0..10_000 {
        if seen >= count {
            break;
        }
        if let Next::Chunk(chunk) = tail.next(Duration::from_secs(1)).unwrap() {
            seen += chunk.lines.heads.len();
        }
    }
    seen
}

#[test]
fn retirement_keeps_the_position_list_short() {
    let model = quiet();
    model.world().put("audit.log", b"0\n");
    let mut tail = start(&model);
    drain(&mut tail);
    for i in 0..40 {
        model.world().rename(
            "audit.log",
            &format!("audit-2026-01-01T03-00-{i:02}.000.log"),
        );
        model
            .world()
            .put("audit.log", format!("{}\n", i + 1).as_bytes());
        assert_eq!(lines(&drain(&mut tail)), [(i + 1).to_string()]);
        assert!(tail.rotation.positions().len() <= 18);
    }
}

#[test]
fn span_is_read_once_more_from_plain_file_and_gz() {
    let model = quiet();
    model.world().put("audit.log", b"{\"a\":1}\nb\nc");
    let mut tail = start(&model);
    let Next::Chunk(chunk) = tail.next(Duration::ZERO).unwrap() else {
        panic!("nothing came")
    };
    let again = tail.reread().unwrap();
    let span = chunk.span.unwrap();
    let lines = again.reread(&span).unwrap();
    assert_eq!(
        (&lines.bytes, &lines.heads),
        (&chunk.lines.bytes, &chunk.lines.heads)
    );
    let bytes = model.world().bytes("audit.log");
    model.world().unlink("audit.log");
    assert!(again.reread(&span).is_none());
    model.world().put(&format!("{BACKUP_1}.gz"), &gzip(&bytes));
    assert_eq!(again.reread(&span).unwrap().heads, chunk.lines.heads);
}

#[test]
fn a_read_of_empty_lines_is_given_out_in_bounded_chunks() {
    let model = quiet();
    model.world().put("audit.log", &[b'\n'; 500]);
    let mut tail = start(&model);
    let (mut lines, mut idle) = (0, 0);
    while idle < 3 {
        match tail.next(Duration::from_secs(1)).unwrap() {
            Next::Chunk(chunk) => {
                assert!(chunk.lines.heads.len() <= settings().sizes.lines);
                lines += chunk.lines.heads.len();
            }
            Next::Idle | Next::Finished => idle += 1,
        }
    }
    assert_eq!(lines, 500);
}
