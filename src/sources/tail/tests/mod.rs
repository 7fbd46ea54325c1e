//! The whole source over a model of lumberjack and over real files.

mod interleavings;

mod hazards;

mod real_files;

use std::sync::Arc;
use std::time::Duration;

use super::backlog::LogNames;
use super::model::{Habits, Model, ModelWatch};
use super::reading::Sizes;
use super::resume::Start;
use super::retention::Retention;
use super::{Settings, Tail};
use crate::event::encoding::{GenerationPosition, SourceGap};
use crate::event::{Generation, Origin};
use crate::sources::{Chunk, Next, Source, SourceContext};

/// A log in which nothing happens by itself.
pub(super) const QUIET_HABITS: Habits = Habits {
    compress: false,
    backups: 0,
    truncates: false,
    clock_steps_back: false,
    crashes: false,
    file_max: 1 << 20,
    line_max: 20,
};

pub(super) fn settings() -> Settings {
    Settings {
        start: Start::Oldest,
        line_max: 1 << 20,
        hold_deleted: u64::MAX,
        retention: Retention::default(),
        read_rate: None,
        // Small, so that lines cross every border.
        sizes: Sizes {
            read: 64,
            parcel: 150,
            lines: 7,
        },
    }
}

pub(super) fn origin() -> Origin {
    Origin {
        cluster: "c".into(),
        node: "n".into(),
        source: "apiserver".into(),
    }
}

pub(super) fn tail_of(
    model: &Model,
    settings: Settings,
    positions: Vec<GenerationPosition>,
) -> Tail {
    let clock = model.world().clock.clone();
    let context = SourceContext {
        origin: origin(),
        clock,
        positions,
        last_event_us: None,
    };
    let names = LogNames::new(std::path::Path::new("/logs/audit.log")).unwrap();
    Tail::new(
        context,
        names,
        Arc::new(model.clone()),
        Box::new(ModelWatch(model.clone())),
        settings,
    )
}

/// A line or a gap, as it came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Out {
    Line {
        generation: Generation,
        offset: u64,
        bytes: Vec<u8>,
    },
    Gap(SourceGap),
}

/// What a chunk brought, in order; with the pieces of an unfinished oversize line kept in `pieces`.
pub(super) fn unpack(chunk: &Chunk, pieces: &mut Vec<u8>) -> Vec<Out> {
    let mut out: Vec<Out> = chunk.gaps.iter().cloned().map(Out::Gap).collect();
    let generation = chunk.span.map(|span| span.generation);
    for (head, line) in chunk.lines.iter() {
        out.push(Out::Line {
            generation: generation.unwrap(),
            offset: head.offset,
            bytes: line.to_vec(),
        });
    }
    if let (Some(first), Some(last)) = (chunk.lines.heads.first(), chunk.lines.heads.last()) {
        let span = chunk.span.unwrap();
        assert_eq!(span.start, first.offset);
        assert!(span.end == last.offset + last.length || span.end == last.offset + last.length + 1);
    }
    if let Some(piece) = &chunk.piece {
        assert!(chunk.lines.heads.is_empty());
        if piece.first {
            pieces.clear();
        }
        pieces.extend_from_slice(&piece.bytes);
        if let Some(head) = &piece.head {
            assert_eq!(head.length, pieces.len() as u64);
            let bytes = std::mem::take(pieces);
            out.push(Out::Line {
                generation: generation.unwrap(),
                offset: head.offset,
                bytes,
            });
        }
    }
    out
}

/// Everything that is there now.
pub(super) fn drain(tail: &mut Tail) -> Vec<Out> {
    let mut out = Vec::new();
    let mut pieces = Vec::new();
    let mut idle = 0;
    // Twice: a file is gone only when it is missing from two listings.
    while idle < 3 {
        match tail.next(Duration::from_secs(1)).unwrap() {
            Next::Chunk(chunk) => out.extend(unpack(&chunk, &mut pieces)),
            Next::Idle => idle += 1,
            Next::Finished => break,
        }
    }
    out
}

/// The lines alone, as text.
pub(super) fn lines(out: &[Out]) -> Vec<String> {
    let lines = out.iter().filter_map(|out| match out {
        Out::Line { bytes, .. } => Some(String::from_utf8_lossy(bytes).into_owned()),
        Out::Gap(_) => None,
    });
    lines.collect()
}

/// The gaps alone.
pub(super) fn gaps(out: &[Out]) -> Vec<SourceGap> {
    let gaps = out.iter().filter_map(|out| match out {
        Out::Gap(gap) => Some(gap.clone()),
        Out::Line { .. } => None,
    });
    gaps.collect()
}
