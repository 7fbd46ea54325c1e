//! What every segment begins with: each key's newest state and newest gaps, so that no older segment need be read.
//!
//! ```text
//! u32 keys | per key: u32 length, key | u32 length, state | u32 gaps | per gap: u32 length, gap     (little-endian)
//! ```

use std::collections::BTreeMap;

use super::KeyState;
use super::block::{Kind, Meta};

/// Newest gaps kept of each key.
pub(super) const GAPS_MAX: usize = 100;

/// The newest state of every key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(BTreeMap<Vec<u8>, KeyState>);

impl Keys {
    /// Takes in what a block says of its key. An empty state leaves the one before.
    pub(super) fn apply(&mut self, kind: Kind, key: &[u8], state: &[u8], note: &[u8]) {
        if !self.0.contains_key(key) {
            self.0.insert(
                key.to_vec(),
                KeyState {
                    key: key.to_vec(),
                    ..KeyState::default()
                },
            );
        }
        let Some(known) = self.0.get_mut(key) else {
            return;
        };
        if !state.is_empty() {
            state.clone_into(&mut known.state);
        }
        if kind == Kind::Gap {
            known.gaps.push(note.to_vec());
            let surplus = known.gaps.len().saturating_sub(GAPS_MAX);
            known.gaps.drain(..surplus);
        }
    }

    /// Takes in a block read back.
    pub(super) fn apply_meta(&mut self, kind: Kind, meta: &Meta) {
        self.apply(kind, &meta.key, &meta.state, &meta.note);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a block of the key was seen.
    pub(super) fn knows(&self, key: &[u8]) -> bool {
        self.0.contains_key(key)
    }

    /// Every key, in the order of its bytes.
    pub(super) fn to_vec(&self) -> Vec<KeyState> {
        self.0.values().cloned().collect()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_count(&mut out, self.0.len());
        for known in self.0.values() {
            put(&mut out, &known.key);
            put(&mut out, &known.state);
            put_count(&mut out, known.gaps.len());
            for gap in &known.gaps {
                put(&mut out, gap);
            }
        }
        out
    }

    /// Reads it back; `None` where the bytes are not a snapshot.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Keys> {
        let mut keys = BTreeMap::new();
        for _ in 0..take_count(&mut bytes)? {
            let mut known = KeyState {
                key: take(&mut bytes)?.to_vec(),
                state: take(&mut bytes)?.to_vec(),
                gaps: Vec::new(),
            };
            for _ in 0..take_count(&mut bytes)? {
                known.gaps.push(take(&mut bytes)?.to_vec());
            }
            keys.insert(known.key.clone(), known);
        }
        bytes.is_empty().then_some(Keys(keys))
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count =
        u32::try_from(count).expect("keys and their parts are bounded by the limits of an append");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    put_count(out, part.len());
    out.extend_from_slice(part);
}

fn take_count(bytes: &mut &[u8]) -> Option<u32> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*count))
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_count(bytes)? as usize;
    let (part, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_with_the_newest_hundred_gaps() {
        let mut keys = Keys::default();
        for n in 0..150u32 {
            keys.apply(Kind::Gap, b"sink", b"", &n.to_le_bytes());
        }
        keys.apply(Kind::Data, b"origin", b"one", b"");
        keys.apply(Kind::Data, b"origin", b"two", b"");
        keys.apply(Kind::Piece, b"origin", b"", b"");
        let read = Keys::decode(&keys.encode()).unwrap();
        assert_eq!(read, keys);
        let known = read.to_vec();
        assert_eq!(
            (&known[0].key[..], &known[0].state[..]),
            (&b"origin"[..], &b"two"[..])
        );
        assert_eq!(known[1].gaps.len(), GAPS_MAX);
        assert_eq!(known[1].gaps[0], 50u32.to_le_bytes());
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_refused_without_allocating_for_them() {
        let mut keys = Keys::default();
        keys.apply(Kind::Gap, b"key", b"state", b"gap");
        let encoded = keys.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Keys::decode(&encoded[..cut]), None);
        }
        assert_eq!(Keys::decode(&[0xff; 64]), None);
    }
}
