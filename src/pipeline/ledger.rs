//! From chunks to blocks: what each origin has read, counted and positioned, as it goes into the spool. Pure: no
//! disk, no clock, no thread.
//!
//! Invariants: a block's state is the origin's state behind exactly that block; a gap stands before everything read
//! behind it; totals count every line once, and only together with the block that makes it durable.

use crate::event::encoding::{OriginState, RecordHead, SourceGap, Span};
use crate::event::{LineKind, Origin};
use crate::sources::{Chunk, Lines};
use crate::spool::{Append, BlockKind, record};

/// A block is cut when its payload reaches this size.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Blocks that wait for the next sync, and the state behind them.
pub(super) struct Ledger {
    origins: Vec<OriginLedger>,
    pending: Vec<PendingBlock>,
    pending_bytes: usize,
    /// Payload buffers of blocks that are durable, to be used again.
    spare: Vec<Vec<u8>>,
}

/// What is known of one origin.
pub(super) struct OriginLedger {
    pub(super) origin: Origin,
    pub(super) state: OriginState,
    /// Newest gaps, at most [`GAPS_SHOWN`], oldest first.
    pub(super) gaps: Vec<SourceGap>,
    key: Vec<u8>,
    /// Index in `pending` of the data block that takes more lines.
    open: Option<usize>,
    /// Nothing was read since the start: a gap found now may be the last one recorded before it.
    fresh: bool,
}

/// Gaps shown in status, and kept by the spool, for each origin and sink.
pub(super) const GAPS_SHOWN: usize = 100;

struct PendingBlock {
    kind: BlockKind,
    key: Vec<u8>,
    state: Vec<u8>,
    note: Vec<u8>,
    /// Pieces before it that no record was made of are void.
    anew: bool,
    count: u32,
    payload: Vec<u8>,
    /// Of a data block that may take more lines.
    span: Option<Span>,
}

impl Ledger {
    /// A ledger that goes on from what the spool gave back.
    pub(super) fn new(origins: Vec<(Origin, OriginState, Vec<SourceGap>)>) -> Self {
        let origins = origins
            .into_iter()
            .map(|(origin, state, gaps)| OriginLedger {
                key: origin.encode(),
                origin,
                state,
                gaps,
                open: None,
                fresh: true,
            })
            .collect();
        Ledger {
            origins,
            pending: Vec::new(),
            pending_bytes: 0,
            spare: Vec::new(),
        }
    }

    /// The origins, in the order they were given.
    pub(super) fn origins(&self) -> &[OriginLedger] {
        &self.origins
    }

    /// Payload bytes that wait for a sync.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether anything but moved positions waits for a sync.
    pub(super) fn has_records(&self) -> bool {
        self.pending
            .iter()
            .any(|block| block.kind != BlockKind::Position)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes what source number `index` read next.
    pub(super) fn absorb(&mut self, index: usize, chunk: Chunk) {
        let moved = self.origins[index].state.positions != chunk.positions;
        // One of them would be lost below.
        assert!(
            chunk.piece.is_none() || chunk.lines.heads.is_empty(),
            "a piece stands alone in its chunk"
        );
        let followed = !chunk.lines.heads.is_empty() || chunk.piece.is_some();
        let nothing_else = chunk.gaps.is_empty() && !followed;
        // The positions are those behind the lines. Until the lines are durable too, a gap stands with the positions
        // before it: after a crash between the two it is found again, and not recorded a second time (see `gap`).
        if !followed {
            self.origins[index]
                .state
                .positions
                .clone_from(&chunk.positions);
        }
        for gap in chunk.gaps {
            self.gap(index, gap);
        }
        let mut head = None;
        if let (Some(span), Some(piece)) = (chunk.span, chunk.piece) {
            // The position moves past an oversize line only with the block that ends it: a piece alone is void.
            self.piece(index, piece.bytes, piece.first, &span);
            head = piece.head;
        }
        self.origins[index].state.positions = chunk.positions;
        self.origins[index].state.totals.read_bytes += chunk.read_bytes;
        self.origins[index].fresh &= !followed;
        match (chunk.span, head) {
            (Some(span), Some(head)) => self.oversize(index, &head, &span),
            (Some(span), None) if !chunk.lines.heads.is_empty() => {
                self.lines(index, &chunk.lines, &span)
            }
            _ => {}
        }
        if nothing_else && moved {
            self.position(index);
        }
    }

    /// Records a sink's gap.
    pub(super) fn sink_gap(&mut self, key: Vec<u8>, note: Vec<u8>) {
        self.push(PendingBlock {
            kind: BlockKind::Gap,
            key,
            state: Vec::new(),
            note,
            anew: false,
            count: 0,
            payload: Vec::new(),
            span: None,
        });
    }

    /// The blocks that wait, in order, as the spool takes them.
    pub(super) fn blocks(&self) -> Vec<Append<'_>> {
        self.pending
            .iter()
            .map(|block| Append {
                kind: block.kind,
                key: &block.key,
                state: &block.state,
                note: &block.note,
                anew: block.anew,
                count: block.count,
                payload: &block.payload,
            })
            .collect()
    }

