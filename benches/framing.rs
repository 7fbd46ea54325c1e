//! A log in chunks of 256 KiB through the framer (which validates each line), beside memchr over the same chunks.

use std::hint::black_box;

use auditship::framing::lines::{Framed, Framer};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod corpus;

const CHUNK: usize = 256 << 10;

fn framing(criterion: &mut Criterion) {
    let log = corpus::log(2, 32 << 20);
    let mut group = criterion.benchmark_group("framing");
    group
        .throughput(Throughput::Bytes(log.len() as u64))
        .sample_size(10);
    group.bench_function("memchr, bare", |bencher| {
        let lines = |chunk: &[u8]| memchr::memchr_iter(b'\n', black_box(chunk)).count();
        bencher.iter(|| log.chunks(CHUNK).map(lines).sum::<usize>());
    });
    group.bench_function("frame and scan", |bencher| {
        bencher.iter(|| {
            let mut framer = Framer::new(4 << 20, 0);
            let mut bytes_out = 0;
            for chunk in log.chunks(CHUNK) {
                framer.push(chunk, &mut |framed| {
                    if let Framed::Line { bytes, .. } = framed {
                        bytes_out += bytes.len() + 1;
                    }
                    true
                });
            }
            assert_eq!(bytes_out, log.len());
        });
    });
    group.finish();
}

criterion_group!(benches, framing);
criterion_main!(benches);
