//! One record inside a block's payload: an opaque head and an opaque body.
//!
//! ```text
//! u32 length of the head | u32 length of the body | head | body        (little-endian)
//! ```
//!
//! Records stand in a row with nothing between them. An oversize record has its head here and an empty body: its
//! bytes are in the pieces. Invariant: equal heads and bodies give equal payloads, so that a block that was rebuilt
//! from its source has the CRC of the lost one.

use std::ops::Range;

/// Bytes before the head.
const PREFIX: usize = 8;

/// Appends a record to a payload. Both parts are shorter than 4 GiB: a block is a few MiB.
pub fn push(payload: &mut Vec<u8>, head: &[u8], body: &[u8]) {
    let length = |part: &[u8]| u32::try_from(part.len()).expect("a part of a record fits a block");
    payload.extend_from_slice(&length(head).to_le_bytes());
    payload.extend_from_slice(&length(body).to_le_bytes());
    payload.extend_from_slice(head);
    payload.extend_from_slice(body);
}

/// Heads and bodies of a payload, as ranges into it. Ends early, with an error, where the payload is malformed.
pub fn iter(
    payload: &[u8],
) -> impl Iterator<Item = Result<(Range<usize>, Range<usize>), Malformed>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= payload.len() {
            return None;
        }
        match split(payload, at) {
            Some((head, body)) => {
                at = body.end;
                Some(Ok((head, body)))
            }
            None => {
                let malformed = Malformed { at };
                at = payload.len();
                Some(Err(malformed))
            }
        }
    })
}

fn split(payload: &[u8], at: usize) -> Option<(Range<usize>, Range<usize>)> {
    let prefix = payload.get(at..at.checked_add(PREFIX)?)?;
    let head_len = u32::from_le_bytes(prefix[..4].try_into().ok()?) as usize;
    let body_len = u32::from_le_bytes(prefix[4..].try_into().ok()?) as usize;
    let head_start = at + PREFIX;
    let body_start = head_start.checked_add(head_len)?;
    let end = body_start.checked_add(body_len)?;
    (end <= payload.len()).then_some((head_start..body_start, body_start..end))
}

/// A payload that this version did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed record at {at}")]
pub struct Malformed {
    /// Offset in the payload.
    pub at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_pushed() {
        let mut payload = Vec::new();
        let records: [(&[u8], &[u8]); 3] = [(b"head", b"body"), (b"", b""), (b"oversize", b"")];
        for (head, body) in records {
            push(&mut payload, head, body);
        }
        let read: Vec<_> = iter(&payload)
            .map(|record| {
                record
                    .map(|(head, body)| (&payload[head], &payload[body]))
                    .unwrap()
            })
            .collect();
        assert_eq!(read, records);
    }

    #[test]
    fn any_bytes_give_records_or_one_error_at_the_end() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let mut payload = Vec::new();
            push(&mut payload, b"head", b"body");
            push(&mut payload, b"more", &[]);
            let at = random.usize(..payload.len());
            payload[at] = random.u8(..);
            payload.truncate(random.usize(..=payload.len()));
            let read: Vec<_> = iter(&payload).collect();
            assert!(read.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
