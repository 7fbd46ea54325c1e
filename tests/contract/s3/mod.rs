//! What an attempt at S3 promises. Every test of [`suite`] runs against the fake and against a real versitygw; what a
//! real server cannot be made to do on demand follows, against the fake alone.

/// Declares each check as a test on the fake and as one on the real server.
macro_rules! suite {
    ($($check:ident),+ $(,)?) => {
        mod on_the_fake {
            use super::*;
            $(#[test] fn $check() { super::$check(&Target::fake()); })+
        }
        mod on_versitygw {
            use super::*;
            $(#[test] fn $check() {
                if let Some(server) = servers::s3(concat!("s3::on_versitygw::", stringify!($check))) {
                    super::$check(&Target::real(server));
                }
            })+
        }
    };
}

/// Refusals, lost answers, servers without conditions.
mod faults;

/// Credentials, certificates, clocks, a server that goes away.
mod logins;

/// Objects too large to be held.
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use auditship::sinks::{Batch, BuiltBody, Holds, Outcome, Record, Seal};
use sha2::{Digest, Sha256};

use crate::contract::bench::{Bench, all_delivered, delivered, lines, records};
use crate::fakes::s3::FakeS3;
use crate::support::http::Http;
use crate::support::oracle::hex;
use crate::support::s3::{ACCESS_KEY, Bucket, SECRET_KEY};
use crate::support::servers::{self, Server};

suite! {
    a_batch_is_one_object_named_by_its_records_byte_for_byte,
    every_compression_gives_the_lines_back,
    a_resend_is_recognised_by_its_hash,
    what_somebody_else_stored_under_our_key_is_alarmed_and_ours_is_stored_beside_it,
    concurrent_attempts_at_one_batch_store_one_object,
    a_seal_is_found_where_its_object_is_and_only_there,
    a_sealed_batch_keeps_its_key_under_another_prefix,
    records_without_a_body_are_stored_too,
    a_bucket_that_is_missing_stops_the_sink,
    a_versioned_bucket_gets_one_version,
    retention_is_kept_in_a_bucket_with_object_lock,
    retention_without_object_lock_stops_the_sink,
    the_probe_leaves_nothing_where_it_can_be_deleted,
    connecting_tells_what_is_there_and_stores_no_event,
}

/// A server to write to.
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) fake: Option<FakeS3>,
    ca: Option<std::path::PathBuf>,
    unique: String,
}

impl Target {
    /// A fake of its own.
    pub(crate) fn fake() -> Self {
        let fake = FakeS3::start();
        Target {
            url: fake.url(),
            fake: Some(fake),
            ca: None,
            unique: unique(),
        }
    }

    /// A real server.
    pub(crate) fn real(server: &Server) -> Self {
        Target {
            url: server.url.clone(),
            fake: None,
            ca: None,
            unique: unique(),
        }
    }

    /// A prefix that no other test or case uses.
    pub(crate) fn another_prefix() -> String {
        format!("{}/", unique())
    }

    /// The prefix that no other test uses.
    pub(super) fn prefix(&self) -> String {
        format!("{}/", self.unique)
    }

    /// One of the server's buckets.
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        let http = Http {
            ca: self.ca.clone(),
            ..Http::open(&self.url)
        };
        Bucket {
            http,
            name: name.to_owned(),
        }
    }

    /// Keys of a sink that writes below the prefix into `audit`.
    pub(super) fn keys(&self) -> String {
        self.keys_for("audit")
    }

    /// The same into this bucket.
    pub(super) fn keys_for(&self, bucket: &str) -> String {
        format!(
            "bucket = \"{bucket}\"\nendpoint = \"{}\"\nkey_prefix = \"{}{{origin.cluster}}/{{event:%Y/%m/%d}}/\"\naccess_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n",
            self.url,
            self.prefix()
        )
    }

    /// Such a sink, opened.
    pub(super) fn bench(&self) -> Bench {
        let bench = Bench::new("s3", &self.keys());
        bench.open().expect("open");
        bench
    }
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "t{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::SeqCst)
    )
}

