//! Which generation a file is: the SHA-256 of its first line, and of the 4 KiB before an offset. Not the inode: a
//! `.gz` has another one, and ext4 gives a deleted file's inode to the next file at once.
//!
//! Memory is bounded by [`Generation::FIRST_LINE_MAX`]; only the first line is read, however long the file.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::event::Generation;

/// So many bytes before an offset are remembered and compared again.
pub(super) const TAIL_BYTES: usize = 4096;

/// The hash that a position keeps of the bytes before its offset (all of them, where there are fewer than 4 KiB).
pub(super) fn tail_hash(before: &[u8]) -> [u8; 32] {
    Sha256::digest(&before[before.len().saturating_sub(TAIL_BYTES)..]).into()
}

/// What of `offset` bytes the tail hash covers.
pub(super) fn tail_start(offset: u64) -> u64 {
    offset.saturating_sub(TAIL_BYTES as u64)
}

/// The generation of these contents; `None` while neither a line feed nor 1 MiB is there. Where the contents are
/// `complete`, all of them are the first line.
pub(super) fn first_line(
    contents: &mut dyn Read,
    complete: bool,
) -> io::Result<Option<Generation>> {
    let mut line = Vec::new();
    // Most first lines are 1 to 2 KB.
    let mut buffer = [0; 4096];
    loop {
        let read = match contents.read(&mut buffer) {
            Ok(0) if complete && !line.is_empty() => {
                return Ok(Some(Generation::of_first_line(&line)));
            }
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some(end) = memchr::memchr(b'\n', &buffer[..read]) {
            line.extend_from_slice(&buffer[..end]);
            return Ok(Some(Generation::of_first_line(&line)));
        }
        line.extend_from_slice(&buffer[..read]);
        if line.len() >= Generation::FIRST_LINE_MAX {
            return Ok(Some(Generation::of_first_line(&line)));
        }
    }
}

/// Moves `contents` from its start to `offset`. Gives the bytes before it that the tail hash covers; `None` where the
/// contents end before.
pub(super) fn skip_to(contents: &mut dyn Read, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut tail = Vec::new();
    let mut at = 0;
    let mut buffer = [0; 16 * 1024];
    while at < offset {
        let want = usize::try_from(offset - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = match contents.read(&mut buffer[..want]) {
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        at += read as u64;
        keep_tail(&mut tail, &buffer[..read]);
    }
    Ok(Some(tail))
}

/// Appends `bytes` and cuts `tail` to its last 4 KiB.
pub(super) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    let surplus = (tail.len() + bytes.len()).saturating_sub(TAIL_BYTES);
    tail.drain(..surplus);
    tail.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_is_the_hash_of_the_whole_first_line() {
        let long = vec![b'x'; 100_000];
        let mut bytes = long.clone();
        bytes.extend_from_slice(b"\nsecond\n");
        assert_eq!(
            first_line(&mut &bytes[..], false).unwrap(),
            Some(Generation::of_first_line(&long))
        );
    }

    #[test]
    fn there_is_no_generation_before_the_first_line_feed() {
        assert_eq!(first_line(&mut &b""[..], false).unwrap(), None);
        assert_eq!(first_line(&mut &b"{\"kind\":"[..], false).unwrap(), None);
        assert_eq!(
            first_line(&mut &b"{\"kind\":"[..], true).unwrap(),
            Some(Generation::of_first_line(b"{\"kind\":"))
        );
        assert_eq!(first_line(&mut &b""[..], true).unwrap(), None);
    }

    #[test]
    fn an_endless_first_line_is_known_by_its_first_mebibyte() {
        let bytes = vec![b'x'; Generation::FIRST_LINE_MAX + 10];
        let expected = Generation::of_first_line(&bytes[..Generation::FIRST_LINE_MAX]);
        assert_eq!(first_line(&mut &bytes[..], false).unwrap(), Some(expected));
    }

    #[test]
    fn skipping_gives_the_bytes_before_the_offset() {
        let bytes: Vec<u8> = (0..50_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        for offset in [0_usize, 1, 4095, 4096, 4097, 20_000, 50_000] {
            let mut rest = &bytes[..];
            let tail = skip_to(&mut rest, offset as u64).unwrap().unwrap();
            assert_eq!(tail, bytes[offset.saturating_sub(4096)..offset]);
            assert_eq!(rest.len(), bytes.len() - offset);
        }
        assert_eq!(skip_to(&mut &bytes[..], 50_001).unwrap(), None);
    }
}
