//! What is written down about a batch before its first send (design D8, R1): its records, where it goes, how it is
//! encoded and the hash of its bytes. After a crash the same batch is sent again, so that the destination can tell.
//!
//! ```text
//! file: 64 slots of 4096 bytes                  24 16  encoder
//!  0  8  magic F5 "ASsea" 0D 0A                  40 32  SHA-256 of the body before compression
//!  8  2  length of the target                    72     target
//! 10  2  ranges of records                              ranges: first u64, count u64
//! 12  4  CRC32C of the rest and of bytes 0 to 11
//! 16  8  sequence
//! ```
//!
//! Invariants: a slot is overwritten only when every record of it lies below the durable cursor, so a torn write costs
//! nothing: the batch that was being sealed was not sent. A newer seal counts before an older one of the same records.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use super::numbers::Numbers;
use crate::durable_fs::{DurableFile, DurableFs};
use crate::sinks::Seal;

const MAGIC: [u8; 8] = *b"\xf5ASsea\r\n";
const SLOT: usize = 4096;
const SLOTS: usize = 64;
const FIXED: usize = 72;

/// Most ranges that the records of one batch may have; a batch that would have more is cut before.
pub(super) const RANGES_MAX: usize = (SLOT - FIXED - Seal::TARGET_MAX) / 16;

/// With no more slots than these free, only the batch that holds the cursor back is sealed.
const FEW: usize = 8;

/// Where a sink's seals are kept.
pub(super) fn seals_path(state_dir: &Path, sink: &str) -> PathBuf {
    state_dir.join("sinks").join(format!("{sink}.seals"))
}

/// The seals of one sink.
pub(super) struct Seals {
    fs: Arc<dyn DurableFs>,
    path: PathBuf,
    file: Option<Box<dyn DurableFile>>,
    /// Behind the last record of each slot; 0: free.
    ends: Vec<u64>,
    sequence: u64,
}

impl Seals {
    /// Opens or makes the file. Blocking.
    pub(super) fn open(fs: Arc<dyn DurableFs>, path: PathBuf) -> io::Result<Seals> {
        let file = open_file(&*fs, &path)?;
        Ok(Seals {
            fs,
            path,
            file: Some(file),
            ends: vec![0; SLOTS],
            sequence: 0,
        })
    }

    /// What was sealed, the newest first. Blocking.
    pub(super) fn read(&mut self) -> io::Result<Vec<(Numbers, Seal)>> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open_file(&*self.fs, &self.path)?,
        };
        let mut bytes = vec![0; SLOTS * SLOT];
        file.read_at(0, &mut bytes)?;
        self.file = Some(file);
        let mut found: Vec<(u64, Numbers, Seal)> = Vec::new();
        for (slot, end) in bytes.chunks_exact(SLOT).zip(&mut self.ends) {
            let sealed = decode(slot);
            if sealed.is_none() && slot.iter().any(|byte| *byte != 0) {
                tracing::warn!(
                    "a seal in {} is damaged: where its batch was sent, it may be sent again as another one",
                    self.path.display()
                );
            }
            *end = sealed.as_ref().and_then(|(_, n, _)| n.end()).unwrap_or(0);
            found.extend(sealed);
        }
        found.sort_by_key(|(sequence, ..)| std::cmp::Reverse(*sequence));
        self.sequence = found.first().map_or(0, |(sequence, ..)| *sequence);
        let found = found.into_iter().map(|(_, records, seal)| (records, seal));
        Ok(found.collect())
    }

    /// Forgets all: the record numbers are those of another spool. Blocking.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_at(0, &vec![0; SLOTS * SLOT])?;
            file.sync()?;
        }
        self.ends = vec![0; SLOTS];
        Ok(())
    }

    /// Whether batches must be closed so that the cursor can move and slots become free.
    pub(super) fn few(&self, cursor: u64) -> bool {
        self.free(cursor).count() <= FEW
    }

    /// Writes a seal down, durably, off the async workers. `cursor`: the durable one.
    pub(super) async fn write(
        &mut self,
        records: &Numbers,
        seal: &Seal,
        cursor: u64,
    ) -> Result<(), String> {
        let Some(slot) = self.free(cursor).next() else {
            return Err(format!(
                "seal a batch in {}: all {SLOTS} slots hold batches beyond the cursor",
                self.path.display()
            ));
        };
        self.sequence += 1;
        let bytes = encode(self.sequence, records, seal)?;
        let (fs, path, file) = (Arc::clone(&self.fs), self.path.clone(), self.file.take());
        let write = move || -> io::Result<Box<dyn DurableFile>> {
            let file = match file {
                Some(file) => file,
                None => open_file(&*fs, &path)?,
            };
            file.write_at((slot * SLOT) as u64, &bytes)?;
            file.sync()?;
            Ok(file)
        };
        let at = |problem: String| format!("seal a batch in {}: {problem}", self.path.display());
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(file)) => {
                self.file = Some(file);
                self.ends[slot] = records.end().unwrap_or(0);
                Ok(())
            }
            // After a failed sync the descriptor is not used again.
            Ok(Err(error)) => Err(at(error.to_string())),
            Err(panic) => Err(at(panic.to_string())),
        }
    }

    fn free(&self, cursor: u64) -> impl Iterator<Item = usize> + '_ {
        let free = move |(slot, end): (usize, &u64)| (*end <= cursor).then_some(slot);
        self.ends.iter().enumerate().filter_map(free)
    }
}

