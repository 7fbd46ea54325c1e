//! The whole way of an event, measured: the agent pinned to one core, a compiled sink to another, beside a bare loop
//! of the same work in the same run. Prints MB/s per CPU-second, wall MB/s and peak RSS.
//!
//! `cargo bench --bench end_to_end` (`AUDITSHIP_BENCH_MIB`, default 256, sets the size of the log). Ratios are what
//! counts: machines are noisy. Beside them stand the bare loop's own figures for each step, and what `openssl speed`,
//! `zstd -b1` and `gzip -1` do on the same machine, so that a slow loop cannot flatter the agent.

#![expect(
    clippy::disallowed_methods,
    reason = "it measures real time and does the bare work itself"
)]

mod agent;
mod bare;
#[path = "../corpus/mod.rs"]
mod corpus;
mod process;
mod sink;
mod tools;

use std::error::Error;
use std::fs;
use std::path::Path;

/// What is done with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Read, frame, scan, hash, durable spool.
    Spool,
    /// … and Elasticsearch bulk, uncompressed.
    Plain,
    /// … and Elasticsearch bulk, gzip level 1.
    Gzip,
}

impl Work {
    const ALL: [Work; 3] = [Work::Spool, Work::Plain, Work::Gzip];

    fn name(self) -> &'static str {
        match self {
            Work::Spool => "spool",
            Work::Plain => "plain",
            Work::Gzip => "gzip",
        }
    }

    fn budget(self) -> f64 {
        match self {
            Work::Spool | Work::Plain => 0.80,
            Work::Gzip => 0.85,
        }
    }
}

/// Core of the agent and of the bare loop.
const WORK_CORE: usize = 0;
/// Core of the sink.
const SINK_CORE: usize = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["sink"] => sink::serve(),
        [how @ ("bare" | "steps"), work, log, dir, port] => {
            let work = Work::ALL
                .into_iter()
                .find(|w| w.name() == *work)
                .ok_or("no such work")?;
            bare::run(
                work,
                Path::new(log),
                Path::new(dir),
                port.parse()?,
                *how == "steps",
            )
        }
        // `cargo test --benches` passes other arguments: nothing to measure then.
        [] => measure(),
        _ => Ok(()),
    }
}

fn measure() -> Result<(), Box<dyn Error>> {
    let mib: usize = std::env::var("AUDITSHIP_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(256);
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("audit.log");
    fs::write(&log, corpus::log(42, mib << 20))?;
    let bytes = fs::metadata(&log)?.len();
    println!(
        "{} MB of audit events, agent on core {WORK_CORE}, sink on core {SINK_CORE}",
        bytes / 1_000_000
    );
    println!();
    println!(
        "| work | agent MB/s per CPU-s | bare loop | ratio | budget | agent wall MB/s | agent peak RSS MiB | disk written / read |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let server = sink::Process::start(SINK_CORE)?;
    for work in Work::ALL {
        let bare = bare::measure(work, &log, dir.path(), server.port(), WORK_CORE, false)?;
        let agent = agent::measure(work, &log, dir.path(), server.port(), WORK_CORE)?;
        let per_cpu = |usage: &process::Usage| bytes as f64 / 1e6 / usage.cpu_seconds;
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.1} | {:.2} |",
            work.name(),
            per_cpu(&agent),
            per_cpu(&bare),
            per_cpu(&agent) / per_cpu(&bare),
            work.budget(),
            bytes as f64 / 1e6 / agent.wall_seconds,
            agent.peak_rss_bytes as f64 / (1 << 20) as f64,
            agent.written_bytes as f64 / bytes as f64,
        );
    }
    bare::measure(Work::Gzip, &log, dir.path(), server.port(), WORK_CORE, true)?;
    println!(
        "\nThe bare loop's own steps, MB/s: {}",
        bare::steps(dir.path())?
    );
    tools::print(&log);
    Ok(())
}
