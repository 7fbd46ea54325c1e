//! A sink's durable place: a preallocated two-slot record with sequence and CRC, written in place.
//!
//! ```text
//! file: two slots of 8192 bytes                 40  8  delivered
//!  0  8  magic F5 "AScur" 0D 0A                  48  8  not selected
//!  8  2  version, 1                              56  8  dead letter
//! 10  2  length of the mark, all 1: no mark      64  8  replayed
//! 12  4  CRC32C of the rest and of bytes 0 to 11 72  8  gap
//! 16  8  sequence                                80     mark
//! 24  8  cursor
//! 32  8  send limit
//! ```
//!
//! Invariants: a store writes the older slot alone, so a torn write never costs the newer one; the first store writes
//! both, so that from then on an empty slot is damage; two damaged slots are an error, never a zero.

use std::io;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};

use crate::durable_fs::{DurableFile, DurableFs};

const MAGIC: [u8; 8] = *b"\xf5AScur\r\n";
const VERSION: u16 = 1;
/// Two pages: slots never share a sector.
const SLOT: usize = 8192;
const FIXED: usize = 80;
const NO_MARK: u16 = u16::MAX;

/// Everything durable of one sink (design rules R1, R3; the law D12).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorRecord {
    /// The lowest record not confirmed; also how many records the counts below add up to.
    pub cursor: u64,
    /// Nothing at or beyond this record was ever sent.
    pub send_limit: u64,
    /// Stored at the destination.
    pub delivered: u64,
    /// Not for this sink; a new sink's past counts here.
    pub not_selected: u64,
    /// Ever dead-lettered.
    pub dead_letter: u64,
    /// Of those, replayed.
    pub replayed: u64,
    /// In a gap of this sink.
    pub gap: u64,
    /// The sink's own mark, at most 4 KiB.
    pub mark: Option<Vec<u8>>,
}

/// The file that holds it.
pub struct CursorFile {
    file: Box<dyn DurableFile>,
    path: PathBuf,
    /// Sequence of the newest stored record; 0 before the first.
    sequence: u64,
    /// A sync failed: this descriptor says nothing about the disk any more.
    failed: bool,
}

impl CursorFile {
    /// Greatest mark, bytes.
    pub const MARK_MAX: usize = 4096;

    /// Opens or makes the file; the newest whole record in it, if any. Two damaged slots are an error, never a zero.
    pub fn open(fs: &dyn DurableFs, path: &Path) -> io::Result<(CursorFile, Option<CursorRecord>)> {
        let file = match fs.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(path)?,
            other => other?,
        };
        let newest = newest(&*file, path)?;
        let len = file.len()?;
        if let Some(missing) = (2 * SLOT as u64)
            .checked_sub(len)
            .and_then(|n| usize::try_from(n).ok())
        {
            // Preallocated, so that a store changes no length: one write and one sync of data.
            file.write_at(len, &vec![0; missing])?;
        }
        // A killed process may have left a slot, or the file's name, that no sync has covered.
        file.sync()?;
        if let Some(dir) = path.parent() {
            fs.sync_dir(dir)?;
        }
        let (sequence, record) =
            newest.map_or((0, None), |(sequence, record)| (sequence, Some(record)));
        Ok((
            CursorFile {
                file,
                path: path.to_owned(),
                sequence,
                failed: false,
            },
            record,
        ))
    }

    /// Reads without changing anything (for `status`).
    pub fn peek(fs: &dyn DurableFs, path: &Path) -> io::Result<Option<CursorRecord>> {
        match fs.open_read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(newest(&*other?, path)?.map(|(_, record)| record)),
        }
    }

    /// Writes the record to the older slot and syncs. After an error the file must be opened again.
    pub fn store(&mut self, record: &CursorRecord) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(format!(
                "cursor {} failed before: open it again",
                self.path.display()
            )));
        }
        if record
            .mark
            .as_ref()
            .is_some_and(|mark| mark.len() > Self::MARK_MAX)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the mark is longer than 4 KiB",
            ));
        }
        let first = self.sequence == 0;
        self.failed = true;
        self.store_slot(record)?;
        if first {
            self.store_slot(record)?;
        }
        self.failed = false;
        Ok(())
    }

    fn store_slot(&mut self, record: &CursorRecord) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file
            .write_at(slot_offset(sequence), &encode(sequence, record))?;
        self.file.sync()?;
        self.sequence = sequence;
        Ok(())
    }
}

