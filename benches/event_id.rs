//! Line hash and event id of each line of a log, beside SHA-256 over the same lines.

use auditship::event::{Generation, IdPrefix, LineHash, Origin};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

mod corpus;

fn event_id(criterion: &mut Criterion) {
    let log = corpus::log(3, 8 << 20);
    let lines: Vec<&[u8]> = log
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let origin = Origin {
        cluster: "prod-tokyo".into(),
        node: "cp-1".into(),
        source: "apiserver".into(),
    };
    let prefix = IdPrefix::new(&origin, &Generation::of_first_line(lines[0]));
    let mut group = criterion.benchmark_group("event_id");
    group
        .throughput(Throughput::Bytes(log.len() as u64))
        .sample_size(10);
    group.bench_function("sha256 of each line, bare", |bencher| {
        bencher.iter(|| {
            lines
                .iter()
                .map(|line| Sha256::digest(line)[0])
                .fold(0, u8::wrapping_add)
        });
    });
    group.bench_function("line hash and id", |bencher| {
        bencher.iter(|| {
            let id = |line: &&[u8]| prefix.id(line.len() as u64, &LineHash::of(line)).0[0];
            lines.iter().map(id).fold(0, u8::wrapping_add)
        });
    });
    group.finish();
}

criterion_group!(benches, event_id);
criterion_main!(benches);
