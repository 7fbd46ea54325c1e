//! What a real server cannot be made to do on demand: refusals, lost answers, servers without conditions, against the
//! fake.

use std::time::Duration;

use super::*;
use crate::fakes::http_server::{Answer, Manner};
use crate::fakes::s3::{Conditions, Fault, Operation};
use crate::support::wait::Stopwatch;

fn on_fake() -> (Target, Bench) {
    let target = Target::fake();
    let bench = Bench::within("s3", &target.keys(), |context| {
        context.timeout = Duration::from_secs(3);
    });
    bench.open().expect("open");
    (target, bench)
}

fn fake(target: &Target) -> &FakeS3 {
    target.fake.as_ref().expect("the fake")
}

#[test]
fn what_passes_is_retried_and_then_stored_once() {
    for (fault, after) in [
        (Fault::SlowDown(None), None),
        (Fault::SlowDown(Some(7)), Some(7)),
        (Fault::Refuse(409, "ConditionalRequestConflict"), None),
        (Fault::Refuse(409, "OperationAborted"), None),
        (Fault::Refuse(500, "InternalError"), None),
        (Fault::Refuse(503, "ServiceUnavailable"), None),
        (Fault::Refuse(400, "RequestTimeout"), None),
        (Fault::Refuse(400, "BadDigest"), None),
        (Fault::Refuse(400, "XAmzContentChecksumMismatch"), None),
        (Fault::Refuse(429, "TooManyRequests"), None),
        (Fault::CutBody, None),
        (Fault::Answer(Answer::text(502, "bad gateway")), None),
        (Fault::Answer(Answer::text(507, "disk full")), None),
    ] {
        let (target, bench) = on_fake();
        let lines = lines(20, 20);
        let all = records(&lines);
        fake(&target).next_faults(Operation::Put, [fault.clone()]);
        match bench.attempt(sealed(&bench, &all)) {
            Outcome::Retry { after: found, .. } => {
                assert_eq!(found, after.map(Duration::from_secs), "{fault:?}");
            }
            other => panic!("{fault:?}: {other:?}"),
        }
        assert_eq!(
            target.bucket("audit").keys(""),
            Vec::<String>::new(),
            "{fault:?}"
        );
        all_delivered(bench.attempt(sealed(&bench, &all)));
        assert_held(&target, &lines);
    }
}

#[test]
fn what_is_a_matter_of_configuration_stops_the_sink_says_what_to_do_and_heals() {
    let expecting = "the region 'us-east-1' is wrong; expecting 'eu-west-1'";
    for (fault, advice) in [
        (Fault::Refuse(403, "AccessDenied"), "s3:PutObject"),
        (Fault::Refuse(403, "InvalidAccessKeyId"), "`access_key`"),
        (Fault::Refuse(403, "SignatureDoesNotMatch"), "`secret_key`"),
        (Fault::Refuse(400, "ExpiredToken"), "renew"),
        (Fault::Refuse(400, "InvalidToken"), "renew"),
        (Fault::Refuse(404, "NoSuchBucket"), "`bucket`"),
        (Fault::Refuse(400, "KMS.DisabledException"), "`kms_key_id`"),
        (Fault::Refuse(400, "KMS.NotFoundException"), "`kms_key_id`"),
        (
            Fault::Say(
                403,
                "AccessDenied",
                "not authorized to perform: kms:GenerateDataKey because no resource-based policy allows the KMS action",
            ),
            "`kms_key_id`",
        ),
        (Fault::Refuse(400, "InvalidStorageClass"), "`storage_class`"),
        (
            Fault::Say(
                400,
                "InvalidRequest",
                "Bucket is missing Object Lock Configuration",
            ),
            "Object Lock",
        ),
        (
            Fault::Say(400, "AuthorizationHeaderMalformed", expecting),
            "`region = \"eu-west-1\"`",
        ),
        (
            Fault::Answer(Answer::empty(307).with("x-amz-bucket-region", "eu-west-3")),
            "`region = \"eu-west-3\"`",
        ),
        (Fault::Refuse(301, "PermanentRedirect"), "`region`"),
        (Fault::Refuse(400, "EntityTooLarge"), "`batch.bytes`"),
        (Fault::Refuse(418, "Teapot"), "Teapot"),
    ] {
        let (target, bench) = on_fake();
        let lines = lines(21, 5);
        let all = records(&lines);
        fake(&target).next_faults(Operation::Put, [fault.clone()]);
        match bench.attempt(sealed(&bench, &all)) {
            Outcome::Stop { reason } => {
                assert!(reason.contains(advice), "{fault:?}: {reason}");
                assert!(
                    reason.contains("audit") && !reason.contains('\n'),
                    "{reason}"
                );
                assert!(!reason.contains("auditship-secret"), "{reason}");
            }
            other => panic!("{fault:?}: {other:?}"),
        }
        bench.open().expect("mended");
        all_delivered(bench.attempt(sealed(&bench, &all)));
        assert_held(&target, &lines);
    }
}

