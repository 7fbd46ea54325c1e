//! A segment's file: its name, its header, and the walk from block to block.
//!
//! The walk reads headers only and believes their lengths; where there is none it looks for the next one by its
//! magic, and reports what it stepped over. It neither allocates for what it reads nor changes anything.

use std::io;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use super::block::{self, HEADER_LEN, Header, Identity, Meta, RunningCrc};
use crate::durable_fs::{DurableFile, DurableFs, Listed};

const MAGIC: [u8; 8] = *b"\xf5ASspl\r\n";
/// The format this agent writes; it reads this one and none above.
pub(super) const FORMAT: u32 = 1;
/// Bytes before the first block.
pub(super) const SEGMENT_HEADER_LEN: u64 = 80;
/// Bytes read at once where a whole block need not be in memory.
const CHUNK: usize = 256 << 10;

/// What the first bytes of a segment say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Whose it is.
    pub(super) identity: Identity,
    /// The next record when it was made.
    pub(super) first: u64,
    /// The segment before it, `None` for the first of a spool.
    pub(super) previous: Option<u64>,
    /// Acknowledged bytes of the segment before it; what lies behind them there was never acknowledged.
    pub(super) previous_len: u64,
    /// Oldest segment with pieces of a record that was unfinished when this one was made; its own number if none.
    pub(super) oldest_pieces: u64,
    /// When it was made.
    pub(super) created_us: i64,
}

/// Why a segment header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderProblem {
    /// Made by a newer version: its format.
    Newer(u32),
    /// Not what any version wrote.
    Damaged(&'static str),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_LEN as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for field in [
            self.identity.spool,
            self.identity.segment,
            self.first,
            self.previous.unwrap_or(u64::MAX),
            self.previous_len,
            self.oldest_pieces,
            self.created_us.cast_unsigned(),
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 4]);
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of `file`.
    pub(super) fn read(file: &dyn DurableFile) -> io::Result<Result<SegmentHeader, HeaderProblem>> {
        let mut bytes = [0; SEGMENT_HEADER_LEN as usize];
        let read = file.read_at(0, &mut bytes)?;
        Ok(if read < bytes.len() {
            Err(HeaderProblem::Damaged("segment header is cut off"))
        } else {
            SegmentHeader::parse(&bytes)
        })
    }

    fn parse(bytes: &[u8; SEGMENT_HEADER_LEN as usize]) -> Result<SegmentHeader, HeaderProblem> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(HeaderProblem::Damaged("no segment begins here"));
        }
        let end = bytes.len() - 4;
        if u32_at(end) != crc32c(&bytes[..end]) {
            return Err(HeaderProblem::Damaged("segment header fails its checksum"));
        }
        // Magic, version and the checksum's place stay as they are in every later format.
        if u32_at(8) != FORMAT {
            return Err(HeaderProblem::Newer(u32_at(8)));
        }
        let previous = u64_at(40);
        Ok(SegmentHeader {
            identity: Identity {
                spool: u64_at(16),
                segment: u64_at(24),
            },
            first: u64_at(32),
            previous: (previous != u64::MAX).then_some(previous),
            previous_len: u64_at(48),
            oldest_pieces: u64_at(56),
            created_us: u64_at(64).cast_signed(),
        })
    }
}

/// What a segment's file name says: `<first record, 20 digits>-<segment number, 10 digits>.seg`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentName {
    pub(super) number: u64,
    pub(super) first: u64,
    /// Bytes of the file.
    pub(super) len: u64,
    pub(super) path: PathBuf,
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, first: u64, number: u64) -> PathBuf {
    dir.join(format!("{first:020}-{number:010}.seg"))
}

/// The segments of a spool, oldest first. Files of other names are none of ours.
pub(super) fn list_segments(fs: &dyn DurableFs, dir: &Path) -> io::Result<Vec<SegmentName>> {
    let mut segments: Vec<_> = fs
        .list(dir)?
        .iter()
        .filter_map(|listed| parse_segment_name(dir, listed))
        .collect();
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

fn parse_segment_name(dir: &Path, listed: &Listed) -> Option<SegmentName> {
    let (first, number) = listed.name.strip_suffix(".seg")?.split_once('-')?;
    if first.len() != 20 || number.len() < 10 {
        return None;
    }
    Some(SegmentName {
        number: number.parse().ok()?,
        first: first.parse().ok()?,
        len: listed.len,
        path: dir.join(&listed.name),
    })
}

/// One step of a [`Walk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A believable header. Its block may still be damaged, or cut off by the end of the file.
    Block {
        /// Where the block begins.
        offset: u64,
        /// What it says.
        header: Header,
    },
    /// Bytes that are no block.
    Bad {
        /// Where they begin.
        offset: u64,
        /// Where the next header or the end is.
        end: u64,
        /// What is wrong at their beginning.
        problem: &'static str,
    },
}

