//! Appending to the spool against a bare loop of the same work in the same run: zstd 1, CRC32C, one write and one
//! fdatasync for each block of 1 MiB.
//!
//! `cargo bench --bench spool`; the budget is a ratio of at least 0.8. Both write to the
//! directory that `SPOOL_BENCH_DIR` names, else to the temporary one, which must not be in memory.
#![expect(
    clippy::disallowed_methods,
    reason = "the bare loop syncs as durable_fs does"
)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use auditship::clock::SystemClock;
use auditship::durable_fs::SystemFs;
use auditship::spool::{Append, BlockKind, Options, Spool, record};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOCK: usize = 1 << 20;
/// Where the bare loop begins its file anew: a segment.
const SEGMENT: u64 = 64 << 20;

/// A block of lines as long and as repetitive as audit events are.
fn payload() -> (Vec<u8>, u32) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut payload = Vec::with_capacity(BLOCK + 4096);
    let mut count = 0;
    while payload.len() < BLOCK {
        let name = format!("pod-{:08x}", random.u32(..));
        let id = random.u128(..);
        let labels: String = (0..12)
            .map(|n| format!("\"label-{n}\":\"{:x}\",", random.u32(..9_000)))
            .collect();
        let line = format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"{id:032x}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/kube-system/pods/{name}","verb":"patch","user":{{"username":"system:serviceaccount:kube-system:deployment-controller","groups":["system:serviceaccounts","system:authenticated"]}},"sourceIPs":["10.0.{}.{}"],"objectRef":{{"resource":"pods","namespace":"kube-system","name":"{name}","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestObject":{{"metadata":{{"labels":{{{labels}"x":"y"}}}}}},"requestReceivedTimestamp":"2026-01-02T03:04:05.{:06}Z"}}"#,
            random.u8(..),
            random.u8(..),
            random.u32(..1_000_000)
        );
        record::push(&mut payload, &[0; 64], line.as_bytes());
        count += 1;
    }
    (payload, count)
}

fn dir() -> PathBuf {
    std::env::var_os("SPOOL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn append(criterion: &mut Criterion) {
    let (payload, count) = payload();
    let mut group = criterion.benchmark_group("append 1 MiB durably");
    group.throughput(Throughput::Bytes(payload.len() as u64));

    let home = tempfile::tempdir_in(dir()).expect("a directory to write in");
    let path = home.path().join("bare");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("create a file");
    let mut zstd = zstd::bulk::Compressor::new(1).expect("a compression context");
    let mut stored = Vec::with_capacity(zstd::zstd_safe::compress_bound(payload.len()));
    let mut offset = 0;
    group.bench_function("bare loop", |bencher| {
        bencher.iter(|| {
            zstd.compress_to_buffer(&payload, &mut stored)
                .expect("compress");
            black_box(crc32c::crc32c(&payload));
            file.write_all_at(&stored, offset).expect("write");
            file.sync_data().expect("sync");
            offset += stored.len() as u64;
            if offset > SEGMENT {
                file.set_len(0).expect("cut");
                offset = 0;
            }
        });
    });

    let options = Options {
        dir: home.path().join("spool"),
        max_bytes: u64::MAX,
        min_free: 0,
        compress: true,
        segment_bytes: SEGMENT,
        memory_bytes: 8 << 20,
    };
    let (mut spool, _) = Spool::open(Arc::new(SystemFs), Arc::new(SystemClock::new()), options, 0)
        .expect("open a spool");
    group.bench_function("spool", |bencher| {
        bencher.iter(|| {
            let block = Append {
                anew: false,
                kind: BlockKind::Data,
                key: b"cluster/node/source",
                state: &[0; 200],
                note: &[0; 48],
                count,
                payload: &payload,
            };
            let appended = spool.append(&[block]).expect("append");
            spool.release(appended.next_record).expect("release");
        });
    });
    group.finish();
}

/// A start with as many segments as 50 GB have, the last of them full: the budget is 100 ms.
fn open(criterion: &mut Criterion) {
    let (payload, count) = payload();
    let home = tempfile::tempdir_in(dir()).expect("a directory to write in");
    let mut options = Options {
        dir: home.path().to_owned(),
        max_bytes: u64::MAX,
        min_free: 0,
        compress: true,
        segment_bytes: 1,
        memory_bytes: 0,
    };
    let start = |options: &Options| {
        Spool::open(
            Arc::new(SystemFs),
            Arc::new(SystemClock::new()),
            options.clone(),
            0,
        )
        .expect("open a spool")
        .0
    };
    let block = |payload, count| Append {
        anew: false,
        kind: BlockKind::Data,
        key: b"cluster/node/source",
        state: &[0; 200],
        note: &[0; 48],
        count,
        payload,
    };
    let mut one = Vec::new();
    record::push(&mut one, b"head", b"line");
    let mut spool = start(&options);
    for _ in 0..800 {
        spool.append(&[block(&one, 1)]).expect("append");
    }
    drop(spool);
    options.segment_bytes = SEGMENT;
    let mut spool = start(&options);
    let blocks: Vec<_> = (0..8).map(|_| block(&payload, count)).collect();
    let mut written = 0;
    while written < SEGMENT {
        written += spool.append(&blocks).expect("append").written_bytes;
    }
    drop(spool);
    criterion.bench_function("open 801 segments", |bencher| {
        bencher.iter(|| start(&options));
    });
}

criterion_group!(benches, append, open);
criterion_main!(benches);
