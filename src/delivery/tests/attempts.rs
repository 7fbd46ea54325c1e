//! One sink against a destination that answers in every way, on the runtime's paused time.

use super::*;

#[tokio::test(start_paused = true)]
async fn everything_spooled_is_delivered_in_order_and_the_cursor_says_so() {
    let rig = Rig::new();
    rig.spool.append(120);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    rig.spool.append(1);
    let report = drained(&delivery, &rig).await;
    assert_eq!((report.state, report.durable.delivered), (State::Idle, 121));
    let seen: Vec<Vec<u64>> = rig
        .sink
        .seen()
        .into_iter()
        .map(|seen| seen.records)
        .collect();
    assert_eq!(
        seen,
        [
            numbers(0..50),
            numbers(50..100),
            numbers(100..120),
            vec![120]
        ]
    );
    assert_eq!(rig.sink.open_marks.lock().unwrap().len(), 1);
    delivery.stop(s(1)).await;
    assert_eq!(
        rig.place().send_limit,
        121,
        "nothing is in doubt after an orderly stop"
    );
}

#[tokio::test(start_paused = true)]
async fn a_quiet_sink_sends_at_once_and_a_busy_one_fills_its_batch_for_no_longer_than_the_wait() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        Step::After(
            if batch.records[0].number == 0 {
                s(9)
            } else {
                s(0)
            },
            delivered(),
        )
    });
    let delivery = rig.start_with(vec![SinkSpec {
        concurrency: 2,
        ..rig.spec()
    }]);
    until(&delivery, |report| report.state == State::Idle).await;
    let begin = rig.clock.monotonic();
    for _ in 0..3 {
        rig.spool.append(1);
        clock::sleep(Duration::from_millis(400)).await;
    }
    drained(&delivery, &rig).await;
    let seen = rig.sink.seen();
    assert_eq!(seen[0].records, [0]);
    assert_eq!(seen[0].at, begin);
    assert_eq!(
        seen[1].records,
        [1, 2],
        "the second batch was filled while the first was in flight"
    );
    assert_eq!(seen[1].at, begin + Duration::from_millis(1400));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_and_the_batch_is_built_anew_from_the_spool() {
    let rig = Rig::new();
    let mut first = true;
    rig.sink.answer(move |_| {
        Step::Now(if std::mem::take(&mut first) {
            retry(Some(s(90)))
        } else {
            delivered()
        })
    });
    rig.spool.append(5);
    let delivery = rig.start();
    let report = until(&delivery, |report| report.state == State::Retrying).await;
    assert_eq!(report.last_error.as_deref(), Some("503"));
    assert_eq!(
        report.retry_at.map(|at| at.0 / 1_000_000),
        Some(1_767_225_600 + 90)
    );
    assert_eq!(
        rig.memory.unused(),
        (1 << 20) - 2000,
        "a waiting batch holds no memory but the reserve"
    );
    let report = drained(&delivery, &rig).await;
    let seen = rig.sink.seen();
    assert_eq!(seen[1].at - seen[0].at, s(90));
    assert_eq!(
        (seen[1].records.clone(), seen[1].in_doubt),
        (numbers(0..5), false)
    );
    assert_eq!(report.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn records_to_be_sent_again_go_alone_and_the_others_are_not_repeated() {
    let rig = Rig::new();
    let mut first = true;
    rig.sink.answer(move |batch| {
        let busy = Verdict::Retry {
            reason: "429".into(),
            in_doubt: false,
        };
        let bad = std::mem::take(&mut first);
        Step::Now(all_but(batch, |n| {
            (bad && n % 2 == 1).then(|| busy.clone())
        }))
    });
    rig.spool.append(6);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    assert_eq!(rig.sink.seen()[1].records, [1, 3, 5]);
    assert!(rig.sink.stored().values().all(|copies| *copies == 1));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_sink_drops_nothing_probes_every_eight_seconds_and_goes_on_when_it_is_mended() {
    let rig = Rig::new();
    rig.sink.answer(|_| {
        Step::Now(Outcome::Stop {
            reason: "401: check the password".into(),
        })
    });
    rig.spool.append(5);
    let delivery = rig.start();
    let report = until(&delivery, |report| report.state == State::Stopped).await;
    assert_eq!(
        report.last_error.as_deref(),
        Some("401: check the password")
    );
    clock::sleep(s(20)).await;
    let report = delivery.reports().remove(0);
    assert_eq!(
        (report.state, report.alarms.get("stopped")),
        (State::Stopped, Some(&1))
    );
    let at: Vec<u64> = rig
        .sink
        .seen()
        .iter()
        .map(|seen| seen.at.as_secs())
        .collect();
    assert_eq!(at, [0, 8, 16]);
    assert_eq!(
        rig.sink.open_marks.lock().unwrap().len(),
        3,
        "opened again before each probe"
    );
    rig.sink.answer(|_| Step::Now(delivered()));
    let mended = rig.clock.monotonic();
    let report = drained(&delivery, &rig).await;
    assert!(rig.clock.monotonic() - mended < s(10));
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (5, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_sink_with_another_mistake_behind_the_first_is_alarmed_for_each() {
    let rig = Rig::new();
    let mut left = 5;
    rig.sink.answer(move |_| {
        left -= 1;
        let reason = if left > 2 { "401" } else { "no template" };
        Step::Now(Outcome::Stop {
            reason: reason.into(),
        })
    });
    rig.spool.append(5);
    let delivery = rig.start();
    until(&delivery, |report| report.state == State::Stopped).await;
    clock::sleep(s(33)).await;
    let report = delivery.reports().remove(0);
    assert_eq!(rig.sink.seen().len(), 5);
    assert_eq!(report.alarms.get("stopped"), Some(&2));
    assert_eq!(report.last_error.as_deref(), Some("no template"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_is_tried_within_a_second() {
    let rig = Rig::new();
    rig.sink.answer(|_| {
        Step::Now(Outcome::Stop {
            reason: "401".into(),
        })
    });
    rig.spool.append(5);
    let delivery = rig.start();
    until(&delivery, |report| report.state == State::Stopped).await;
    rig.sink.answer(|_| Step::Now(delivered()));
    rig.sink.secrets.store(true, Ordering::SeqCst);
    drained(&delivery, &rig).await;
    assert!(rig.sink.seen()[1].at <= s(1), "{:?}", rig.sink.seen());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_cannot_open_is_stopped_or_retried_and_sends_nothing() {
    let rig = Rig::new();
    let stop = Outcome::Stop {
        reason: "the template is not in force".into(),
    };
    rig.sink
        .opens
        .lock()
        .unwrap()
        .extend([Err(retry(None)), Err(stop), Ok(Opened::default())]);
    rig.spool.append(5);
    let delivery = rig.start();
    until(&delivery, |report| report.state == State::Stopped).await;
    assert_eq!(rig.sink.seen(), []);
    drained(&delivery, &rig).await;
    assert_eq!(rig.sink.open_marks.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_the_destination_confirms_at_open_is_not_sent_again() {
    let rig = Rig::new();
    rig.sink.opens.lock().unwrap().push_back(Ok(Opened {
        confirmed_to: Some(2),
        ..Opened::default()
    }));
    rig.spool.append(5);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!(rig.sink.seen()[0].records, [3, 4]);
    assert_eq!(report.durable.delivered, 5);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_end_is_cut_at_twice_its_timeout_and_is_in_doubt() {
    let rig = Rig::new();
    let mut first = true;
    rig.sink.answer(move |_| {
        if std::mem::take(&mut first) {
            Step::Hang
        } else {
            Step::Now(delivered())
        }
    });
    rig.spool.append(5);
    let delivery = rig.start();
    drained(&delivery, &rig).await;
    let seen = rig.sink.seen();
    assert!(seen[1].at >= s(20) && seen[1].at <= s(21), "{seen:?}");
    assert!(!seen[0].in_doubt && seen[1].in_doubt);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_sink_is_an_alarm_and_its_batch_is_in_doubt() {
    let rig = Rig::new();
    let mut first = true;
    rig.sink.answer(move |_| {
        if std::mem::take(&mut first) {
            Step::Panic
        } else {
            Step::Now(delivered())
        }
    });
    rig.spool.append(5);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!(report.alarms.get("panic"), Some(&1));
    assert!(rig.sink.seen()[1].in_doubt);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_until_only_the_large_record_is_refused() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        let large = batch.records.iter().any(|record| record.number == 3);
        Step::Now(if large {
            Outcome::Split {
                verdict: no(RejectionKind::TooLarge),
            }
        } else {
            delivered()
        })
    });
    rig.spool.append(8);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (7, 1)
    );
    assert!(rig.sink.stored().values().all(|copies| *copies == 1));
    assert_eq!(rig.letters().records("sink").unwrap(), [3]);
    assert_eq!(report.attempts.get("split"), Some(&3));
}

#[tokio::test(start_paused = true)]
async fn an_unparsable_event_is_sent_once_more_in_its_fallback_form() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        let fallback = batch.form == Form::Fallback;
        Step::Now(all_but(batch, |n| {
            let bad = n == 7 || (n == 3 && !fallback);
            bad.then(|| Verdict::Rejected(no(RejectionKind::Unparsable)))
        }))
    });
    rig.spool.append(10);
    let delivery = rig.start();
    let report = drained(&delivery, &rig).await;
    let seen = rig.sink.seen();
    assert_eq!(
        (seen[1].records.clone(), seen[1].form),
        (vec![3, 7], Form::Fallback)
    );
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (9, 1)
    );
    assert_eq!(rig.letters().records("sink").unwrap(), [7]);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_refuses_everything_stops_the_sink_and_loses_nothing() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        Step::Now(all_but(batch, |_| {
            Some(Verdict::Rejected(no(RejectionKind::Unparsable)))
        }))
    });
    rig.spool.append(60);
    let delivery = rig.start();
    let report = until(&delivery, |report| report.state == State::Stopped).await;
    assert!(report.last_error.unwrap().contains("50 of 50 events"));
    assert_eq!(rig.letters().records("sink").unwrap(), [] as [u64; 0]);
    rig.sink.answer(|_| Step::Now(delivered()));
    let report = drained(&delivery, &rig).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (60, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_at_the_end_of_the_log_waits_for_another_and_says_so() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        Step::Now(all_but(batch, |n| {
            (n == 0).then(|| Verdict::Rejected(no(RejectionKind::Refused)))
        }))
    });
    rig.spool.append(1);
    let delivery = rig.start();
    let flushed = delivery.flushed(1, s(60)).await;
    let [(name, Flushed::GivenUp(why))] = &flushed[..] else {
        panic!("{flushed:?}")
    };
    assert_eq!(name, "sink");
    assert!(
        why.contains("record 0") && why.contains("waiting for the destination to accept"),
        "{why}"
    );
    assert_eq!(delivery.reports()[0].state, State::Retrying);
    assert!(
        rig.sink.seen().len() > 5,
        "it is sent again every 8 s: {:?}",
        rig.sink.seen().len()
    );
    rig.spool.append(1);
    let report = drained(&delivery, &rig).await;
    assert_eq!(
        (report.durable.delivered, report.durable.dead_letter),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn flushing_tells_who_is_done_who_is_stopped_and_who_has_no_success() {
    let rig = Rig::new();
    rig.spool.append(5);
    let delivery = rig.start();
    assert_eq!(
        delivery.flushed(5, s(60)).await,
        [("sink".to_owned(), Flushed::Confirmed)]
    );
    rig.sink.answer(|_| Step::Now(retry(None)));
    rig.spool.append(1);
    let begin = rig.clock.monotonic();
    assert_eq!(
        delivery.flushed(6, s(60)).await,
        [("sink".to_owned(), Flushed::GivenUp("503".into()))]
    );
    assert_eq!((rig.clock.monotonic() - begin).as_secs(), 60);
    rig.sink.answer(|_| {
        Step::Now(Outcome::Stop {
            reason: "403".into(),
        })
    });
    assert_eq!(
        delivery.flushed(6, s(600)).await,
        [("sink".to_owned(), Flushed::Stopped("403".into()))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_with_all_the_memory_delays_no_other() {
    let mut rig = Rig::new();
    rig.memory = Memory::new(8000);
    let other = fake_sink("hanging", &rig.clock, &rig.fs);
    other.answer(|_| Step::Hang);
    let hanging = SinkSpec {
        name: "hanging".into(),
        sink: Arc::clone(&other) as _,
        concurrency: 8,
        ..rig.spec()
    };
    rig.spool.append(1000);
    let delivery = rig.start_with(vec![rig.spec(), hanging]);
    let end = rig.clock.monotonic() + s(5);
    drained(&delivery, &rig).await;
    assert!(rig.clock.monotonic() < end);
    assert!(
        other.seen().len() < 8,
        "memory bounds what hangs: {}",
        other.seen().len()
    );
    assert_eq!(delivery.lowest_cursor(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_always_to_be_sent_again_holds_back_the_cursor_but_no_other_record() {
    let rig = Rig::new();
    rig.sink.answer(|batch| {
        let busy = Verdict::Retry {
            reason: "500".into(),
            in_doubt: false,
        };
        Step::Now(all_but(batch, |n| (n == 3).then(|| busy.clone())))
    });
    rig.spool.append(2000);
    let delivery = rig.start();
    clock::sleep(s(60)).await;
    assert_eq!(rig.sink.stored().len(), 1999);
    assert!(rig.sink.stored().values().all(|copies| *copies == 1));
    assert_eq!(rig.place().cursor, 3);
    rig.sink.answer(|_| Step::Now(delivered()));
    drained(&delivery, &rig).await;
}

#[tokio::test(start_paused = true)]
async fn where_sinks_want_more_memory_than_there_is_their_batches_are_cut_smaller() {
    let mut rig = Rig::new();
    rig.memory = Memory::new(1 << 20);
    let spec = SinkSpec {
        batch_bytes: 5 << 20,
        batch_events: u64::MAX,
        ..rig.spec()
    };
    // 10 bytes each, as this sink weighs them: 1 MiB of memory holds a batch of 512 KiB, encoded and as it was.
    rig.spool.append(60_000);
    let delivery = rig.start_with(vec![spec]);
    drained(&delivery, &rig).await;
    let largest = rig.sink.seen().iter().map(|seen| seen.records.len()).max();
    assert_eq!(largest, Some((512 << 10) / 10));
}
