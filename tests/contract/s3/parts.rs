//! A line too long to be held, even compressed: sent in parts, none of which is left behind, wherever it breaks off.

use std::sync::Arc;

use auditship::event::LineKind;
use auditship::sinks::{Body, Outcome, Pieces, Record};
use bytes::Bytes;

use super::*;
use crate::fakes::s3::{Fault as FakeFault, Operation};
use crate::support::proxy::{Fault, Proxy};

suite! {
    a_line_too_long_to_be_held_is_stored_whole_and_its_resend_sends_nothing,
    an_upload_that_is_cut_leaves_nothing_and_the_next_attempt_stores_it,
    uploads_of_an_earlier_run_are_aborted_at_the_start_and_those_of_others_are_not,
    a_strangers_object_under_the_key_of_a_long_line_is_left_alone,
}

/// A line that is read piece by piece.
struct Cut(Vec<u8>);

impl Pieces for Cut {
    fn piece(&self, index: usize) -> std::io::Result<Option<Bytes>> {
        Ok(self
            .0
            .chunks(1 << 20)
            .nth(index)
            .map(Bytes::copy_from_slice))
    }
}

/// Three records of which the second is a line of 18 MiB that hardly compresses.
fn long_records() -> (Vec<Vec<u8>>, Vec<Record>) {
    const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/";
    let mut random = fastrand::Rng::with_seed(1);
    let long: Vec<u8> = (0..18 << 20).map(|_| DIGITS[random.usize(..64)]).collect();
    let lines = vec![b"{\"a\":1}".to_vec(), long, b"{\"b\":2}".to_vec()];
    let mut all = records(&lines);
    all[1].head.kind = LineKind::Oversize;
    all[1].body = Body::Pieces(Arc::new(Cut(lines[1].clone())));
    (lines, all)
}

/// A sink that holds 1 MiB at most.
fn small_bench(keys: &str) -> Bench {
    let bench = Bench::within("s3", keys, |context| {
        context.batch_bytes = 1 << 20;
        context.timeout = std::time::Duration::from_secs(20);
    });
    bench.open().expect("open");
    bench
}

#[track_caller]
fn assert_no_upload(target: &Target) {
    assert_eq!(
        target.bucket("audit").uploads(&target.prefix()),
        Vec::<String>::new()
    );
}

#[track_caller]
fn retried(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Retry { in_doubt, .. } => in_doubt,
        other => panic!("not retried: {other:?}"),
    }
}

fn a_line_too_long_to_be_held_is_stored_whole_and_its_resend_sends_nothing(target: &Target) {
    let bench = small_bench(&target.keys());
    let (lines, all) = long_records();
    all_delivered(bench.attempt(sealed(&bench, &all)));
    assert_held(target, &lines);
    assert_no_upload(target);
    let name = target.bucket("audit").keys(&target.prefix()).remove(0);
    let head = target.bucket("audit").head(&name);
    assert_eq!(head["x-amz-meta-auditship-count"], "3");
    if let Some(fake) = &target.fake {
        assert_eq!(
            fake.take_asked()
                .iter()
                .filter(|asked| **asked == Operation::Part)
                .count(),
            2
        );
    }
    all_delivered(bench.attempt(sealed(&bench, &all)));
    assert_held(target, &lines);
    if let Some(fake) = &target.fake {
        assert!(!fake.take_asked().contains(&Operation::Part));
    }
}

fn an_upload_that_is_cut_leaves_nothing_and_the_next_attempt_stores_it(target: &Target) {
    let address = target
        .url
        .strip_prefix("http://")
        .expect("plain")
        .parse()
        .expect("an address");
    let proxy = Proxy::start(address);
    let bench = small_bench(&target.keys().replace(&target.url, &proxy.url()));
    let (lines, all) = long_records();
    // A connection carries a part of 8 MiB: none gets through.
    for bytes in [1 << 20, 3 << 20, 7 << 20] {
        let before = proxy.struck();
        proxy.set(Fault::ResetRequestAfter(bytes));
        // An attempt may find a connection that the change of plan has just broken.
        for _ in 0..3 {
            retried(bench.attempt(sealed(&bench, &all)));
            if proxy.struck() > before {
                break;
            }
        }
        assert!(proxy.struck() > before, "the fault did not strike");
        assert_no_upload(target);
        assert_eq!(
            target.bucket("audit").keys(&target.prefix()),
            Vec::<String>::new()
        );
    }
    proxy.set(Fault::None);
    // As above.
    let outcome = match bench.attempt(sealed(&bench, &all)) {
        Outcome::Retry { .. } => bench.attempt(sealed(&bench, &all)),
        outcome => outcome,
    };
    all_delivered(outcome);
    assert_held(target, &lines);
    assert_no_upload(target);
}

