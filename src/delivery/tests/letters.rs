//! Dead letters: kept, bounded, shown, replayed, removed.

use super::dead_letter::{Action, Letter};
use super::*;

fn refusing(bad: u64) -> impl FnMut(&Batch) -> Step + Send {
    move |batch| {
        Step::Now(all_but(batch, |n| {
            (n == bad).then(|| Verdict::Rejected(no(RejectionKind::Refused)))
        }))
    }
}

fn shown(rig: &Rig, record: u64) -> String {
    let mut out = Vec::new();
    rig.letters().show("sink", record, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Ten records of which the fourth is a dead letter.
async fn one_letter(rig: &Rig) -> Delivery {
    rig.sink.answer(refusing(3));
    rig.spool.append(10);
    let delivery = rig.start();
    drained(&delivery, rig).await;
    delivery
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_keeps_bytes_reason_and_position() {
    let rig = Rig::new();
    one_letter(&rig).await;
    assert_eq!(shown(&rig, 3), line(3));
    let letters = rig.letters().list(Some("sink")).unwrap();
    let [letter] = &letters[..] else {
        panic!("{letters:?}")
    };
    let expected = Letter {
        sink: "sink".into(),
        record: 3,
        id: "03".repeat(16),
        origin: "c/n/s".into(),
        generation: "07".repeat(8),
        offset: 300,
        bytes: line(3).len() as u64,
        class: "mapper".into(),
        reason: "does not fit".into(),
        at: letter.at.clone(),
    };
    assert_eq!(letter, &expected);
    assert!(letter.at.starts_with("2026-01-01T00:00:0"), "{}", letter.at);
    assert_eq!(rig.letters().list(Some("other")).unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn an_oversize_record_goes_alone_and_is_kept_piece_by_piece() {
    let rig = Rig::new();
    rig.spool.append(2);
    rig.spool.append_oversize(&[b"{\"a\":", b"\"b\"", b"}"]);
    rig.spool.append(2);
    rig.sink.answer(|batch| {
        Step::Now(all_but(batch, |n| {
            (n == 2).then(|| Verdict::Rejected(no(RejectionKind::TooLarge)))
        }))
    });
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    let seen: Vec<Vec<u64>> = rig
        .sink
        .seen()
        .into_iter()
        .map(|seen| seen.records)
        .collect();
    assert_eq!(seen, [vec![0, 1], vec![2], vec![3, 4]]);
    assert_eq!(report.durable.dead_letter, 1);
    assert_eq!(shown(&rig, 2), "{\"a\":\"b\"}");
    let whole = rig.letters().load("sink", 2).unwrap();
    assert_eq!((whole.number, whole.head.length), (2, 9));
}

#[tokio::test(start_paused = true)]
async fn full_dead_letters_stop_the_sink_until_there_is_room() {
    let mut rig = Rig::new();
    rig.letters_max = 10;
    rig.sink.answer(refusing(3));
    rig.spool.append(10);
    let delivery = rig.start();
    let report = until(&delivery, |report| report.state == State::Stopped).await;
    assert!(report.last_error.unwrap().contains("dead letters are full"));
    clock::sleep(s(20)).await;
    assert_eq!(
        rig.sink.seen().len(),
        1,
        "nothing is sent while a letter cannot be kept"
    );
    delivery.stop(s(1)).await;
    assert_eq!(rig.place().cursor, 3);
    rig.letters_max = 1 << 20;
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (9, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_replayed_letter_that_is_stored_is_removed_and_counted_as_replayed_only() {
    let rig = Rig::new();
    let delivery = one_letter(&rig).await;
    rig.sink.answer(|_| Step::Now(delivered()));
    rig.letters()
        .ask(Action::Replay, "sink", &[3, 99], rig.clock.now())
        .unwrap();
    let report = until(&delivery, |report| report.durable.replayed == 1).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (9, 1)
    );
    let seen = rig.sink.seen().pop().unwrap();
    assert_eq!((seen.records, seen.in_doubt), (vec![3], false));
    clock::sleep(s(10)).await;
    assert_eq!(rig.letters().records("sink").unwrap(), [] as [u64; 0]);
    assert_eq!(rig.letters().requests("sink").unwrap(), []);
    assert_eq!(rig.sink.stored()[&3], 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_a_kill_interrupts_goes_on_in_doubt() {
    let rig = Rig::new();
    let delivery = one_letter(&rig).await;
    rig.sink.answer(|_| Step::Hang);
    rig.letters()
        .ask(Action::Replay, "sink", &[3], rig.clock.now())
        .unwrap();
    let before = rig.sink.seen().len();
    while rig.sink.seen().len() == before {
        clock::sleep(s(1)).await;
    }
    delivery.abort();
    rig.sink.answer(|_| Step::Now(delivered()));
    let delivery = rig.start();
    until(&delivery, |report| report.durable.replayed == 1).await;
    let seen = rig.sink.seen().pop().unwrap();
    assert_eq!((seen.records, seen.in_doubt), (vec![3], true));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_refused_again_stays() {
    let rig = Rig::new();
    let delivery = one_letter(&rig).await;
    rig.letters()
        .ask(Action::Replay, "sink", &[3], rig.clock.now())
        .unwrap();
    clock::sleep(s(20)).await;
    assert_eq!(rig.letters().records("sink").unwrap(), [3]);
    assert_eq!(rig.letters().requests("sink").unwrap(), []);
    assert_eq!(delivery.reports()[0].durable.replayed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_removed_letter_is_a_gap_that_is_not_counted_again() {
    let rig = Rig::new();
    let delivery = one_letter(&rig).await;
    rig.letters()
        .ask(Action::Remove, "sink", &[3, 4], rig.clock.now())
        .unwrap();
    clock::sleep(s(10)).await;
    assert_eq!(rig.gaps.all(), [(SinkGapReason::Removed, 3, 3)]);
    assert_eq!(rig.letters().records("sink").unwrap(), [] as [u64; 0]);
    assert_eq!(rig.letters().requests("sink").unwrap(), []);
    let durable = &delivery.reports()[0].durable;
    assert_eq!((durable.dead_letter, durable.gap), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_cursor_was_not_stored_is_decided_anew() {
    let rig = Rig::new();
    let letters =
        DeadLetters::open(Arc::clone(&rig.fs) as _, Path::new("/state"), 1 << 20).unwrap();
    let delivery = one_letter(&rig).await;
    delivery.stop(s(1)).await;
    let record = letters.load("sink", 3).unwrap();
    letters
        .keep(
            "sink",
            &Record {
                number: 12,
                ..record
            },
            &no(RejectionKind::Refused),
            Micros(0),
        )
        .unwrap();
    rig.sink.answer(|_| Step::Now(delivered()));
    rig.spool.append(10);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (19, 1)
    );
    assert_eq!(rig.letters().records("sink").unwrap(), [3]);
}

#[test]
fn letters_are_bounded_all_sinks_together_and_room_comes_back() {
    let fs: Arc<dyn DurableFs> = Arc::new(SimulatedFs::new());
    let whole = |number: u64| Record {
        number,
        origin: Arc::new(Origin {
            cluster: "c".into(),
            node: "n".into(),
            source: "s".into(),
        }),
        generation: Generation([7; 32]),
        head: head(number, 1000, LineKind::Event),
        appended: Micros(0),
        body: crate::sinks::Body::Whole(vec![b'x'; 1000].into()),
    };
    let letters = DeadLetters::open(Arc::clone(&fs), Path::new("/state"), 4000).unwrap();
    let keep = |sink: &str, number| {
        letters.keep(sink, &whole(number), &no(RejectionKind::Refused), Micros(0))
    };
    keep("a", 1).unwrap();
    keep("a", 1).unwrap();
    keep("b", 1).unwrap();
    assert!(matches!(
        keep("b", 2),
        Err(dead_letter::KeepError::Full { .. })
    ));
    letters.remove("a", &[1, 7]).unwrap();
    keep("b", 2).unwrap();
    let again = DeadLetters::open(fs, Path::new("/state"), 4000).unwrap();
    assert_eq!(again.used(), letters.used());
}

#[test]
fn a_damaged_letter_is_an_error_that_names_it() {
    let fs = Arc::new(SimulatedFs::new());
    let letters = DeadLetters::open(Arc::clone(&fs) as _, Path::new("/state"), 4000).unwrap();
    let path = Path::new("/state/dead-letters/a.00000000000000000001.letter");
    fs.set_bytes(path, b"auditDL1\x02\0\0\0\0\0\0\0{}");
    let error = letters.list(None).unwrap_err().to_string();
    assert!(
        error.contains("a.00000000000000000001.letter") && error.contains("damaged"),
        "{error}"
    );
}
