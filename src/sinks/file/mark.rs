//! What delivery keeps for a file sink beside its cursor: which file holds the confirmed records, and up to where.
//!
//! ```text
//! version   u8      1
//! length    u64     bytes of `path` that hold confirmed records
//! started   i64     when the file was begun, microseconds since the Unix epoch
//! path      u16 + bytes
//! rotated   u16 + bytes   length 0: none
//! ```
//! Little-endian. Invariants: at most [`Mark::MAX`] bytes; decoding is total.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::clock::Micros;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The file.
    pub(super) path: PathBuf,
    /// Its bytes that hold confirmed records; nothing before this is ever cut.
    pub(super) length: u64,
    /// When it was begun; decides only when it is rotated.
    pub(super) started: Micros,
    /// The file is to be renamed to this, or was already; a new one at `path` then holds nothing confirmed.
    pub(super) rotated_to: Option<PathBuf>,
}

/// A mark that this version cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MarkError {
    /// Made by a newer version.
    #[error("has version {0}, this agent knows 1: use the newer auditship that wrote it")]
    Newer(u8),
    /// Not what any version wrote.
    #[error("is damaged")]
    Damaged,
    /// The path does not fit.
    #[error("path is longer than {} bytes", Mark::PATH_MAX)]
    TooLong,
}

impl Mark {
    const VERSION: u8 = 1;

    /// Delivery keeps at most this many bytes.
    pub(super) const MAX: usize = 4096;

    /// Longest path: two of them and the numbers fit [`Mark::MAX`].
    pub(super) const PATH_MAX: usize = (Self::MAX - 21) / 2;

    /// The bytes that delivery keeps.
    pub(super) fn encode(&self) -> Result<Vec<u8>, MarkError> {
        let mut out = vec![Self::VERSION];
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.started.0.to_le_bytes());
        for path in [Some(&self.path), self.rotated_to.as_ref()] {
            let bytes = path.map_or(&[][..], |path| path.as_os_str().as_bytes());
            if bytes.len() > Self::PATH_MAX {
                return Err(MarkError::TooLong);
            }
            let length = u16::try_from(bytes.len()).map_err(|_| MarkError::TooLong)?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(bytes);
        }
        Ok(out)
    }

    /// Reads them back; all of `bytes` must be used up.
    pub(super) fn decode(bytes: &[u8]) -> Result<Mark, MarkError> {
        let (version, rest) = take::<1>(bytes)?;
        if version[0] != Self::VERSION {
            return Err(if version[0] > Self::VERSION {
                MarkError::Newer(version[0])
            } else {
                MarkError::Damaged
            });
        }
        let (length, rest) = take::<8>(rest)?;
        let (started, rest) = take::<8>(rest)?;
        let (path, rest) = take_path(rest)?;
        let (rotated_to, rest) = take_path(rest)?;
        Ok(Mark {
            path: path.filter(|_| rest.is_empty()).ok_or(MarkError::Damaged)?,
            length: u64::from_le_bytes(length),
            started: Micros(i64::from_le_bytes(started)),
            rotated_to,
        })
    }

    /// `<path>.<UTC ms>`, in the form of the API server's own backups, so that names sort by time.
    pub(super) fn rotated_name(path: &Path, now: Micros) -> PathBuf {
        let moment =
            jiff::Timestamp::from_microsecond(now.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", moment.strftime("%Y-%m-%dT%H-%M-%S.%3f")));
        PathBuf::from(name)
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), MarkError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(MarkError::Damaged)?;
    Ok((*head, rest))
}

fn take_path(bytes: &[u8]) -> Result<(Option<PathBuf>, &[u8]), MarkError> {
    let (length, rest) = take::<2>(bytes)?;
    let (path, rest) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(length)))
        .ok_or(MarkError::Damaged)?;
    Ok((
        (!path.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(path))),
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(path: &str, rotated_to: Option<&str>) -> Mark {
        Mark {
            path: path.into(),
            length: 7,
            started: Micros(9),
            rotated_to: rotated_to.map(PathBuf::from),
        }
    }

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        for mark in [
            mark("a", None),
            mark("/var/x", Some("/var/x.1")),
            mark(&"p".repeat(Mark::PATH_MAX), None),
        ] {
            let bytes = mark.encode().expect("fits");
            assert!(bytes.len() <= Mark::MAX);
            assert_eq!(Mark::decode(&bytes), Ok(mark));
        }
    }

    #[test]
    fn the_encoding_stays_as_it_is() {
        let bytes = mark("ab", Some("c")).encode().expect("fits");
        assert_eq!(
            bytes,
            *b"\x01\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0ab\x01\0c"
        );
    }

    #[test]
    fn a_damaged_or_newer_mark_is_an_error() {
        let bytes = mark("ab", Some("c")).encode().expect("fits");
        for cut in 0..bytes.len() {
            assert_eq!(
                Mark::decode(&bytes[..cut]),
                Err(MarkError::Damaged),
                "cut at {cut}"
            );
        }
        assert_eq!(
            Mark::decode(&[&bytes[..], b"x"].concat()),
            Err(MarkError::Damaged)
        );
        assert_eq!(Mark::decode(b"\x02"), Err(MarkError::Newer(2)));
        assert_eq!(
            mark(&"p".repeat(Mark::PATH_MAX + 1), None).encode(),
            Err(MarkError::TooLong)
        );
    }

    #[test]
    fn a_rotated_file_is_named_by_its_moment() {
        let name = Mark::rotated_name(Path::new("/x/audit.jsonl"), Micros(1_764_000_000_123_999));
        assert_eq!(name, Path::new("/x/audit.jsonl.2025-11-24T16-00-00.123"));
    }
}
