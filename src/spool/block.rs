//! A block's bytes: encoding and checking. Knows no file and no segment but its own numbers.
//!
//! Invariants: a header is believed only if its CRC, magic, version, spool id and segment number are right and its
//! lengths are within the limits here, so that nothing is allocated for a length that this agent did not write.

use std::io;

use crc32c::{crc32c, crc32c_append};

use super::PieceRef;

/// First bytes of every block. Chosen to be no UTF-8, so that no JSON text contains it.
pub(super) const MAGIC: [u8; 8] = *b"\xf5ASblk\r\n";
/// Version of the block format.
const VERSION: u16 = 1;
/// Bytes of the fixed part.
pub(super) const HEADER_LEN: usize = 96;
/// Bytes of one reference to a piece.
const PIECE_LEN: usize = 16;
/// Longest `note`, bytes.
pub(super) const NOTE_MAX: usize = 64 << 10;
/// Longest `state`, bytes.
pub(super) const STATE_MAX: usize = 1 << 20;
/// Most pieces of one record: 64 GiB at 1 MiB each.
pub(super) const PIECES_MAX: usize = 64 << 10;
/// Longest uncompressed payload, bytes.
pub(super) const PAYLOAD_MAX: usize = 256 << 20;

/// What a block is, on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data = 1,
    Piece = 2,
    Position = 3,
    Gap = 4,
    Snapshot = 5,
}

impl From<super::BlockKind> for Kind {
    fn from(kind: super::BlockKind) -> Self {
        match kind {
            super::BlockKind::Data => Kind::Data,
            super::BlockKind::Piece => Kind::Piece,
            super::BlockKind::Position => Kind::Position,
            super::BlockKind::Gap => Kind::Gap,
        }
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [
            Kind::Data,
            Kind::Piece,
            Kind::Position,
            Kind::Gap,
            Kind::Snapshot,
        ]
        .into_iter()
        .find(|k| *k as u8 == byte)
    }
}

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None = 0,
    Zstd = 1,
}

/// Whose block it must be: a block of another spool or segment is foreign, whatever its CRC says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The spool's random id.
    pub(super) spool: u64,
    /// Segment number.
    pub(super) segment: u64,
}

/// The fixed part of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) codec: Codec,
    pub(super) identity: Identity,
    /// Bytes of this segment that were durable before the append this block belongs to.
    pub(super) acknowledged: u64,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) appended_us: i64,
    pub(super) pieces: u32,
    pub(super) key_len: u16,
    pub(super) note_len: u32,
    pub(super) state_len: u32,
    pub(super) stored_len: u32,
    pub(super) payload_len: u32,
    pub(super) meta_crc: u32,
    pub(super) stored_crc: u32,
    pub(super) payload_crc: u32,
}

impl Header {
    /// Bytes of the block, header included.
    pub(super) fn block_len(&self) -> u64 {
        (HEADER_LEN + self.meta_len() + self.stored_len as usize) as u64
    }

    /// Bytes between header and stored payload.
    pub(super) fn meta_len(&self) -> usize {
        usize::from(self.key_len)
            + self.note_len as usize
            + self.state_len as usize
            + self.pieces as usize * PIECE_LEN
    }

    /// Number behind the last record.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Reads and checks a header; the problem in words where it is none.
    pub(super) fn parse(
        bytes: &[u8; HEADER_LEN],
        expected: Identity,
    ) -> Result<Header, &'static str> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err("no block begins here");
        }
        if u32_at(HEADER_LEN - 4) != crc32c(&bytes[..HEADER_LEN - 4]) {
            return Err("block header fails its checksum");
        }
        if u16_at(8) != VERSION {
            return Err("block of an unknown version");
        }
        let kind = Kind::from_byte(bytes[10]).ok_or("block of an unknown kind")?;
        let codec = match bytes[11] {
            0 => Codec::None,
            1 => Codec::Zstd,
            _ => return Err("block of an unknown codec"),
        };
        let identity = Identity {
            spool: u64_at(16),
            segment: u64_at(24),
        };
        if identity != expected {
            return Err("block of another spool or segment");
        }
        let header = Header {
            kind,
            codec,
            identity,
            count: u32_at(12),
            acknowledged: u64_at(32),
            first: u64_at(40),
            appended_us: u64_at(48).cast_signed(),
            pieces: u32_at(56),
            key_len: u16_at(60),
            note_len: u32_at(64),
            state_len: u32_at(68),
            stored_len: u32_at(72),
            payload_len: u32_at(76),
            meta_crc: u32_at(80),
            stored_crc: u32_at(84),
            payload_crc: u32_at(88),
        };
        if header.is_bounded() {
            Ok(header)
        } else {
            Err("block lengths beyond their limits")
        }
    }

    fn is_bounded(&self) -> bool {
        self.note_len as usize <= NOTE_MAX
            && self.state_len as usize <= STATE_MAX
            && self.pieces as usize <= PIECES_MAX
            && self.payload_len as usize <= PAYLOAD_MAX
            && self.stored_len <= self.payload_len
            && self.first.checked_add(u64::from(self.count)).is_some()
    }

    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &[self.kind as u8, self.codec as u8]);
        put(12, &self.count.to_le_bytes());
        put(16, &self.identity.spool.to_le_bytes());
        put(24, &self.identity.segment.to_le_bytes());
        put(32, &self.acknowledged.to_le_bytes());
        put(40, &self.first.to_le_bytes());
        put(48, &self.appended_us.to_le_bytes());
        put(56, &self.pieces.to_le_bytes());
        put(60, &self.key_len.to_le_bytes());
        put(64, &self.note_len.to_le_bytes());
        put(68, &self.state_len.to_le_bytes());
        put(72, &self.stored_len.to_le_bytes());
        put(76, &self.payload_len.to_le_bytes());
        put(80, &self.meta_crc.to_le_bytes());
        put(84, &self.stored_crc.to_le_bytes());
        put(88, &self.payload_crc.to_le_bytes());
        let crc = crc32c(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// The variable part between header and payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) key: Vec<u8>,
    pub(super) note: Vec<u8>,
    pub(super) state: Vec<u8>,
    pub(super) pieces: Vec<PieceRef>,
}