/// A batch as delivery makes it: built record by record, sealed.
pub(super) fn sealed(bench: &Bench, records: &[Record]) -> Batch {
    let mut batch = Batch {
        body: Some(built(bench, records)),
        ..Batch::default()
    };
    batch.seal = Some(bench.sink().seal(&batch).expect("a sealed kind"));
    batch
}

pub(super) fn built(bench: &Bench, records: &[Record]) -> BuiltBody {
    let mut builder = bench.sink().begin_body().expect("a body of its own");
    for record in records {
        builder.push(record).expect("pushed");
    }
    builder.finish().expect("finished")
}

/// The lines are below the prefix, once, in order, and nothing else.
#[track_caller]
pub(super) fn assert_held(target: &Target, lines: &[Vec<u8>]) {
    let held = target.bucket("audit").lines(&target.prefix());
    assert_eq!(held.len(), lines.len());
    assert!(held == lines, "the lines differ");
}

fn key(target: &Target, first: u64, last: u64, extension: &str) -> String {
    format!(
        "{}test-cluster/2026/01/01/test-node-00c0ffee-{first:020}-{last:020}{extension}",
        target.prefix()
    )
}

fn a_batch_is_one_object_named_by_its_records_byte_for_byte(target: &Target) {
    let bench = target.bench();
    let lines = lines(1, 500);
    let all = records(&lines);
    all_delivered(bench.attempt(sealed(&bench, &all)));
    let bucket = target.bucket("audit");
    let name = key(target, 0, 499, ".jsonl.zst");
    assert_eq!(bucket.keys(&target.prefix()), std::slice::from_ref(&name));
    let body = bucket.content(&name);
    let expected: Vec<u8> = lines
        .iter()
        .flat_map(|line| [line.as_slice(), b"\n"].concat())
        .collect();
    assert!(body == expected, "the body is the lines");
    let head = bucket.head(&name);
    let position =
        |record: &Record| format!("{}:{}", record.generation.short(), record.head.offset);
    for (header, value) in [
        ("x-amz-meta-auditship-sha256", hex(&Sha256::digest(&body))),
        ("x-amz-meta-auditship-bytes", body.len().to_string()),
        ("x-amz-meta-auditship-count", "500".to_owned()),
        ("x-amz-meta-auditship-first", position(&all[0])),
        ("x-amz-meta-auditship-last", position(&all[499])),
        (
            "x-amz-meta-auditship-origin",
            "test-cluster/test-node/apiserver".to_owned(),
        ),
        ("x-amz-meta-auditship-label-env", "test".to_owned()),
        ("content-type", "application/zstd".to_owned()),
    ] {
        assert_eq!(head.get(header), Some(&value), "{header}");
    }
}

fn every_compression_gives_the_lines_back(target: &Target) {
    let lines = lines(2, 60);
    for (compression, extension) in [("gzip", ".jsonl.gz"), ("none", ".jsonl")] {
        let bench = Bench::new(
            "s3",
            &format!("{}compression = \"{compression}\"\n", target.keys()),
        );
        bench.open().expect("open");
        all_delivered(bench.attempt(sealed(&bench, &records(&lines))));
        let content = target
            .bucket("audit")
            .content(&key(target, 0, 59, extension));
        assert!(
            content == [lines.join(&b'\n'), b"\n".to_vec()].concat(),
            "{compression}"
        );
    }
}

fn a_resend_is_recognised_by_its_hash(target: &Target) {
    let bench = target.bench();
    let lines = lines(3, 100);
    let all = records(&lines);
    all_delivered(bench.attempt(sealed(&bench, &all)));
    let again = Batch {
        in_doubt: true,
        ..sealed(&bench, &all)
    };
    all_delivered(bench.attempt(again));
    assert_held(target, &lines);
}

