//! A child process on one core, and what it used.

use std::error::Error;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What a process used from start to end.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) wall_seconds: f64,
    pub(crate) peak_rss_bytes: u64,
    /// Bytes it caused to be written to the disk.
    pub(crate) written_bytes: u64,
}

/// Children started while the value lives run on `core` alone.
pub(crate) struct Pinned {
    before: rustix::thread::CpuSet,
}

impl Pinned {
    pub(crate) fn to(core: usize) -> Result<Self, Box<dyn Error>> {
        let before = rustix::thread::sched_getaffinity(None)?;
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            println!("not pinned to core {core}: {error}");
        }
        Ok(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = rustix::thread::sched_setaffinity(None, &self.before) {
            println!("not unpinned: {error}");
        }
    }
}

/// Runs a command on one core to its end.
pub(crate) fn run(command: &mut Command, core: usize) -> Result<Usage, Box<dyn Error>> {
    let began = Instant::now();
    let mut child = {
        let _pinned = Pinned::to(core)?;
        command.spawn()?
    };
    let mut peak_rss_bytes = 0;
    let mut written_bytes = 0;
    // A process that has ended but was not waited for still shows its times.
    while !ended(&child)? {
        peak_rss_bytes = peak_rss_bytes.max(field(&child, "status", "VmHWM:").unwrap_or(0) * 1024);
        written_bytes = field(&child, "io", "write_bytes:").unwrap_or(written_bytes);
        std::thread::sleep(Duration::from_millis(5));
    }
    let wall_seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = cpu_seconds(&child)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(Usage {
        cpu_seconds,
        wall_seconds,
        peak_rss_bytes,
        written_bytes,
    })
}

/// Fields of `/proc/<pid>/stat` behind the command's name, which may hold spaces.
fn stat(child: &Child) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let fields = text.rsplit_once(')').ok_or("no command in stat")?.1;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

fn ended(child: &Child) -> Result<bool, Box<dyn Error>> {
    Ok(stat(child)?.first().is_some_and(|state| state == "Z"))
}

fn cpu_seconds(child: &Child) -> Result<f64, Box<dyn Error>> {
    let fields = stat(child)?;
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .ok_or("no time in stat")
    };
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11)? + ticks(12)?) / per_second)
}

fn field(child: &Child, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", child.id())).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