/// Opens the file, or makes it with all its length, so that a write changes no length.
fn open_file(fs: &dyn DurableFs, path: &Path) -> io::Result<Box<dyn DurableFile>> {
    let file = match fs.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(path)?,
        other => other?,
    };
    let len = file.len()?;
    if let Some(missing) = ((SLOTS * SLOT) as u64).checked_sub(len).filter(|n| *n > 0) {
        file.write_at(
            len,
            &vec![0; usize::try_from(missing).unwrap_or(SLOTS * SLOT)],
        )?;
        file.sync()?;
        if let Some(dir) = path.parent() {
            fs.sync_dir(dir)?;
        }
    }
    Ok(file)
}

fn encode(sequence: u64, records: &Numbers, seal: &Seal) -> Result<Vec<u8>, String> {
    let target = u16::try_from(seal.target.len())
        .ok()
        .filter(|len| usize::from(*len) <= Seal::TARGET_MAX)
        .ok_or_else(|| format!("the name of its target has {} bytes", seal.target.len()))?;
    let ranges = u16::try_from(records.range_count())
        .ok()
        .filter(|count| usize::from(*count) <= RANGES_MAX)
        .ok_or_else(|| format!("its records are in {} pieces", records.range_count()))?;
    let mut bytes = Vec::with_capacity(SLOT);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&target.to_le_bytes());
    bytes.extend_from_slice(&ranges.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&seal.encoder);
    bytes.extend_from_slice(&seal.sha256);
    bytes.extend_from_slice(&seal.target);
    for range in records.ranges() {
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&(range.end - range.start).to_le_bytes());
    }
    bytes.resize(SLOT, 0);
    let crc = crc32c_append(crc32c(&bytes[16..]), &bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// `None`: never written, torn, or not what this version writes.
fn decode(slot: &[u8]) -> Option<(u64, Numbers, Seal)> {
    let array = |at: usize| <[u8; 8]>::try_from(slot.get(at..at + 8)?).ok();
    let u64_at = |at: usize| array(at).map(u64::from_le_bytes);
    let u16_at = |at: usize| u16::from_le_bytes([slot[at], slot[at + 1]]);
    let crc = u32::from_le_bytes([slot[12], slot[13], slot[14], slot[15]]);
    if slot[..8] != MAGIC || crc != crc32c_append(crc32c(&slot[16..]), &slot[..12]) {
        return None;
    }
    let target_end = FIXED + usize::from(u16_at(8));
    let mut records = Numbers::default();
    for index in 0..usize::from(u16_at(10)) {
        let at = target_end + index * 16;
        let (first, count) = (u64_at(at)?, u64_at(at + 8)?);
        records.push_range(first..first.checked_add(count)?);
    }
    let seal = Seal {
        target: slot.get(FIXED..target_end)?.to_vec(),
        encoder: slot[24..40].try_into().ok()?,
        sha256: slot[40..72].try_into().ok()?,
    };
    Some((u64_at(16)?, records, seal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable_fs::simulated::{Call, Kept, SimulatedFs};

    const PATH: &str = "/state/sinks/s.seals";

    fn seal(n: u8) -> Seal {
        Seal {
            target: vec![n; usize::from(n) * 6],
            encoder: [n; 16],
            sha256: [n; 32],
        }
    }

    fn fs() -> Arc<SimulatedFs> {
        let fs = Arc::new(SimulatedFs::new());
        fs.create_dir(Path::new("/state/sinks")).unwrap();
        fs
    }

    fn open(fs: &Arc<SimulatedFs>) -> (Seals, Vec<(Numbers, Seal)>) {
        let fs = Arc::clone(fs) as Arc<dyn DurableFs>;
        let mut seals = Seals::open(fs, PATH.into()).unwrap();
        let found = seals.read().unwrap();
        (seals, found)
    }

    fn range(first: u64, end: u64) -> Numbers {
        Numbers::range(first..end)
    }

    #[tokio::test]
    async fn what_was_sealed_comes_back_after_a_power_cut_the_newest_first() {
        let fs = fs();
        let (mut seals, none) = open(&fs);
        assert!(none.is_empty());
        let apart: Numbers = [1, 2, 5, 9].into_iter().collect();
        seals.write(&apart, &seal(1), 0).await.unwrap();
        seals.write(&range(20, 30), &seal(250), 0).await.unwrap();
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        let (_, found) = open(&fs);
        assert_eq!(found, [(range(20, 30), seal(250)), (apart, seal(1))]);
    }

    #[tokio::test]
    async fn a_seal_beyond_the_cursor_is_never_overwritten() {
        let fs = fs();
        let (mut seals, _) = open(&fs);
        for n in 0..SLOTS as u64 {
            assert_eq!(seals.few(0), n >= (SLOTS - FEW) as u64);
            seals.write(&range(n, n + 1), &seal(1), 0).await.unwrap();
        }
        let full = seals.write(&range(100, 101), &seal(1), 0).await;
        assert!(full.unwrap_err().contains("all 64 slots"));
        seals.write(&range(100, 101), &seal(2), 1).await.unwrap();
        let (_, found) = open(&fs);
        assert_eq!(found[0], (range(100, 101), seal(2)));
        assert!(found.iter().all(|(records, _)| *records != range(0, 1)));
    }

    #[tokio::test]
    async fn a_cut_at_any_call_costs_only_the_seal_that_was_being_written() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let fs = fs();
            let (mut seals, _) = open(&fs);
            fs.cut_after(random.u64(0..12));
            let mut written = 0;
            // Each is below the cursor of the next, so slots are used again and again.
            while seals
                .write(&range(written, written + 1), &seal(3), written)
                .await
                .is_ok()
            {
                written += 1;
            }
            let kept = [Kept::None, Kept::All, Kept::Some, Kept::Torn][random.usize(..4)];
            fs.reboot(kept, &mut random);
            let (_, found) = open(&fs);
            let newest = found.first().and_then(|(records, _)| records.end());
            assert!(
                newest.unwrap_or(0) == written || newest == Some(written + 1),
                "seed {seed}: {newest:?} of {written}"
            );
        }
    }

    #[tokio::test]
    async fn after_a_failed_sync_the_seal_is_written_through_a_new_descriptor() {
        let fs = fs();
        let (mut seals, _) = open(&fs);
        fs.fail(Call::Sync, 0, 1, io::ErrorKind::Other);
        assert!(seals.write(&range(0, 5), &seal(1), 0).await.is_err());
        seals.write(&range(0, 5), &seal(1), 0).await.unwrap();
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        assert_eq!(open(&fs).1, [(range(0, 5), seal(1))]);
    }

    #[tokio::test]
    async fn seals_of_another_spool_are_forgotten() {
        let fs = fs();
        let (mut seals, _) = open(&fs);
        seals.write(&range(0, 5), &seal(1), 0).await.unwrap();
        seals.clear().unwrap();
        assert!(open(&fs).1.is_empty());
    }

    #[tokio::test]
    async fn a_flipped_bit_costs_that_seal_alone() {
        let fs = fs();
        let (mut seals, _) = open(&fs);
        seals.write(&range(0, 5), &seal(1), 0).await.unwrap();
        seals.write(&range(5, 9), &seal(2), 0).await.unwrap();
        let good = fs.bytes(Path::new(PATH)).unwrap();
        for byte in 0..120 {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << (byte % 8);
            fs.set_bytes(Path::new(PATH), &bytes);
            assert_eq!(open(&fs).1, [(range(5, 9), seal(2))], "byte {byte}");
        }
    }
}
