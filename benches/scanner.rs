//! The validating scan of each line of a log, beside the loops that bound it: memchr over the same bytes, and
//! serde_json's walk that keeps nothing.

use std::hint::black_box;

use auditship::event::fields;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod corpus;

fn scanner(criterion: &mut Criterion) {
    let log = corpus::log(1, 32 << 20);
    let lines: Vec<&[u8]> = log
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    eprintln!(
        "{} lines, {} bytes on average",
        lines.len(),
        log.len() / lines.len()
    );
    let mut group = criterion.benchmark_group("scanner");
    group
        .throughput(Throughput::Bytes(log.len() as u64))
        .sample_size(10);
    group.bench_function("memchr, bare", |bencher| {
        bencher.iter(|| memchr::memchr_iter(b'\n', black_box(&log)).count());
    });
    group.bench_function("serde_json IgnoredAny, bare", |bencher| {
        bencher.iter(|| {
            let valid =
                |line: &&&[u8]| serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
            assert_eq!(lines.iter().filter(valid).count(), lines.len());
        });
    });
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let timed = |line: &&&[u8]| fields::scan(line).is_ok_and(|scan| scan.time_us.is_some());
            assert_eq!(lines.iter().filter(timed).count(), lines.len());
        });
    });
    group.bench_function("find objectRef.resource", |bencher| {
        bencher.iter(|| {
            let found = |line: &&&[u8]| fields::find(line, &["objectRef", "resource"]).is_some();
            assert_eq!(lines.iter().filter(found).count(), lines.len());
        });
    });
    group.finish();
}

criterion_group!(benches, scanner);
criterion_main!(benches);