fn slot_offset(sequence: u64) -> u64 {
    sequence % 2 * SLOT as u64
}

/// What one slot holds.
enum Slot {
    Empty,
    Whole(u64, CursorRecord),
    Damaged,
    Newer(u16),
}

fn newest(file: &dyn DurableFile, path: &Path) -> io::Result<Option<(u64, CursorRecord)>> {
    let mut bytes = vec![0; 2 * SLOT];
    file.read_at(0, &mut bytes)?;
    let (one, two) = bytes.split_at(SLOT);
    let path = path.display();
    match (decode(one), decode(two)) {
        (Slot::Newer(version), _) | (_, Slot::Newer(version)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "cursor {path} has version {version}, this agent knows up to {VERSION}: use a newer auditship"
            ),
        )),
        (Slot::Whole(a, one), Slot::Whole(b, two)) => {
            Ok(Some(if a > b { (a, one) } else { (b, two) }))
        }
        (Slot::Whole(a, one), _) | (_, Slot::Whole(a, one)) => Ok(Some((a, one))),
        // Never stored, or the power went during the first store, which writes one slot after the other.
        (Slot::Empty, _) | (_, Slot::Empty) => Ok(None),
        (Slot::Damaged, Slot::Damaged) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "cursor {path} is damaged in both slots: move the file away to let the sink begin at the oldest \
                 record still spooled; its destination may be sent records again"
            ),
        )),
    }
}

