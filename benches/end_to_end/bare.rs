//! The same work as the agent's with nothing around it: read, frame, validating scan, two SHA-256, zstd 1, CRC32C,
//! fdatasync, and for the sinks encode, compress, send. One thread, one pass, buffers used again.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::Work;
use crate::process::{self, Usage};

const BLOCK: usize = 1 << 20;
const SYNC_EVERY: usize = 6 << 20;
const BATCH: usize = 5 << 20;

/// Runs the loop in a child on `core`. With `steps`, the time of each step is taken too, which slows it.
pub(crate) fn measure(
    work: Work,
    log: &Path,
    dir: &Path,
    port: u16,
    core: usize,
    steps: bool,
) -> Result<Usage, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([if steps { "steps" } else { "bare" }, work.name()])
        .arg(log)
        .arg(dir)
        .arg(port.to_string());
    process::run(&mut command, core)
}

/// The figures of the last run with `steps`.
pub(crate) fn steps(dir: &Path) -> Result<String, Box<dyn Error>> {
    Ok(fs::read_to_string(dir.join("bare-steps"))?)
}

/// The loop itself.
pub(crate) fn run(
    work: Work,
    log: &Path,
    dir: &Path,
    port: u16,
    steps: bool,
) -> Result<(), Box<dyn Error>> {
    let mut bare = Bare::new(work, dir, port)?;
    bare.clock.on = steps;
    let mut file = File::open(log)?;
    let mut buffer = Vec::with_capacity(2 * BLOCK);
    let mut chunk = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        let read = bare.clock.time(Step::Read, || file.read(&mut chunk))?;
        if read == 0 {
            break;
        }
        buffer.extend_from_slice(&chunk[..read]);
        let mut start = 0;
        while let Some(at) = memchr::memchr(b'\n', &buffer[start..]) {
            bare.line(&buffer[start..start + at], offset)?;
            offset += at as u64 + 1;
            start += at + 1;
        }
        buffer.drain(..start);
    }
    bare.finish()?;
    if steps {
        fs::write(dir.join("bare-steps"), bare.clock.figures(offset))?;
    }
    Ok(())
}

struct Bare {
    work: Work,
    clock: Steps,
    spool: File,
    block: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    unsynced: usize,
    body: Vec<u8>,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    url: String,
}

impl Bare {
    fn new(work: Work, dir: &Path, port: u16) -> Result<Self, Box<dyn Error>> {
        Ok(Bare {
            work,
            clock: Steps::default(),
            spool: File::create(dir.join("bare-spool"))?,
            block: Vec::with_capacity(2 * BLOCK),
            compressor: zstd::bulk::Compressor::new(1)?,
            unsynced: 0,
            body: Vec::with_capacity(BATCH + BLOCK),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            client: reqwest::Client::new(),
            url: format!("http://127.0.0.1:{port}/_bulk"),
        })
    }

    fn line(&mut self, line: &[u8], offset: u64) -> Result<(), Box<dyn Error>> {
        self.clock.time(Step::Scan, || {
            serde_json::from_slice::<serde::de::IgnoredAny>(line)
        })?;
        let (hash, id) = self.clock.time(Step::Hash, || {
            let hash: [u8; 32] = Sha256::digest(line).into();
            let id: [u8; 32] = Sha256::new()
                .chain_update(b"ev1\nc/n/s\n")
                .chain_update([0; 32])
                .chain_update(offset.to_le_bytes())
                .chain_update(hash)
                .finalize()
                .into();
            (hash, id)
        });
        self.block.extend_from_slice(&id[..16]);
        self.block.extend_from_slice(&hash);
        self.block.extend_from_slice(line);
        if self.block.len() >= BLOCK {
            self.store()?;
        }
        if self.work != Work::Spool {
            self.encode(line, &hash, &id)?;
        }
        Ok(())
    }

    fn store(&mut self) -> Result<(), Box<dyn Error>> {
        let crc = crc32c::crc32c(&self.block);
        let compressed = self
            .clock
            .time(Step::Zstd, || self.compressor.compress(&self.block))?;
        self.spool.write_all(&crc.to_le_bytes())?;
        self.spool.write_all(&compressed)?;
        self.unsynced += self.block.len();
        self.block.clear();
        if self.unsynced >= SYNC_EVERY {
            self.spool.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn encode(
        &mut self,
        line: &[u8],
        hash: &[u8; 32],
        id: &[u8; 32],
    ) -> Result<(), Box<dyn Error>> {
        let id = hex(&id[..16]);
        let hash = hex(hash);
        let body = &mut self.body;
        body.extend_from_slice(br#"{"create":{"_id":""#);
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(
            b"\"}}\n{\"@timestamp\":\"2026-01-01T00:00:00.000000Z\",\"event\":{\"id\":\"",
        );
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(br#"","kind":"event","hash":""#);
        body.extend_from_slice(hash.as_bytes());
        body.extend_from_slice(br#""},"orchestrator":{"cluster":{"name":"c"}},"host":{"name":"n"},"kubernetes":{"audit":"#);
        body.extend_from_slice(line);
        body.extend_from_slice(b"}}\n");
        if body.len() >= BATCH {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/x-ndjson");
        if self.work == Work::Gzip {
            let body = &self.body;
            let packed = self.clock.time(Step::Gzip, || {
                let mut encoder = flate2::write::GzEncoder::new(
                    Vec::with_capacity(BATCH / 2),
                    flate2::Compression::new(1),
                );
                encoder.write_all(body)?;
                encoder.finish()
            })?;
            request = request.header("content-encoding", "gzip").body(packed);
        } else {
            request = request.body(self.body.clone());
        }
        self.body.clear();
        self.runtime.block_on(async {
            let answer = request.send().await?.bytes().await?;
            serde_json::from_slice::<serde_json::Value>(&answer)?;
            Ok::<(), Box<dyn Error>>(())
        })
    }

    fn finish(&mut self) -> Result<(), Box<dyn Error>> {
        self.store()?;
        self.spool.sync_data()?;
        if !self.body.is_empty() {
            self.send()?;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[derive(Clone, Copy)]
enum Step {
    Read,
    Scan,
    Hash,
    Zstd,
    Gzip,
}

/// Seconds by step. Off in the runs that the agent is compared with: looking at the clock for each line costs time.
#[derive(Default)]
struct Steps {
    on: bool,
    seconds: [f64; 5],
}

impl Steps {
    fn time<T>(&mut self, step: Step, work: impl FnOnce() -> T) -> T {
        if !self.on {
            return work();
        }
        let began = Instant::now();
        let result = work();
        self.seconds[step as usize] += began.elapsed().as_secs_f64();
        result
    }

    fn figures(&self, bytes: u64) -> String {
        ["read", "scan", "two SHA-256", "zstd 1", "gzip 1"]
            .iter()
            .zip(self.seconds)
            .filter(|(_, seconds)| *seconds > 0.0)
            .map(|(name, seconds)| format!("{name} {:.0}", bytes as f64 / 1e6 / seconds))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
