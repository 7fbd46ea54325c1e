//! One audit event as bytes, with where it came from. Never a parsed document: fields are found lazily by
//! [`fields`], and what the spool keeps of it is written and read by [`encoding`].
//!
//! Invariants: the bytes of a line are never changed; an [`EventId`] can be recomputed by anyone who has the source
//! file, and no part of it is chosen by a client of the API server.

pub mod encoding;

pub mod fields;

pub mod template;

use std::fmt;

use sha2::{Digest, Sha256};

/// The stream that an event came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Name of the cluster, pinned in the state directory.
    pub cluster: String,
    /// Name of the node, pinned in the state directory.
    pub node: String,
    /// Name of the source in the configuration.
    pub source: String,
}

/// `<cluster>/<node>/<source>`, the form that goes into the event id.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.node, self.source)
    }
}

/// One physical file of an origin, by the SHA-256 of its first line (without line feed, its first 1 MiB at most).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub [u8; 32]);

impl Generation {
    /// At most this many bytes of the first line are hashed.
    pub const FIRST_LINE_MAX: usize = 1 << 20;

    /// The generation whose first line (without its line feed) is `line`.
    pub fn of_first_line(line: &[u8]) -> Self {
        Generation(Sha256::digest(&line[..line.len().min(Self::FIRST_LINE_MAX)]).into())
    }

    /// The first 16 hex digits: how people see it in status, envelope and gaps.
    pub fn short(&self) -> String {
        hex(&self.0[..8])
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// SHA-256 of a line without its line feed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineHash(pub [u8; 32]);

impl LineHash {
    /// Hashes a whole line.
    pub fn of(line: &[u8]) -> Self {
        LineHash(Sha256::digest(line).into())
    }

    /// 64 lowercase hex digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The identity of an event, the same at every destination (formula in [`EventId::compute`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// The first 16 bytes of SHA-256 over, in a row: `ev1\n`, `<cluster>/<node>/<source>\n`, the generation's 32
    /// bytes, the offset of the line's first byte in the uncompressed generation as little-endian u64, and the
    /// 32-byte SHA-256 of the line as spooled.
    pub fn compute(origin: &Origin, generation: &Generation, offset: u64, line: &LineHash) -> Self {
        IdPrefix::new(origin, generation).id(offset, line)
    }

    /// 32 lowercase hex digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The part of the event id that is the same for every line of a generation, hashed once.
#[derive(Clone)]
pub struct IdPrefix(Sha256);

impl IdPrefix {
    /// Hashes what all lines of this generation share.
    pub fn new(origin: &Origin, generation: &Generation) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"ev1\n");
        hasher.update(origin.to_string().as_bytes());
        hasher.update(b"\n");
        hasher.update(generation.0);
        IdPrefix(hasher)
    }

    /// The id of the line at `offset`.
    pub fn id(&self, offset: u64, line: &LineHash) -> EventId {
        let mut hasher = self.0.clone();
        hasher.update(offset.to_le_bytes());
        hasher.update(line.0);
        let digest: [u8; 32] = hasher.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        EventId(id)
    }
}

/// What a line turned out to be (design: an event is one JSON object by RFC 8259's grammar).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineKind {
    /// One complete JSON object.
    Event,
    /// Anything else that fits `line_max`: torn, NULs, an empty line, not an object.
    Malformed,
    /// Longer than `line_max`; spooled in pieces, passed through conditions as a malformed one is.
    Oversize,
}

/// Lowercase hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}