impl Meta {
    /// Splits `bytes`, which are as long as the header says; `None` where they fail their checksum.
    pub(super) fn parse(header: &Header, bytes: &[u8]) -> Option<Meta> {
        if bytes.len() != header.meta_len() || crc32c(bytes) != header.meta_crc {
            return None;
        }
        let (key, rest) = bytes.split_at(usize::from(header.key_len));
        let (note, rest) = rest.split_at(header.note_len as usize);
        let (state, rest) = rest.split_at(header.state_len as usize);
        let piece = |bytes: &[u8]| {
            let (segment, offset) = bytes.split_at(8);
            Some(PieceRef {
                segment: u64::from_le_bytes(segment.try_into().ok()?),
                offset: u64::from_le_bytes(offset.try_into().ok()?),
                record: header.first,
            })
        };
        let pieces = rest
            .chunks_exact(PIECE_LEN)
            .map(piece)
            .collect::<Option<Vec<_>>>()?;
        Some(Meta {
            key: key.to_vec(),
            note: note.to_vec(),
            state: state.to_vec(),
            pieces,
        })
    }
}

/// A block to be encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) identity: Identity,
    pub(super) acknowledged: u64,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) appended_us: i64,
    pub(super) key: &'a [u8],
    pub(super) note: &'a [u8],
    pub(super) state: &'a [u8],
    pub(super) pieces: &'a [PieceRef],
    pub(super) payload: &'a [u8],
}

/// Encodes blocks with one reused compression context and buffer.
pub(super) struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    stored: Vec<u8>,
}

impl Encoder {
    /// Level 1: on audit events six times smaller at the speed of the disk.
    pub(super) fn new(compress: bool) -> io::Result<Self> {
        let zstd = if compress {
            Some(zstd::bulk::Compressor::new(1)?)
        } else {
            None
        };
        Ok(Encoder {
            zstd,
            stored: Vec::new(),
        })
    }

    /// Writes the block into `out`, which is emptied first. The draft's parts are within the limits of this module.
    pub(super) fn encode(&mut self, draft: &Draft<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.resize(HEADER_LEN, 0);
        out.extend_from_slice(draft.key);
        out.extend_from_slice(draft.note);
        out.extend_from_slice(draft.state);
        for piece in draft.pieces {
            out.extend_from_slice(&piece.segment.to_le_bytes());
            out.extend_from_slice(&piece.offset.to_le_bytes());
        }
        let meta_crc = crc32c(&out[HEADER_LEN..]);
        let payload_crc = crc32c(draft.payload);
        let codec = self.compress(draft.payload)?;
        let (stored, stored_crc) = match codec {
            Codec::None => (draft.payload, payload_crc),
            Codec::Zstd => (&self.stored[..], crc32c(&self.stored)),
        };
        out.extend_from_slice(stored);
        let length = |part: usize| {
            u32::try_from(part).expect("checked against the limits before the append")
        };
        let header = Header {
            kind: draft.kind,
            codec,
            identity: draft.identity,
            acknowledged: draft.acknowledged,
            first: draft.first,
            count: draft.count,
            appended_us: draft.appended_us,
            pieces: length(draft.pieces.len()),
            key_len: u16::try_from(draft.key.len())
                .expect("checked against the limits before the append"),
            note_len: length(draft.note.len()),
            state_len: length(draft.state.len()),
            stored_len: length(stored.len()),
            payload_len: length(draft.payload.len()),
            meta_crc,
            stored_crc,
            payload_crc,
        };
        assert!(header.is_bounded(), "a block that could not be read back");
        out[..HEADER_LEN].copy_from_slice(&header.encode());
        Ok(())
    }

    /// Compresses into `self.stored` where that makes the payload shorter.
    fn compress(&mut self, payload: &[u8]) -> io::Result<Codec> {
        let Some(zstd) = &mut self.zstd else {
            return Ok(Codec::None);
        };
        if payload.is_empty() {
            return Ok(Codec::None);
        }
        self.stored.clear();
        self.stored
            .reserve(zstd::zstd_safe::compress_bound(payload.len()));
        zstd.compress_to_buffer(payload, &mut self.stored)?;
        Ok(if self.stored.len() < payload.len() {
            Codec::Zstd
        } else {
            Codec::None
        })
    }

    /// Gives back the memory that one unusually long block took.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.stored.clear();
        self.stored.shrink_to(bytes);
    }
}

/// The uncompressed payload of `stored`; the problem in words where it is damaged.
pub(super) fn decode_payload(
    header: &Header,
    stored: &[u8],
    zstd: &mut zstd::bulk::Decompressor<'static>,
) -> Result<Vec<u8>, &'static str> {
    if crc32c(stored) != header.stored_crc {
        return Err("stored payload fails its checksum");
    }
    let payload = match header.codec {
        Codec::None => stored.to_vec(),
        Codec::Zstd => zstd
            .decompress(stored, header.payload_len as usize)
            .map_err(|_| "payload cannot be decompressed")?,
    };
    if payload.len() != header.payload_len as usize || crc32c(&payload) != header.payload_crc {
        return Err("payload fails its checksum");
    }
    Ok(payload)
}

/// A CRC32C over parts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningCrc(u32);

impl RunningCrc {
    pub(super) fn add(&mut self, part: &[u8]) {
        self.0 = crc32c_append(self.0, part);
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }
}
