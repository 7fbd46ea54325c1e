//! The spool as its users see it, on a simulated disk.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::{ManualClock, Micros};
use crate::durable_fs::simulated::SimulatedFs;

mod basics;

mod damage;

mod faults;

mod format;

mod inspection;

mod model;

mod retention;

pub(super) const DIR: &str = "/state/spool";

/// A spool on a disk that can fail.
pub(super) struct Bench {
    pub(super) fs: SimulatedFs,
    pub(super) clock: Arc<ManualClock>,
    pub(super) options: Options,
}

impl Bench {
    pub(super) fn new() -> Self {
        let options = Options {
            dir: DIR.into(),
            max_bytes: 1 << 30,
            min_free: 0,
            compress: true,
            segment_bytes: 1 << 20,
            memory_bytes: 0,
        };
        Bench {
            fs: SimulatedFs::new(),
            clock: Arc::new(ManualClock::at(Micros(1_000_000))),
            options,
        }
    }

    pub(super) fn open(&self, confirmed: u64) -> Result<(Spool, Recovered), OpenError> {
        Spool::open(
            Arc::new(self.fs.clone()),
            self.clock.clone(),
            self.options.clone(),
            confirmed,
        )
    }

    /// Segment files, oldest first.
    pub(super) fn segments(&self) -> Vec<std::path::PathBuf> {
        let mut paths = self.fs.paths();
        paths.retain(|path| {
            path.parent() == Some(Path::new(DIR)) && path.extension().is_some_and(|e| e == "seg")
        });
        paths
    }

    /// Names in a directory of the spool.
    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        let dir = Path::new(DIR).join(dir);
        let paths = self.fs.paths();
        let names = paths.iter().filter(|path| path.parent() == Some(&dir));
        names
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }
}

/// A payload of one record for each body.
pub(super) fn payload(bodies: &[&[u8]]) -> Vec<u8> {
    let mut payload = Vec::new();
    for body in bodies {
        record::push(&mut payload, b"head", body);
    }
    payload
}

/// The bodies of a block.
pub(super) fn bodies(block: &Block) -> Vec<Vec<u8>> {
    record::iter(&block.payload)
        .map(|record| block.payload[record.unwrap().1].to_vec())
        .collect()
}

/// A data block of key "origin".
pub(super) fn data<'a>(payload: &'a [u8], count: u32, state: &'a [u8]) -> Append<'a> {
    Append {
        anew: false,
        kind: BlockKind::Data,
        key: b"origin",
        state,
        note: b"span",
        count,
        payload,
    }
}

/// Appends one block of these bodies.
pub(super) fn append(
    spool: &mut Spool,
    bodies: &[&[u8]],
    state: &[u8],
) -> Result<Appended, AppendError> {
    let payload = payload(bodies);
    spool.append(&[data(&payload, bodies.len() as u32, state)])
}