/// Walks the headers of a segment from `offset` to `limit`.
pub(super) struct Walk<'a> {
    pub(super) file: &'a dyn DurableFile,
    pub(super) identity: Identity,
    pub(super) offset: u64,
    /// Nothing at or behind this offset is looked at.
    pub(super) limit: u64,
}

impl Walk<'_> {
    /// The next step; `None` at the limit.
    pub(super) fn step(&mut self) -> io::Result<Option<Step>> {
        if self.offset >= self.limit {
            return Ok(None);
        }
        let offset = self.offset;
        match self.header_at(offset)? {
            Ok(header) => {
                self.offset = offset.saturating_add(header.block_len());
                Ok(Some(Step::Block { offset, header }))
            }
            Err(problem) => {
                self.offset = self.next_header(offset + 1)?;
                Ok(Some(Step::Bad {
                    offset,
                    end: self.offset,
                    problem,
                }))
            }
        }
    }

    fn header_at(&self, offset: u64) -> io::Result<Result<Header, &'static str>> {
        let mut bytes = [0; HEADER_LEN];
        if self.limit - offset < HEADER_LEN as u64
            || self.file.read_at(offset, &mut bytes)? < HEADER_LEN
        {
            return Ok(Err("block header is cut off"));
        }
        Ok(Header::parse(&bytes, self.identity))
    }

    /// Offset of the next believable header at or behind `from`, else the limit.
    fn next_header(&self, from: u64) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let mut at = from;
        while at < self.limit {
            let wanted = usize::try_from(self.limit - at).unwrap_or(CHUNK).min(CHUNK);
            let read = self.file.read_at(at, &mut buffer[..wanted])?;
            for found in memchr::memmem::find_iter(&buffer[..read], &block::MAGIC) {
                let offset = at + found as u64;
                if self.header_at(offset)?.is_ok() {
                    return Ok(offset);
                }
            }
            if read < wanted || at + read as u64 >= self.limit {
                break;
            }
            // A magic may lie across two chunks.
            at += (read - (block::MAGIC.len() - 1)) as u64;
        }
        Ok(self.limit)
    }
}

/// Checks everything of a block but its decompression: the variable part where that is whole, and what is wrong.
pub(super) fn check_block(
    file: &dyn DurableFile,
    offset: u64,
    header: &Header,
    limit: u64,
) -> io::Result<(Option<Meta>, Option<&'static str>)> {
    if offset.saturating_add(header.block_len()) > limit {
        return Ok((None, Some("block is cut off")));
    }
    let mut meta = vec![0; header.meta_len()];
    let meta_offset = offset + HEADER_LEN as u64;
    if file.read_at(meta_offset, &mut meta)? < meta.len() {
        return Ok((None, Some("block is cut off")));
    }
    let Some(meta) = Meta::parse(header, &meta) else {
        return Ok((None, Some("key, note or state fail their checksum")));
    };
    let mut crc = RunningCrc::default();
    let mut buffer = vec![0; CHUNK.min(header.stored_len as usize)];
    let mut at = meta_offset + header.meta_len() as u64;
    let end = offset + header.block_len();
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(buffer.len());
        if file.read_at(at, &mut buffer[..wanted])? < wanted {
            return Ok((Some(meta), Some("block is cut off")));
        }
        crc.add(&buffer[..wanted]);
        at += wanted as u64;
    }
    let problem = (crc.value() != header.stored_crc).then_some("stored payload fails its checksum");
    Ok((Some(meta), problem))
}

/// Copies a range of a file into a new one, durably; an older copy is replaced.
pub(super) fn copy_range(
    fs: &dyn DurableFs,
    file: &dyn DurableFile,
    range: std::ops::Range<u64>,
    to: &Path,
) -> io::Result<()> {
    let mut temp = to.as_os_str().to_owned();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    match fs.remove(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copy = fs.create(&temp)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let wanted = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
        let read = file.read_at(at, &mut buffer[..wanted])?;
        if read == 0 {
            break;
        }
        copy.write_at(at - range.start, &buffer[..read])?;
        at += read as u64;
    }
    copy.sync()?;
    fs.rename(&temp, to)
}
