//! One thread per source: reads and hands over to the intake. While the intake takes nothing, it keeps watch over the
//! source's files, so that deleted ones stay readable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::inbox::NotTaken;
use super::intake::{IntakeInbox, Work};
use super::overview::SourceWatch;
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::event::encoding::RecordHead;
use crate::sources::{Chunk, Next, Source, SourceError, SourceState};

/// Longest wait of a source for new data when nothing wakes it.
const WAIT: Duration = Duration::from_secs(1);

/// Unread data that would be lost within this time is worth overtaking a sink for (design D3).
const LOSS_HORIZON: Duration = Duration::from_secs(60);

/// What a thread needs beside its source.
pub(super) struct SourceThread {
    pub(super) index: usize,
    pub(super) source: Box<dyn Source>,
    pub(super) inbox: Arc<IntakeInbox>,
    pub(super) watch: SourceWatch,
    pub(super) pressure: Arc<Pressure>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) clock: Arc<dyn Clock>,
}

impl SourceThread {
    /// Reads until the source ends, fails or `stop` is set.
    pub(super) fn run(mut self) {
        let mut pressing = false;
        let result = loop {
            if self.stop.load(Ordering::Acquire) {
                break Ok(());
            }
            let next = self.source.next(WAIT);
            self.publish(&mut pressing);
            match next {
                Ok(Next::Chunk(chunk)) => {
                    if !self.hand_over(chunk, &mut pressing) {
                        break Ok(());
                    }
                }
                Ok(Next::Idle) => {}
                Ok(Next::Finished) => break Ok(()),
                Err(error) => {
                    self.fail(&error);
                    break Err(error);
                }
            }
        };
        self.pressure.change(pressing, false);
        let mut ended = Work::Ended { result };
        while let Err(NotTaken::Full(back)) = self.inbox.put(0, ended, WAIT) {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            ended = back;
        }
    }

    /// `false`: nobody takes it any more, or told to stop; it is read again at the next start.
    fn hand_over(&mut self, chunk: Chunk, pressing: &mut bool) -> bool {
        let bytes = weight(&chunk);
        let mut work = Work::Chunk {
            source: self.index,
            chunk: Box::new(chunk),
        };
        loop {
            match self.inbox.put(bytes, work, WAIT) {
                Ok(()) => return true,
                Err(NotTaken::Closed) => return false,
                Err(NotTaken::Full(back)) => {
                    work = back;
                    self.source.look();
                    self.publish(pressing);
                    if self.stop.load(Ordering::Acquire) {
                        return false;
                    }
                }
            }
        }
    }

    fn publish(&self, pressing: &mut bool) {
        let now = self.source.about_to_lose(LOSS_HORIZON);
        self.pressure.change(*pressing, now);
        *pressing = now;
        self.watch
            .publish(self.source.report(), self.clock.monotonic());
    }

    fn fail(&self, error: &SourceError) {
        tracing::error!(source = %error.source_name, "{}", error.problem);
        let mut report = self.source.report();
        report.state = SourceState::Failed;
        report.reason = Some(error.problem.clone());
        self.watch.publish(report, self.clock.monotonic());
    }
}

/// What a chunk holds in memory, about. Lines may be empty, but each has a head.
fn weight(chunk: &Chunk) -> usize {
    let piece = chunk.piece.as_ref().map_or(0, |piece| piece.bytes.len());
    let heads = chunk.lines.heads.len() * size_of::<RecordHead>();
    size_of::<Chunk>() + chunk.lines.bytes.len() + heads + piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Generation, IdPrefix, LineKind, Origin};

    #[test]
    fn a_chunk_of_empty_lines_weighs_what_their_heads_do() {
        let origin = Origin {
            cluster: "c".into(),
            node: "n".into(),
            source: "s".into(),
        };
        let ids = IdPrefix::new(&origin, &Generation([7; 32]));
        let mut chunk = Chunk::default();
        for offset in 0..1000 {
            chunk
                .lines
                .push(&ids, offset, LineKind::Malformed, None, b"");
        }
        assert!(weight(&chunk) > 100_000, "{}", weight(&chunk));
    }
}