fn what_somebody_else_stored_under_our_key_is_alarmed_and_ours_is_stored_beside_it(
    target: &Target,
) {
    let bench = target.bench();
    let lines = lines(4, 10);
    let all = records(&lines);
    let bucket = target.bucket("audit");
    bucket.put(&key(target, 0, 9, ".jsonl.zst"), b"forged");
    let (except, alarms) = delivered(bench.attempt(sealed(&bench, &all)));
    assert_eq!(except, []);
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0].reason, "conflict");
    let second = key(target, 0, 9, "-c.jsonl.zst");
    assert!(bucket.content(&second) == [lines.join(&b'\n'), b"\n".to_vec()].concat());
    // Once more, as after a crash: it is recognised where it is, and nothing is added.
    let (except, _) = delivered(bench.attempt(sealed(&bench, &all)));
    assert_eq!(except, []);
    assert_eq!(bucket.keys(&target.prefix()).len(), 2);
    bucket.put(&second, b"forged too");
    delivered(bench.attempt(sealed(&bench, &all)));
    assert_eq!(
        bucket
            .keys(&target.prefix())
            .iter()
            .filter(|key| key.ends_with("-c2.jsonl.zst"))
            .count(),
        1
    );
}

fn concurrent_attempts_at_one_batch_store_one_object(target: &Target) {
    let bench = target.bench();
    let lines = lines(5, 40);
    let all = records(&lines);
    let batches: Vec<Arc<Batch>> = (0..12).map(|_| Arc::new(sealed(&bench, &all))).collect();
    let outcomes = bench.wait(async {
        let attempts = batches
            .iter()
            .map(|batch| bench.sink().send(Arc::clone(batch)));
        let mut outcomes = Vec::new();
        let mut running: Vec<_> = attempts.collect();
        // All begin before the first is waited for to its end.
        while !running.is_empty() {
            let (outcome, index) = first_of(&mut running).await;
            drop(running.swap_remove(index));
            outcomes.push(outcome);
        }
        outcomes
    });
    assert_eq!(outcomes.len(), 12);
    for outcome in outcomes {
        all_delivered(outcome);
    }
    assert_held(target, &lines);
}