fn encode(sequence: u64, record: &CursorRecord) -> Vec<u8> {
    let mark = record.mark.as_deref();
    let mark_len = mark.map_or(NO_MARK, |mark| {
        u16::try_from(mark.len()).expect("checked by store")
    });
    let mut bytes = Vec::with_capacity(FIXED + CursorFile::MARK_MAX);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&mark_len.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for field in [
        sequence,
        record.cursor,
        record.send_limit,
        record.delivered,
        record.not_selected,
        record.dead_letter,
        record.replayed,
        record.gap,
    ] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(mark.unwrap_or_default());
    let crc = crc32c_append(crc32c(&bytes[16..]), &bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Slot {
    let u16_at = |at: usize| u16::from_le_bytes([slot[at], slot[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if slot[..FIXED].iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let mark_len = u16_at(10);
    let mark_end = FIXED
        + if mark_len == NO_MARK {
            0
        } else {
            usize::from(mark_len)
        };
    if slot[..8] != MAGIC || mark_end > FIXED + CursorFile::MARK_MAX {
        return Slot::Damaged;
    }
    if u32_at(12) != crc32c_append(crc32c(&slot[16..mark_end]), &slot[..12]) {
        return Slot::Damaged;
    }
    if u16_at(8) != VERSION {
        return Slot::Newer(u16_at(8));
    }
    let record = CursorRecord {
        cursor: u64_at(24),
        send_limit: u64_at(32),
        delivered: u64_at(40),
        not_selected: u64_at(48),
        dead_letter: u64_at(56),
        replayed: u64_at(64),
        gap: u64_at(72),
        mark: (mark_len != NO_MARK).then(|| slot[FIXED..mark_end].to_vec()),
    };
    Slot::Whole(u64_at(16), record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable_fs::simulated::{Call, Kept, SimulatedFs};

    const PATH: &str = "/state/cursor";

    fn fs() -> SimulatedFs {
        let fs = SimulatedFs::new();
        fs.create_dir(Path::new("/state")).unwrap();
        fs
    }

    fn at(cursor: u64) -> CursorRecord {
        let mark = (cursor % 2 == 1).then(|| vec![7; cursor as usize * 100]);
        CursorRecord {
            cursor,
            send_limit: cursor + 10,
            delivered: cursor,
            mark,
            ..CursorRecord::default()
        }
    }

    #[test]
    fn the_newest_record_comes_back_after_a_power_cut() {
        let fs = fs();
        let (mut file, none) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        assert_eq!(none, None);
        for n in 1..=5 {
            file.store(&at(n)).unwrap();
            fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(n));
            assert_eq!(CursorFile::peek(&fs, Path::new(PATH)).unwrap(), Some(at(n)));
            let (opened, record) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
            assert_eq!(record, Some(at(n)));
            file = opened;
        }
    }

    #[test]
    fn a_cut_at_any_call_leaves_the_last_stored_record_or_the_one_being_stored() {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let fs = fs();
            fs.cut_after(random.u64(0..30));
            let mut stored = 0;
            if let Ok((mut file, _)) = CursorFile::open(&fs, Path::new(PATH)) {
                while file.store(&at(stored + 1)).is_ok() {
                    stored += 1;
                }
            }
            let kept = [Kept::None, Kept::All, Kept::Some, Kept::Torn][random.usize(..4)];
            fs.reboot(kept, &mut random);
            let found = CursorFile::open(&fs, Path::new(PATH))
                .unwrap()
                .1
                .map_or(0, |record| record.cursor);
            assert!(
                found == stored || found == stored + 1,
                "seed {seed}: {found} after {stored}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_costs_at_most_one_slot() {
        let fs = fs();
        let (mut file, _) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        file.store(&at(3)).unwrap();
        file.store(&at(4)).unwrap();
        let good = fs.bytes(Path::new(PATH)).unwrap();
        for byte in (0..FIXED + 300).chain(SLOT..SLOT + FIXED + 300) {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << (byte % 8);
            fs.set_bytes(Path::new(PATH), &bytes);
            let found = CursorFile::peek(&fs, Path::new(PATH)).unwrap().unwrap();
            assert!(found == at(3) || found == at(4), "byte {byte}: {found:?}");
        }
    }

    #[test]
    fn two_damaged_slots_are_an_error_that_says_what_to_do() {
        let fs = fs();
        let (mut file, _) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        file.store(&at(1)).unwrap();
        let mut bytes = fs.bytes(Path::new(PATH)).unwrap();
        bytes[20] ^= 1;
        bytes[SLOT + 20] ^= 1;
        fs.set_bytes(Path::new(PATH), &bytes);
        let error = CursorFile::open(&fs, Path::new(PATH))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("/state/cursor") && error.contains("move the file away"),
            "{error}"
        );
    }

    #[test]
    fn after_a_failed_sync_the_file_must_be_opened_again() {
        let fs = fs();
        let (mut file, _) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        file.store(&at(1)).unwrap();
        fs.fail(Call::Sync, 0, 1, io::ErrorKind::Other);
        assert!(file.store(&at(2)).is_err());
        assert!(file.store(&at(3)).is_err());
        let (mut file, _) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        file.store(&at(4)).unwrap();
        fs.reboot(Kept::None, &mut fastrand::Rng::with_seed(1));
        assert_eq!(CursorFile::peek(&fs, Path::new(PATH)).unwrap(), Some(at(4)));
    }

    #[test]
    fn a_mark_beyond_its_limit_is_refused_and_changes_nothing() {
        let fs = fs();
        let (mut file, _) = CursorFile::open(&fs, Path::new(PATH)).unwrap();
        file.store(&at(1)).unwrap();
        let long = CursorRecord {
            mark: Some(vec![0; CursorFile::MARK_MAX + 1]),
            ..at(2)
        };
        assert!(file.store(&long).is_err());
        file.store(&at(5)).unwrap();
        assert_eq!(CursorFile::peek(&fs, Path::new(PATH)).unwrap(), Some(at(5)));
    }
}