fn uploads_of_an_earlier_run_are_aborted_at_the_start_and_those_of_others_are_not(target: &Target) {
    let bucket = target.bucket("audit");
    let ours = key(target, 0, 2, ".jsonl.zst");
    let theirs = ours.replace("test-node-00c0ffee", "other-node-11111111");
    bucket.begin_upload(&ours);
    bucket.begin_upload(&ours);
    bucket.begin_upload(&theirs);
    assert_eq!(bucket.uploads(&target.prefix()).len(), 3);
    target.bench();
    assert_eq!(bucket.uploads(&target.prefix()), [theirs]);
}

fn a_strangers_object_under_the_key_of_a_long_line_is_left_alone(target: &Target) {
    let bench = small_bench(&target.keys());
    let (lines, all) = long_records();
    let bucket = target.bucket("audit");
    let name = key(target, 0, 2, ".jsonl.zst");
    bucket.put(&name, b"forged");
    let (_, alarms) = delivered(bench.attempt(sealed(&bench, &all)));
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let stored = bucket.content(&key(target, 0, 2, "-c.jsonl.zst"));
    assert!(stored == [lines.join(&b'\n'), b"\n".to_vec()].concat());
    assert_eq!(bucket.ask("GET", &name, "", b"", &[]).body, b"forged");
    assert_no_upload(target);
}

/// What happens to one request, and whether the attempt is delivered all the same.
#[test]
fn wherever_an_upload_breaks_off_nothing_is_left_and_it_is_stored_once() {
    let hang = FakeFault::HangAfter;
    for (operation, faults, at_once) in [
        (Operation::Begin, vec![FakeFault::ResetAfter], false),
        (Operation::Begin, vec![FakeFault::SlowDown(None)], false),
        (Operation::Part, vec![FakeFault::ResetAfter], false),
        (
            Operation::Part,
            vec![FakeFault::Refuse(500, "InternalError")],
            false,
        ),
        (Operation::Part, vec![FakeFault::CutBody], false),
        (
            Operation::Part,
            vec![FakeFault::Refuse(404, "NoSuchUpload")],
            false,
        ),
        (Operation::Complete, vec![FakeFault::ResetBefore], false),
        (Operation::Complete, vec![FakeFault::ResetAfter], true),
        (Operation::Complete, vec![hang], false),
        (
            Operation::Complete,
            vec![FakeFault::Refuse(404, "NoSuchUpload")],
            false,
        ),
        (
            Operation::Complete,
            vec![FakeFault::Refuse(409, "ConditionalRequestConflict")],
            false,
        ),
        (
            Operation::Complete,
            vec![FakeFault::Refuse(412, "PreconditionFailed")],
            false,
        ),
    ] {
        let target = Target::fake();
        let fake = target.fake.as_ref().expect("the fake");
        let bench = Bench::within("s3", &target.keys(), |context| {
            context.batch_bytes = 1 << 20;
            context.timeout = std::time::Duration::from_secs(6);
        });
        bench.open().expect("open");
        let (lines, all) = long_records();
        let what = format!("{operation:?} {faults:?}");
        fake.next_faults(operation, faults);
        let outcome = bench.attempt(sealed(&bench, &all));
        match at_once {
            true => all_delivered(outcome),
            false => {
                assert!(
                    matches!(outcome, Outcome::Retry { .. }),
                    "{what}: {outcome:?}"
                );
                all_delivered(bench.attempt(sealed(&bench, &all)));
            }
        }
        assert_held(&target, &lines);
        let left = target.bucket("audit").uploads("");
        assert!(
            left.is_empty() || what.starts_with("Complete [Refuse(404"),
            "{what} leaves {left:?}"
        );
    }
}

#[test]
fn an_upload_that_cannot_be_aborted_yet_is_aborted_before_the_next_attempt() {
    let target = Target::fake();
    let fake = target.fake.as_ref().expect("the fake");
    let bench = small_bench(&target.keys());
    let (lines, all) = long_records();
    fake.script(|operation| match operation {
        Operation::Part | Operation::Abort => Some(FakeFault::Refuse(503, "ServiceUnavailable")),
        _ => None,
    });
    retried(bench.attempt(sealed(&bench, &all)));
    assert_eq!(target.bucket("audit").uploads("").len(), 1);
    fake.script(|_| None);
    all_delivered(bench.attempt(sealed(&bench, &all)));
    assert_held(&target, &lines);
    assert_no_upload(&target);
}