/// The first of some futures that is done, and its index.
async fn first_of<T>(
    running: &mut [std::pin::Pin<Box<dyn Future<Output = T> + Send + '_>>],
) -> (T, usize) {
    std::future::poll_fn(|context| {
        for (index, future) in running.iter_mut().enumerate() {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                return std::task::Poll::Ready((value, index));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn a_seal_is_found_where_its_object_is_and_only_there(target: &Target) {
    let bench = target.bench();
    let all = records(&lines(6, 30));
    let batch = sealed(&bench, &all);
    let seal = batch.seal.clone().expect("sealed");
    assert_eq!(
        seal.target,
        format!("audit/{}", key(target, 0, 29, ".jsonl.zst")).into_bytes()
    );
    let look_up = |seal: &Seal| bench.wait(bench.sink().look_up(seal)).expect("answered");
    assert_eq!(look_up(&seal), Holds::No);
    // Something else is there: ours is not.
    let bucket = target.bucket("audit");
    bucket.put(&key(target, 0, 29, ".jsonl.zst"), b"forged");
    assert_eq!(look_up(&seal), Holds::No);
    delivered(bench.attempt(batch));
    assert_eq!(look_up(&seal), Holds::Yes);
    let other = Seal {
        sha256: [7; 32],
        ..seal.clone()
    };
    assert_eq!(look_up(&other), Holds::No);
    let elsewhere = Seal {
        target: b"another-bucket/key".to_vec(),
        ..seal
    };
    assert_eq!(look_up(&elsewhere), Holds::Unknown);
}

fn a_sealed_batch_keeps_its_key_under_another_prefix(target: &Target) {
    let bench = target.bench();
    let lines = lines(7, 20);
    let all = records(&lines);
    let first = sealed(&bench, &all);
    let seal = first.seal.clone();
    all_delivered(bench.attempt(first));
    let moved = target.keys().replace("{origin.cluster}", "elsewhere");
    let bench = Bench::new("s3", &moved);
    bench.open().expect("open");
    let again = Batch {
        seal,
        in_doubt: true,
        ..sealed(&bench, &all)
    };
    all_delivered(bench.attempt(again));
    assert_held(target, &lines);
}

fn records_without_a_body_are_stored_too(target: &Target) {
    let bench = target.bench();
    let lines = lines(8, 20);
    all_delivered(bench.send(records(&lines)));
    assert_held(target, &lines);
}

fn a_bucket_that_is_missing_stops_the_sink(target: &Target) {
    let bench = Bench::new("s3", &target.keys_for("no-such-bucket"));
    for outcome in [
        bench.open().map(drop).expect_err("not opened"),
        bench.send(records(&lines(9, 2))),
    ] {
        match outcome {
            Outcome::Stop { reason } => {
                assert!(
                    reason.contains("no-such-bucket") && reason.contains("NoSuchBucket"),
                    "{reason}"
                );
            }
            other => panic!("not stopped: {other:?}"),
        }
    }
    let told = bench.connect(false).expect_err("told");
    assert!(told.contains("no-such-bucket"), "{told}");
}

fn a_versioned_bucket_gets_one_version(target: &Target) {
    let bench = Bench::new("s3", &target.keys_for("versioned"));
    bench.open().expect("open");
    let all = records(&lines(10, 20));
    for _ in 0..3 {
        all_delivered(bench.attempt(sealed(&bench, &all)));
        // The probe is written once and stays.
        bench.open().expect("open");
    }
    let bench = Bench::new("s3", &target.keys_for("versioned"));
    bench.open().expect("open");
    assert_eq!(target.bucket("versioned").versions(&target.prefix()), 2);
}

fn retention_is_kept_in_a_bucket_with_object_lock(target: &Target) {
    let keys = format!(
        "{}object_lock = {{ mode = \"governance\", days = 2 }}\n",
        target.keys_for("locked")
    );
    let bench = Bench::new("s3", &keys);
    bench.open().expect("open");
    let all = records(&lines(11, 20));
    all_delivered(bench.attempt(sealed(&bench, &all)));
    all_delivered(bench.attempt(sealed(&bench, &all)));
    let head: BTreeMap<String, String> =
        target
            .bucket("locked")
            .head(&key(target, 0, 19, ".jsonl.zst"));
    assert_eq!(head["x-amz-object-lock-mode"], "GOVERNANCE");
    let until = &head["x-amz-object-lock-retain-until-date"];
    let until: jiff::Timestamp = until
        .parse()
        .unwrap_or_else(|error| panic!("{until}: {error}"));
    let days = (until.as_millisecond() - crate::support::wait::unix_ms()) as f64 / 86_400_000.0;
    assert!((1.9..=2.01).contains(&days), "{days}");
    let lines = bench.connect(true).expect("connected");
    assert!(
        lines.iter().any(|line| line.contains("Object Lock")),
        "{lines:?}"
    );
}

fn retention_without_object_lock_stops_the_sink(target: &Target) {
    let keys = format!(
        "{}object_lock = {{ mode = \"compliance\", days = 1 }}\n",
        target.keys()
    );
    let bench = Bench::new("s3", &keys);
    bench.open().expect("open");
    match bench.send(records(&lines(12, 2))) {
        Outcome::Stop { reason } => assert!(reason.contains("turn on Object Lock"), "{reason}"),
        other => panic!("not stopped: {other:?}"),
    }
    let told = bench.connect(false).expect_err("told");
    assert!(told.contains("Object Lock"), "{told}");
}

fn the_probe_leaves_nothing_where_it_can_be_deleted(target: &Target) {
    target.bench();
    let page = target.bucket("audit").ask(
        "GET",
        "",
        &format!("list-type=2&prefix={}%2F", target.unique),
        b"",
        &[],
    );
    let text = String::from_utf8_lossy(&page.body).into_owned();
    assert!(!text.contains("<Contents>"), "{text}");
}

fn connecting_tells_what_is_there_and_stores_no_event(target: &Target) {
    let bench = Bench::new("s3", &target.keys());
    let lines = bench.connect(true).expect("connected");
    for part in [
        "bucket audit",
        "If-None-Match",
        "may look at objects",
        "may list",
        "nothing to install",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part}: {lines:?}"
        );
    }
    assert_eq!(
        target.bucket("audit").keys(&target.prefix()),
        Vec::<String>::new()
    );
}
