//! Which segments may go: whole ones, oldest first, never the newest, never one whose pieces a later record needs.

use std::io;

use super::Spool;
use super::reader::rebuilt_path;

impl Spool {
    /// Tells that no sink needs records below `record` any more; frees segments. Cheap when nothing can be freed.
    /// `record` must not be above the lowest durable cursor. After an error the rest is freed by the next call.
    pub fn release(&mut self, record: u64) -> io::Result<()> {
        let released = {
            let mut state = self.shelf.state();
            let keep = keep_from(&state.segments, record, self.oldest_open_piece());
            let released: Vec<_> = state.segments.drain(..keep).collect();
            released
        };
        self.released.extend(released);
        if self.released.is_empty() {
            return Ok(());
        }
        while let Some(segment) = self.released.first() {
            self.shelf.save_damage(segment)?;
            remove(&self.shelf, &segment.path)?;
            let number = segment.number;
            self.remove_rebuilt(number)?;
            self.released.remove(0);
        }
        self.space_was_freed();
        self.shelf.fs.sync_dir(&self.shelf.dir)
    }

    /// The last record of the oldest segment: overtaking a sink to behind it frees that segment. `None` where the
    /// oldest segment with records is the newest one, which is never freed.
    pub fn oldest_segment_last_record(&self) -> Option<u64> {
        let state = self.shelf.state();
        let oldest = state.segments.first()?.first;
        let next = state
            .segments
            .iter()
            .find(|segment| segment.first > oldest)?;
        Some(next.first - 1)
    }

    /// Removes what was rebuilt of a segment's blocks.
    fn remove_rebuilt(&mut self, number: u64) -> io::Result<()> {
        let places: Vec<_> = self
            .shelf
            .state()
            .restored
            .keys()
            .filter(|(segment, _)| *segment == number)
            .copied()
            .collect();
        for place in places {
            remove(&self.shelf, &rebuilt_path(&self.shelf, place.0, place.1))?;
            self.shelf.state().restored.remove(&place);
        }
        Ok(())
    }
}

fn remove(shelf: &super::shelf::Shelf, path: &std::path::Path) -> io::Result<()> {
    match shelf.fs.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How many of the oldest segments hold nothing that is needed from `record` on.
fn keep_from(segments: &[super::shelf::Segment], record: u64, open_pieces: Option<u64>) -> usize {
    let Some(newest) = segments.len().checked_sub(1) else {
        return 0;
    };
    // The last segment that begins at or below the record holds it, and so do all behind.
    let holds = segments
        .partition_point(|segment| segment.first <= record)
        .saturating_sub(1)
        .min(newest);
    let needed = segments[holds]
        .oldest_pieces
        .min(open_pieces.unwrap_or(u64::MAX));
    let pieces = segments.partition_point(|segment| segment.number < needed);
    holds.min(pieces)
}
