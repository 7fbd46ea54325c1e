//! What outlives a stop, a kill, a failing disk, a damaged block and a full spool.

use super::*;
use crate::durable_fs::simulated::Call;

#[tokio::test(start_paused = true)]
async fn after_a_kill_what_may_have_been_sent_is_in_doubt_and_nothing_else_is() {
    let rig = Rig::new();
    rig.spool.append(10);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    rig.sink.answer(|_| Step::Hang);
    rig.spool.append(10);
    clock::sleep(s(5)).await;
    delivery.abort();
    let limit = rig.place().send_limit;
    assert!(rig.place().cursor == 10 && limit >= 10_010, "{limit}");
    rig.spool.append(limit - 15);

    rig.sink.answer(|_| Step::Now(delivered()));
    let before = rig.sink.seen().len();
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    for seen in &rig.sink.seen()[before..] {
        let below = seen.records.iter().filter(|n| **n < limit).count();
        assert_eq!(seen.in_doubt, below > 0);
        assert!(
            below == 0 || below == seen.records.len(),
            "doubtful and new ones are not mixed"
        );
    }
    assert!(rig.sink.stored().values().all(|copies| *copies == 1));
    assert_eq!(rig.sink.stored().len() as u64, *rig.spool.next.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_attempts_end_and_leaves_nothing_in_doubt() {
    let rig = Rig::new();
    rig.sink.answer(|_| Step::After(s(3), delivered()));
    rig.spool.append(80);
    let delivery = rig.start();
    clock::sleep(s(1)).await;
    delivery.stop(s(20)).await;
    assert_eq!(rig.clock.monotonic().as_secs(), 3);
    let place = rig.place();
    assert_eq!(
        (place.cursor, place.send_limit, place.delivered),
        (50, 50, 50)
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_outlives_the_deadline_of_a_stop_is_in_doubt() {
    let rig = Rig::new();
    rig.sink.answer(|_| Step::Hang);
    rig.spool.append(80);
    let delivery = rig.start();
    clock::sleep(s(1)).await;
    delivery.stop(s(2)).await;
    assert_eq!(rig.clock.monotonic().as_secs(), 3);
    assert_eq!((rig.place().cursor, rig.place().send_limit), (0, 50));
    rig.sink.answer(|_| Step::Now(delivered()));
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    let doubts: Vec<bool> = rig.sink.seen()[1..]
        .iter()
        .map(|seen| seen.in_doubt)
        .collect();
    assert_eq!(doubts, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn records_delivered_out_of_order_before_a_stop_are_in_doubt_behind_it() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        if batch.records[0].number == 0 {
            Step::Now(retry(Some(s(100))))
        } else {
            Step::Now(delivered())
        }
    });
    rig.spool.append(100);
    let delivery = rig.start_with(vec![SinkSpec {
        concurrency: 2,
        ..rig.spec()
    }]);
    clock::sleep(s(1)).await;
    delivery.stop(s(2)).await;
    let stored: Vec<u64> = rig.sink.stored().into_keys().collect();
    assert_eq!(stored, numbers(50..100));
    assert_eq!((rig.place().cursor, rig.place().send_limit), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_must_come_first_is_durable_before_the_batch_goes_again() {
    let rig = Rig::new();
    let fs = Arc::clone(&rig.fs);
    let mut first = true;
    rig.sink.answer(move |batch| {
        if std::mem::take(&mut first) {
            return Step::Now(Outcome::MarkFirst {
                mark: b"file-2".to_vec(),
            });
        }
        let place = CursorFile::peek(&*fs, &cursor_path(Path::new("/state"), "sink"))
            .unwrap()
            .unwrap();
        assert_eq!(place.mark.as_deref(), Some(&b"file-2"[..]));
        assert!(!batch.in_doubt);
        Step::Now(Outcome::Delivered {
            mark: Some(b"file-2:50".to_vec()),
            except: vec![],
            alarms: vec![],
        })
    });
    rig.spool.append(5);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    assert_eq!(rig.place().mark.as_deref(), Some(&b"file-2:50"[..]));
    delivery.stop(s(1)).await;
    rig.start().stop(s(1)).await;
    assert_eq!(
        rig.sink
            .open_marks
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .as_deref(),
        Some(&b"file-2:50"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn when_the_sink_cannot_make_durable_what_it_reported_all_behind_the_cursor_goes_again_in_doubt()
 {
    let rig = Rig::new();
    // The first store is for the send limit, the second for the cursor.
    rig.sink
        .settle
        .lock()
        .unwrap()
        .extend([Ok(()), Err("EIO".to_owned())]);
    rig.spool.append(5);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    let seen = rig.sink.seen();
    assert_eq!(
        (seen.len(), seen[1].in_doubt, seen[1].records.clone()),
        (2, true, numbers(0..5))
    );
    assert_eq!(rig.sink.open_marks.lock().unwrap().len(), 2);
    assert_eq!(report.alarms.get("settle"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_failing_disk_holds_the_cursor_and_nothing_is_sent_beyond_the_limit() {
    let rig = Rig::new();
    rig.spool.append(5);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    rig.fs.fail(Call::Sync, 0, 1_000_000, io::ErrorKind::Other);
    rig.spool.append(20_000);
    // `FakeSink::send` asserts that what it gets is below the durable limit.
    clock::sleep(s(10)).await;
    assert_eq!(delivery.reports()[0].durable.cursor, 5);
    assert!(delivery.reports()[0].alarms["cursor"] > 1);
    rig.fs.mend();
    drained(&delivery, &rig).await;
    assert!(rig.sink.stored().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_is_rebuilt_from_the_source_without_a_gap() {
    let rig = Rig::new();
    (0..3).for_each(|_| rig.spool.append(5));
    rig.spool.damage(7, true);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.durable.delivered, rig.gaps.all()), (15, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_that_the_source_no_longer_has_is_a_gap_and_its_neighbours_arrive() {
    let rig = Rig::new();
    (0..3).for_each(|_| rig.spool.append(5));
    rig.spool.damage(7, false);
    rig.gaps.failing.store(true, Ordering::SeqCst);
    let delivery = rig.start();
    clock::sleep(s(5)).await;
    assert!(
        rig.place().cursor <= 5,
        "no cursor moves over a gap that is not recorded"
    );
    rig.gaps.failing.store(false, Ordering::SeqCst);
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.durable.delivered, report.durable.gap), (10, 5));
    assert_eq!(rig.gaps.all(), [(SinkGapReason::Damaged, 5, 9)]);
    assert_eq!(
        rig.sink.stored().into_keys().collect::<Vec<_>>(),
        [numbers(0..5), numbers(10..15)].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn damage_that_a_retry_meets_takes_only_what_was_still_to_be_sent() {
    let rig = Rig::new();
    let spool = Arc::clone(&rig.spool);
    let mut first = true;
    rig.sink.answer(move |batch| {
        if !std::mem::take(&mut first) {
            return Step::Now(delivered());
        }
        spool.damage(1, false);
        let busy = Verdict::Retry {
            reason: "429".into(),
            in_doubt: false,
        };
        Step::Now(all_but(batch, |n| (n < 2).then(|| busy.clone())))
    });
    rig.spool.append(5);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.durable.delivered, report.durable.gap), (3, 2));
    assert_eq!(rig.gaps.all(), [(SinkGapReason::Damaged, 0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_slowest_sink_is_overtaken_only_when_the_source_is_losing_and_another_is_past() {
    let rig = Rig::new();
    let other = fake_sink("other", &rig.clock, &rig.fs);
    rig.sink.answer(|_| Step::Now(retry(None)));
    rig.spool.append(100);
    let fast = SinkSpec {
        name: "other".into(),
        sink: Arc::clone(&other) as _,
        ..rig.spec()
    };
    let delivery = rig.start_with(vec![rig.spec(), fast]);
    assert_eq!(
        delivery.overtake(59, true, false),
        Overtaking::Refused,
        "both are behind: a loss for all"
    );
    while delivery.reports()[1].durable.cursor < 100 {
        clock::sleep(s(1)).await;
    }
    assert_eq!(
        delivery.overtake(59, false, false),
        Overtaking::Refused,
        "the source is safe"
    );
    assert_eq!(
        delivery.overtake(59, true, false),
        Overtaking::Asked(vec!["sink".into()])
    );
    let report = until(&delivery, |report| report.durable.cursor == 60).await;
    assert_eq!(
        (report.durable.gap, rig.gaps.all()),
        (60, vec![(SinkGapReason::Overtaken, 0, 59)])
    );
    assert_eq!(delivery.lowest_cursor(), Some(60));
    assert_eq!(delivery.overtake(59, true, false), Overtaking::NotNeeded);
    rig.sink.answer(|_| Step::Now(delivered()));
    assert_eq!(drained(&delivery, &rig).await.durable.delivered, 40);
}

#[tokio::test(start_paused = true)]
async fn a_sink_is_not_overtaken_under_an_open_attempt() {
    let rig = Rig::new();
    rig.sink.answer(|_| Step::After(s(5), delivered()));
    rig.spool.append(100);
    let delivery = rig.start_with(vec![SinkSpec {
        required: false,
        ..rig.spec()
    }]);
    clock::sleep(s(1)).await;
    assert_eq!(
        delivery.overtake(59, false, false),
        Overtaking::Asked(vec!["sink".into()])
    );
    let report = until(&delivery, |report| report.durable.cursor >= 60).await;
    assert_eq!((report.durable.delivered, report.durable.gap), (50, 10));
    assert_eq!(rig.gaps.all(), [(SinkGapReason::Overtaken, 50, 59)]);
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_overtakes_required_sinks_too() {
    let rig = Rig::new();
    rig.sink.answer(|_| Step::Now(retry(None)));
    rig.spool.append(100);
    let delivery = rig.start();
    assert_eq!(
        delivery.overtake(9, false, true),
        Overtaking::Asked(vec!["sink".into()])
    );
    until(&delivery, |report| report.durable.cursor == 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_sink_starts_at_the_oldest_record_or_now_and_its_past_is_not_selected() {
    for (from_now, begin) in [(false, 40), (true, 100)] {
        let rig = Rig::new();
        (0..10).for_each(|_| rig.spool.append(10));
        rig.spool.release(40);
        let delivery = rig.start_with(vec![SinkSpec {
            from_now,
            ..rig.spec()
        }]);
        rig.spool.append(1);
        let report = drained(&delivery, &rig).await;
        assert_eq!(
            (report.durable.not_selected, report.durable.delivered),
            (begin, 101 - begin)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn records_gone_from_the_spool_are_an_alarm_and_a_gap() {
    let rig = Rig::new();
    (0..10).for_each(|_| rig.spool.append(10));
    rig.sink.answer(|batch| {
        Step::Now(if batch.records[0].number < 10 {
            delivered()
        } else {
            retry(None)
        })
    });
    let spec = || SinkSpec {
        batch_events: 10,
        ..rig.spec()
    };
    let delivery = rig.start_with(vec![spec()]);
    until(&delivery, |report| report.durable.cursor == 10).await;
    delivery.abort();
    rig.spool.release(40);
    rig.sink.answer(|_| Step::Now(delivered()));
    let delivery = rig.start_with(vec![spec()]);
    let report = drained(&delivery, &rig).await;
    assert_eq!(rig.gaps.all(), [(SinkGapReason::Damaged, 10, 39)]);
    assert_eq!((report.durable.delivered, report.durable.gap), (70, 30));
    assert_eq!(report.alarms.get("spool_lost"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_beyond_the_spool_is_an_alarm_and_what_the_new_spool_holds_is_delivered() {
    let mut rig = Rig::new();
    rig.spool.append(50);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    delivery.stop(s(1)).await;
    rig.spool = FakeSpool::new();
    rig.spool.append(7);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.durable.cursor, report.durable.delivered), (7, 7));
    assert_eq!(report.alarms.get("spool_lost"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_left_the_configuration_keeps_its_cursor_and_holds_nothing_back() {
    let rig = Rig::new();
    rig.spool.append(5);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    delivery.stop(s(1)).await;
    let other = fake_sink("other", &rig.clock, &rig.fs);
    let delivery = rig.start_with(vec![SinkSpec {
        name: "other".into(),
        sink: other,
        ..rig.spec()
    }]);
    rig.spool.append(5);
    drained(&delivery, &rig).await;
    assert_eq!(delivery.lowest_cursor(), Some(10));
    let stored = stored_sinks(&*rig.fs, Path::new("/state")).unwrap();
    let cursors: Vec<(&str, u64)> = stored
        .iter()
        .map(|(name, record)| (name.as_str(), record.cursor))
        .collect();
    assert_eq!(cursors, [("other", 10), ("sink", 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_cannot_be_read_now_is_read_again_without_a_gap() {
    let rig = Rig::new();
    rig.spool.append(5);
    rig.spool.unreadable.store(true, Ordering::SeqCst);
    let delivery = rig.start();
    clock::sleep(s(3)).await;
    assert!(delivery.reports()[0].alarms["spool"] >= 2);
    rig.spool.unreadable.store(false, Ordering::SeqCst);
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.durable.delivered, rig.gaps.all()), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn records_of_another_version_stop_the_sink_and_are_not_skipped() {
    let rig = Rig::new();
    rig.spool.append(5);
    rig.spool.append_strange();
    rig.spool.append(5);
    let delivery = rig.start();
    let report = until(&delivery, |report| report.state == State::Stopped).await;
    let why = report.last_error.unwrap();
    assert!(
        why.contains("block of record 5") && why.contains("version of auditship"),
        "{why}"
    );
    clock::sleep(s(60)).await;
    assert_eq!(
        rig.sink.stored().into_keys().collect::<Vec<_>>(),
        numbers(0..5)
    );
    assert_eq!((rig.place().cursor, rig.gaps.all()), (5, vec![]));
}