    /// The blocks are durable, or given up at the end of the process.
    pub(super) fn committed(&mut self) {
        const SPARE_MAX: usize = 4;
        for block in self.pending.drain(..) {
            let mut payload = block.payload;
            if self.spare.len() < SPARE_MAX && payload.capacity() >= BLOCK_BYTES / 4 {
                payload.clear();
                self.spare.push(payload);
            }
        }
        self.pending_bytes = 0;
        for origin in &mut self.origins {
            origin.open = None;
        }
    }

    fn gap(&mut self, index: usize, gap: SourceGap) {
        let origin = &mut self.origins[index];
        let place = |gap: &SourceGap| (gap.reason, gap.generation, gap.from, gap.to);
        if origin.fresh
            && origin
                .gaps
                .last()
                .is_some_and(|last| place(last) == place(&gap))
        {
            return;
        }
        origin.state.totals.gaps.add(gap.reason);
        let note = gap.encode();
        if origin.gaps.len() == GAPS_SHOWN {
            origin.gaps.remove(0);
        }
        origin.gaps.push(gap);
        self.push_of(index, BlockKind::Gap, note, 0, Vec::new());
    }

    fn position(&mut self, index: usize) {
        // Only the newest position list of an origin matters: one that still waits is overwritten.
        let origin = &self.origins[index];
        let state = origin.state.encode();
        let key = &origin.key;
        match self.pending.last_mut() {
            Some(last) if last.kind == BlockKind::Position && last.key == *key => {
                last.state = state
            }
            _ => self.push_of(index, BlockKind::Position, Vec::new(), 0, Vec::new()),
        }
    }

    fn piece(&mut self, index: usize, bytes: Vec<u8>, first: bool, span: &Span) {
        if !bytes.is_empty() {
            self.pending_bytes += bytes.len();
            self.push_of(index, BlockKind::Piece, span.encode(), 0, bytes);
            self.begins_anew(first);
        }
    }

    /// Says of the block pushed last whether it goes on with what was given out in pieces. The file may have been cut,
    /// or could not be read for a while, in the middle of an oversize line: then its pieces come once more, or never.
    fn begins_anew(&mut self, anew: bool) {
        if let Some(block) = self.pending.last_mut() {
            block.anew = anew;
        }
    }

    /// Ends an oversize line, whose bytes are in the pieces before.
    fn oversize(&mut self, index: usize, head: &RecordHead, span: &Span) {
        let totals = &mut self.origins[index].state.totals;
        totals.read_events += 1;
        totals.malformed_events += 1;
        let (mut payload, mut encoded) = (Vec::new(), Vec::new());
        head.encode(&mut encoded);
        record::push(&mut payload, &encoded, b"");
        self.push_of(index, BlockKind::Data, span.encode(), 1, payload);
    }

    fn lines(&mut self, index: usize, lines: &Lines, span: &Span) {
        let totals = &mut self.origins[index].state.totals;
        totals.read_events += lines.heads.len() as u64;
        totals.malformed_events += lines
            .heads
            .iter()
            .filter(|head| head.kind != LineKind::Event)
            .count() as u64;
        let newest = lines.heads.iter().filter_map(|head| head.time_us).max();
        let known = &mut self.origins[index].state.last_event_us;
        *known = newest.max(*known);
        let state = self.origins[index].state.encode();
        let goes_on = |block: &PendingBlock| {
            block.payload.len() + lines.bytes.len() <= BLOCK_BYTES
                && block.span.is_some_and(|open| {
                    open.generation == span.generation && open.end == span.start
                })
        };
        let at = match self.origins[index].open {
            Some(at) if goes_on(&self.pending[at]) => at,
            _ => {
                let payload = self.spare.pop().unwrap_or_default();
                self.push_of(index, BlockKind::Data, span.encode(), 0, payload);
                self.begins_anew(true);
                let at = self.pending.len() - 1;
                self.origins[index].open = Some(at);
                at
            }
        };
        let block = &mut self.pending[at];
        let before = block.payload.len();
        encode_payload(lines, &mut block.payload);
        self.pending_bytes += block.payload.len() - before;
        block.count += u32::try_from(lines.heads.len()).unwrap_or(u32::MAX);
        let whole = Span {
            start: block.span.map_or(span.start, |open| open.start),
            ..*span
        };
        block.note = whole.encode();
        block.span = Some(whole);
        block.state = state;
    }

    fn push_of(
        &mut self,
        index: usize,
        kind: BlockKind,
        note: Vec<u8>,
        count: u32,
        payload: Vec<u8>,
    ) {
        let origin = &mut self.origins[index];
        origin.open = None;
        let (key, state) = (origin.key.clone(), origin.state.encode());
        self.push(PendingBlock {
            kind,
            key,
            state,
            note,
            anew: false,
            count,
            payload,
            span: None,
        });
    }

    fn push(&mut self, block: PendingBlock) {
        self.pending.push(block);
    }
}

/// Appends lines to a payload. Equal lines give equal bytes: a block read again from its source has the same CRC.
pub(super) fn encode_payload(lines: &Lines, payload: &mut Vec<u8>) {
    let mut head_bytes = Vec::with_capacity(128);
    for (head, line) in lines.iter() {
        head_bytes.clear();
        head.encode(&mut head_bytes);
        record::push(payload, &head_bytes, line);
    }
}

#[cfg(test)]
mod tests;
