//! The event behind something that is none: a torn head with the next event glued to it, a run of NUL bytes, the
//! remains of an overwritten file.
//!
//! What counts: the leftmost place at which the API server's own event start stands and from which on the rest of the
//! line is exactly one complete object. A client can put that start, and a whole forged event, into the body of a
//! request; where the real event is whole, the forged one lies inside it, further right, and does not end at the line
//! feed.
//!
//! Why this is linear, whatever the line: a search walks from a candidate to the place where that stops being an
//! object. The start's own quotes keep it from standing inside a string of what was walked (its first quote would end
//! the string, and `k` cannot follow), so each candidate wholly inside the walked part is a value in it and shares
//! the walk's fate:
//! - the walk met a byte that cannot stand there: each candidate before it either closed earlier, so that it does not
//!   end at the line feed, or has that byte inside. The next one to try is behind that byte, or contains it.
//! - the walk closed its object with something left behind it: each candidate inside closed still earlier.
//! - the line ended inside: only the object that its last bracket closes can be whole, and one more pass finds where
//!   that begins. No other candidate is left.
//!
//! So no byte is walked more than twice, but for the length of a start at each stop.

use memchr::{memchr2, memchr3, memmem};

use crate::event::fields::{EVENT_START, Stop, is_event, scan};

/// Index of the event's first byte in `line`, of which `stop` says why it is no event itself.
pub(super) fn behind(line: &[u8], stop: Stop) -> Option<usize> {
    match stop {
        Stop::Torn => last_closed(line, 0),
        Stop::Bad(at) => anywhere(line, next_start(0, at)),
    }
}

/// Index of the event's first byte in `line`, searched for from `search` on.
pub(super) fn anywhere(line: &[u8], mut search: usize) -> Option<usize> {
    loop {
        let from = search + memmem::find(line.get(search..)?, EVENT_START)?;
        match scan(&line[from..]) {
            Ok(_) => return Some(from),
            Err(Stop::Torn) => return last_closed(line, from),
            Err(Stop::Bad(at)) => search = next_start(from, from + at),
        }
    }
}

/// The first index of a start that is not wholly inside the walk from `from` that stopped at `at`.
fn next_start(from: usize, at: usize) -> usize {
    (from + 1).max((at + 1).saturating_sub(EVENT_START.len()))
}

/// Of an object that begins at `from` and is torn at the end of the line: the object in it that closes last, if that
/// is at the end of the line and begins as an event does.
fn last_closed(line: &[u8], from: usize) -> Option<usize> {
    if line.trim_ascii_end().last() != Some(&b'}') {
        return None;
    }
    let mut open = 0_usize;
    braces(line, from, |_, opens| {
        open = if opens {
            open + 1
        } else {
            open.saturating_sub(1)
        }
    });
    let outside = open;
    let mut found = None;
    open = 0;
    braces(line, from, |at, opens| {
        if opens && open == outside {
            found = Some(at);
        }
        open = if opens {
            open + 1
        } else {
            open.saturating_sub(1)
        };
    });
    found.filter(|&at| line[at..].starts_with(EVENT_START) && is_event(&line[at..]))
}

/// Calls `brace` with the index of each brace outside strings, and whether it opens.
fn braces(line: &[u8], mut at: usize, mut brace: impl FnMut(usize, bool)) {
    while let Some(found) = line
        .get(at..)
        .and_then(|rest| memchr3(b'{', b'}', b'"', rest))
    {
        at += found;
        if line[at] == b'"' {
            at = behind_string(line, at);
        } else {
            brace(at, line[at] == b'{');
            at += 1;
        }
    }
}

/// The index behind the string whose opening quote is at `at`.
fn behind_string(line: &[u8], mut at: usize) -> usize {
    at += 1;
    while let Some(found) = line.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if line[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    line.len()
}
