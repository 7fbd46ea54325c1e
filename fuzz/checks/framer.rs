//! The framer on one input, all at once and in pieces. Called by the fuzz target and by the seeded test of
//! `framing::lines`; whoever includes this file has `lines` and `LineKind` in scope.

use super::lines::{Framed, Framer};

/// A piece of a line goes on where the one before it ended; everything else is compared as it was given out.
type Seen = Vec<(u64, u64, String)>;

/// Panics where the bytes given out are not those that came in, or depend on how they were cut. `cuts` says how many
/// bytes the pieces have, again and again.
pub(crate) fn check(line_max: usize, bytes: &[u8], cuts: &[u8]) {
    let whole = frame(line_max, bytes, &[]);
    assert_eq!(frame(line_max, bytes, cuts), whole);
    let mut at = 0;
    for (from, to, _) in &whole {
        assert_eq!(*from, at, "a byte missing or twice");
        at = *to;
    }
    assert_eq!(at, bytes.len() as u64);
}

fn frame(line_max: usize, bytes: &[u8], cuts: &[u8]) -> Seen {
    let mut framer = Framer::new(line_max, 0);
    let mut seen = Seen::new();
    let mut pieces: Vec<u8> = Vec::new();
    let mut out = |framed: Framed<'_>| {
        match framed {
            Framed::Line {
                offset,
                end,
                kind,
                time_us,
                bytes: line,
            } => {
                let from = usize::try_from(offset).expect("offsets of this input");
                assert_eq!(line, &bytes[from..from + line.len()]);
                seen.push((offset, end, format!("{kind:?} {time_us:?} {}", line.len())));
            }
            Framed::Piece {
                offset,
                bytes: piece,
                done,
            } => {
                pieces.extend_from_slice(piece);
                if let Some(done) = done {
                    let from = usize::try_from(offset).expect("offsets of this input");
                    assert_eq!(pieces, &bytes[from..from + pieces.len()]);
                    pieces.clear();
                    seen.push((offset, done.end, format!("{done:?}")));
                }
            }
            Framed::NulGap { from, to } => seen.push((from, to, "nul".to_owned())),
        }
        true
    };
    let mut at = 0;
    let mut cuts = cuts.iter().cycle();
    while at < bytes.len() {
        let cut = cuts.next().map_or(bytes.len(), |cut| usize::from(*cut) + 1);
        let chunk = &bytes[at..bytes.len().min(at + cut)];
        assert_eq!(framer.push(chunk, &mut out), chunk.len());
        at += chunk.len();
        assert_eq!(framer.resume_offset() + framer.pending(), at as u64);
    }
    framer.finish(&mut out);
    assert_eq!(framer.pending(), 0);
    seen
}
