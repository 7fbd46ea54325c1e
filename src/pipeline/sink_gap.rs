//! How a sink's gap stands in the spool: under the sink's own key, as a gap block's note.

use crate::delivery::{SinkGap, SinkGapReason};

/// Begins a sink's key; an origin's key begins with its encoding's version byte, which is not this letter.
const SINK: &[u8] = b"sink:";

/// The key under which the gaps of a sink are kept.
pub(super) fn sink_key(name: &str) -> Vec<u8> {
    [SINK, name.as_bytes()].concat()
}

/// The sink of a key, where it is one's.
pub(super) fn sink_of_key(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(SINK)?).ok()
}

/// Reason, first and last record.
pub(super) fn encode_sink_gap(gap: &SinkGap) -> Vec<u8> {
    let reason = match gap.reason {
        SinkGapReason::Overtaken => 1,
        SinkGapReason::Damaged => 2,
        SinkGapReason::Removed => 3,
    };
    let mut bytes = vec![reason];
    bytes.extend_from_slice(&gap.first.to_le_bytes());
    bytes.extend_from_slice(&gap.last.to_le_bytes());
    bytes
}

/// Reads it back; `None` for bytes that this version did not write.
pub(super) fn decode_sink_gap(bytes: &[u8]) -> Option<SinkGap> {
    let bytes: &[u8; 17] = bytes.try_into().ok()?;
    let reason = match bytes[0] {
        1 => SinkGapReason::Overtaken,
        2 => SinkGapReason::Damaged,
        3 => SinkGapReason::Removed,
        _ => return None,
    };
    let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes);
    Some(SinkGap {
        reason,
        first: number(1).ok()?,
        last: number(9).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_gap_comes_back_as_it_went_in() {
        for reason in [
            SinkGapReason::Overtaken,
            SinkGapReason::Damaged,
            SinkGapReason::Removed,
        ] {
            let gap = SinkGap {
                reason,
                first: 3,
                last: u64::MAX,
            };
            assert_eq!(decode_sink_gap(&encode_sink_gap(&gap)), Some(gap));
        }
        assert_eq!(decode_sink_gap(b""), None);
        assert_eq!(decode_sink_gap(&[9; 17]), None);
    }

    #[test]
    fn a_key_tells_its_sink() {
        assert_eq!(sink_of_key(&sink_key("search")), Some("search"));
        assert_eq!(sink_of_key(b"\x01prod"), None);
    }
}