#[test]
fn an_attempt_whose_end_was_not_seen_is_in_doubt_and_its_resend_adds_nothing() {
    for fault in [
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::HangBefore,
        Fault::HangAfter,
    ] {
        let (target, bench) = on_fake();
        let lines = lines(22, 50);
        let all = records(&lines);
        fake(&target).next_faults(Operation::Put, [fault.clone()]);
        match bench.attempt(sealed(&bench, &all)) {
            Outcome::Retry { in_doubt: true, .. } => {}
            other => panic!("{fault:?}: {other:?}"),
        }
        all_delivered(bench.attempt(sealed(&bench, &all)));
        assert_held(&target, &lines);
    }
}

#[test]
fn a_server_without_conditions_is_recognised_and_looked_at_before_each_object() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let target = Target::fake();
        fake(&target).conditions(conditions);
        let bench = target.bench();
        let told = bench.connect(false).expect("connected");
        assert!(
            told.iter().any(|line| line.contains("does not heed")),
            "{told:?}"
        );
        fake(&target).take_asked();
        let lines = lines(23, 30);
        let all = records(&lines);
        all_delivered(bench.attempt(sealed(&bench, &all)));
        assert_eq!(
            fake(&target).take_asked(),
            [Operation::Head, Operation::Put]
        );
        all_delivered(bench.attempt(sealed(&bench, &all)));
        assert_eq!(fake(&target).take_asked(), [Operation::Head]);
        assert_held(&target, &lines);
        // What a stranger put there is not written over.
        let bucket = target.bucket("audit");
        let name = bucket.keys(&target.prefix()).remove(0);
        bucket.put(&name, b"forged");
        let (_, alarms) = delivered(bench.attempt(sealed(&bench, &all)));
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert_eq!(bucket.ask("GET", &name, "", b"", &[]).body, b"forged");
    }
}

#[test]
fn what_may_not_be_looked_at_is_not_taken_for_ours() {
    let (target, bench) = on_fake();
    let all = records(&lines(24, 5));
    all_delivered(bench.attempt(sealed(&bench, &all)));
    fake(&target).next_faults(Operation::Head, [Fault::Refuse(403, "AccessDenied")]);
    match bench.attempt(sealed(&bench, &all)) {
        Outcome::Stop { reason } => assert!(reason.contains("look at an object"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    all_delivered(bench.attempt(sealed(&bench, &all)));
}

#[test]
fn encryption_and_storage_class_are_asked_for() {
    let target = Target::fake();
    let keys = format!(
        "{}storage_class = \"STANDARD_IA\"\nsse = \"aws:kms\"\nkms_key_id = \"good-key\"\n",
        target.keys()
    );
    let bench = Bench::new("s3", &keys);
    bench.open().expect("open");
    all_delivered(bench.attempt(sealed(&bench, &records(&lines(25, 5)))));
    let head = target
        .bucket("audit")
        .head(&key(&target, 0, 4, ".jsonl.zst"));
    for (header, value) in [
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "good-key"),
    ] {
        assert_eq!(
            head.get(header).map(String::as_str),
            Some(value),
            "{header}"
        );
    }
    let bench = Bench::new("s3", &keys.replace("good-key", "disabled-key"));
    match bench.open() {
        Err(Outcome::Stop { reason }) => {
            assert!(reason.contains("KMS.DisabledException"), "{reason}")
        }
        other => panic!("not stopped: {other:?}"),
    }
}

#[test]
fn without_path_style_the_bucket_is_in_the_host_name_and_a_proxy_is_used() {
    let target = Target::fake();
    let keys = target.keys().replace(&target.url, "http://s3.fake") + "path_style = false\n";
    // The fake is the proxy: no name needs to be resolved.
    let bench = Bench::within("s3", &keys, |context| {
        context.proxy = Some(target.url.clone())
    });
    bench.open().expect("open");
    let lines = lines(26, 10);
    all_delivered(bench.attempt(sealed(&bench, &records(&lines))));
    let hosts = fake(&target).hosts();
    assert!(
        hosts.iter().all(|host| host == "audit.s3.fake"),
        "{hosts:?}"
    );
    assert_held(&target, &lines);
}

#[test]
fn a_hostile_answer_is_bounded_in_time_and_size() {
    let (target, bench) = on_fake();
    let all = records(&lines(27, 5));
    let endless = Answer::text(500, &"x".repeat(5 << 20));
    let slow = Answer::text(200, &"x".repeat(1000)).sent(Manner::Drip(Duration::from_millis(100)));
    for answer in [endless, slow] {
        fake(&target).next_faults(Operation::Put, [Fault::Answer(answer)]);
        let watch = Stopwatch::start();
        match bench.attempt(sealed(&bench, &all)) {
            Outcome::Retry { in_doubt: true, .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(
            watch.elapsed() < Duration::from_secs(6),
            "{:?}",
            watch.elapsed()
        );
    }
}
