//! The audit log on disk as a source: one stream across rotations (design D1). Here is the glue: waiting, reading
//! the file that `rotation` names, handing on what `reading` makes of its bytes.
//!
//! Invariants: nothing is read past an unfinished older file; a position moves only with the chunk that carries what
//! was before it; a gap goes out no later than what is behind it; the directory listing is the truth, inotify only
//! ends a wait early.

mod backlog;

mod disk;

mod file_identity;

mod rotation;

mod resume;

mod retention;

mod reading;

mod listing;

mod reread;

mod watcher;

mod config;

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::event::Origin;
use crate::event::encoding::{GapReason, GenerationPosition, SourceGap};

use super::{Chunk, Next, Reread, Source, SourceContext, SourceError, SourceReport, SourceState};
use backlog::{Form, LogNames, contents, is_damage};
use disk::{Disk, OpenFile, RealDisk};
use file_identity::first_line;
use listing::Ignored;
use reading::{Fetched, Parcel, Place, Reading, Sizes};
use resume::Start;
use retention::Present;
use rotation::{FileId, QUIET, Rotation};
use watcher::{Hint, Watch, Watcher};

pub use config::KIND;
pub(super) use config::LINE_MAX;
pub use retention::Retention;

/// The directory is listed at least so often.
const POLL: Duration = Duration::from_secs(1);

/// After everything was read, the file is not looked at again any sooner: a busy log is read in bites, not line by
/// line, at a cost in delay that nobody notices.
const BITE: Duration = Duration::from_millis(20);

/// A damaged `.gz` is tried again this often; decompressing it costs CPU.
const DAMAGE_RETRY: Duration = Duration::from_secs(30);

/// With `--once`, so often at most until files stop coming and going.
const LOOKS_AT_ONCE: usize = 100;

/// A long run of NULs or of files without lines gives nothing to hand on: after so many steps, of at most one read
/// each, the directory is looked at again.
const STEPS_AT_ONCE: usize = 256;

/// Whether there may be more to read at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Done,
    Unfinished,
}

/// What the configuration says of a file source.
#[derive(Clone, Debug)]
struct Settings {
    start: Start,
    line_max: usize,
    hold_deleted: u64,
    retention: Retention,
    /// Bytes per second.
    read_rate: Option<u64>,
    sizes: Sizes,
}

/// A `.gz` that could not be read to its end.
#[derive(Debug)]
struct Damage {
    since: Duration,
    tried: Duration,
    size: u64,
    /// For the report.
    reason: String,
}

/// Follows one log.
struct Tail {
    origin: Origin,
    clock: Arc<dyn Clock>,
    names: LogNames,
    disk: Arc<dyn Disk>,
    watcher: Box<dyn Watch>,
    settings: Settings,
    rotation: Rotation,
    handles: BTreeMap<FileId, Arc<dyn OpenFile>>,
    reading: Option<Reading>,
    /// Files whose bytes before the offset were compared since the last wait.
    checked: BTreeSet<FileId>,
    damage: BTreeMap<FileId, Damage>,
    /// Ready to be handed on.
    ready: VecDeque<Chunk>,
    /// Recorded, and not yet handed on.
    gaps: Vec<SourceGap>,
    last_event_us: Option<i64>,
    /// The durable positions, until the files they name were found.
    stored: Vec<GenerationPosition>,
    /// The position list that was handed on last.
    given: Vec<GenerationPosition>,
    started: bool,
    limited: bool,
    has_live: bool,
    list_again: bool,
    /// Files still came and went when the directory was looked at last, so an older one than those found may have been
    /// missed: nothing is read until that is known.
    unsettled: bool,
    listed_at: Option<Duration>,
    reason: Option<String>,
    /// Said last in the log, so that it is not said each second.
    told: Option<String>,
    ignored: Ignored,
    /// For `read_rate`: bytes that may be read now, as of the moment beside it.
    tokens: (u64, Duration),
}

impl Tail {
    fn new(
        context: SourceContext,
        names: LogNames,
        disk: Arc<dyn Disk>,
        watcher: Box<dyn Watch>,
        settings: Settings,
    ) -> Self {
        let tokens = (settings.read_rate.unwrap_or(0), context.clock.monotonic());
        Tail {
            origin: context.origin,
            clock: context.clock,
            names,
            disk,
            watcher,
            settings,
            rotation: Rotation::default(),
            handles: BTreeMap::new(),
            reading: None,
            checked: BTreeSet::new(),
            damage: BTreeMap::new(),
            ready: VecDeque::new(),
            gaps: Vec::new(),
            last_event_us: context.last_event_us,
            given: context.positions.clone(),
            stored: context.positions,
            started: false,
            limited: false,
            has_live: false,
            list_again: false,
            unsettled: false,
            listed_at: None,
            reason: None,
            told: None,
            ignored: Ignored::new(),
            tokens,
        }
    }

    /// One step of reading. False when there is nothing to do now.
    fn step(&mut self, now: Duration) -> bool {
        self.retire(now);
        let current = self.rotation.current().map(|file| file.id);
        let id = match (&self.reading, current) {
            // Between the parts of one line nothing else may come.
            (Some(reading), _) if reading.in_oversize_line() => reading.id,
            (_, Some(id)) => id,
            (_, None) => return false,
        };
        if self.unsettled {
            return false;
        }
        let Some(file) = self.handles.get(&id).cloned() else {
            return false;
        };
        if self.rotation.file(id).is_none_or(|file| file.finished()) {
            return false;
        }
        match self.read(id, &file, now) {
            Ok(more) => more,
            Err(error) => {
                self.stop_reading(id);
                let gzip = self
                    .rotation
                    .file(id)
                    .is_some_and(|file| file.form() == Form::Gzip);
                if gzip && is_damage(&error) {
                    return self.damaged(id, &error, now);
                }
                self.trouble(self.name_of(id), &error);
                false
            }
        }
    }

    /// Steps until something can be handed on, nothing is left to do, or it is time to look around again.
    fn steps(&mut self, now: Duration) -> Steps {
        for _ in 0..STEPS_AT_ONCE {
            if !self.ready.is_empty() || !self.step(now) {
                return Steps::Done;
            }
        }
        Steps::Unfinished
    }

    /// Retires the oldest files, as far as they are due.
    fn retire(&mut self, now: Duration) {
        while let Some(id) = self.rotation.due(now) {
            if self.rotation.finish(id) {
                return;
            }
            let operations = self.rotation.forget(id);
            self.perform(operations, now);
        }
    }

    /// Reads on in the file that is to be read.
    fn read(&mut self, id: FileId, file: &Arc<dyn OpenFile>, now: Duration) -> io::Result<bool> {
        if self.waits_for_repair(id, file, now)? {
            return Ok(false);
        }
        if !self.check(id, file, now)? || !self.identify(id, file)? {
            return Ok(true);
        }
        if self.reading.as_ref().is_none_or(|reading| reading.id != id) && !self.begin(id, file)? {
            return Ok(true);
        }
        let budget = self.budget(now);
        if budget == 0 {
            return Ok(false);
        }
        let (Some(reading), Some(tracked)) = (&mut self.reading, self.rotation.file(id)) else {
            return Ok(false);
        };
        let (end, finishing, form) = (tracked.end(), tracked.finishing(), tracked.form());
        let before = reading.read_offset();
        let fetched = reading.fetch(end, budget)?;
        let read = reading.read_offset();
        if before == 0 && fetched == Fetched::Bytes && form == Form::Plain {
            // No bytes before the offset can tell that it was cut and has grown again since it was identified.
            let mut wanted = io::Read::take(contents(file, form), end);
            if first_line(&mut wanted, finishing)? != tracked.generation {
                self.begin_anew(id);
                return Ok(true);
            }
        }
        if self.settings.read_rate.is_some() {
            self.tokens.0 = self.tokens.0.saturating_sub(read - before);
        }
        let mut parcels = Vec::new();
        match fetched {
            Fetched::Bytes => reading.frame(&mut parcels),
            Fetched::End if finishing => reading.finish(&mut parcels),
            Fetched::End => reading.flush(&mut parcels),
        }
        let oversize = reading.in_oversize_line();
        self.hand_on(id, parcels);
        match fetched {
            Fetched::Bytes => {}
            Fetched::End if finishing => {
                let operations = self.rotation.forget(id);
                self.perform(operations, now);
            }
            Fetched::End if form == Form::Gzip => {
                self.rotation.read_to(id, read);
                self.rotation.gzip_ended(id);
                self.damage.remove(&id);
            }
            // It was cut while we read: look again before anything else is done with it.
            Fetched::End if read < end => {
                self.checked.remove(&id);
                return Ok(oversize);
            }
            Fetched::End => self.rotation.read_to(id, read),
        }
        Ok(true)
    }

    /// Before a read that follows a wait: is the file what it was? False where it begins anew.
    fn check(&mut self, id: FileId, file: &Arc<dyn OpenFile>, now: Duration) -> io::Result<bool> {
        if !self.checked.insert(id) {
            return Ok(true);
        }
        let look = self.rotation.looked(id, file.stat()?, now);
        let sound = look == rotation::Look::Sound;
        self.settle(id, look);
        let Some(tracked) = self.rotation.file(id) else {
            return Ok(false);
        };
        if !sound || tracked.form() == Form::Gzip || tracked.offset == 0 {
            return Ok(sound);
        }
        if self.still_holds(id)? {
            return Ok(true);
        }
        self.begin_anew(id);
        Ok(false)
    }

    /// Records what was lost of a file and begins it anew.
    fn begin_anew(&mut self, id: FileId) {
        self.stop_reading(id);
        if let Some(loss) = self.rotation.overwritten(id) {
            self.lose(loss);
        }
    }

    /// Learns the generation of a file. False where it has none yet: then there is nothing to read.
    fn identify(&mut self, id: FileId, file: &Arc<dyn OpenFile>) -> io::Result<bool> {
        let Some(tracked) = self.rotation.file(id) else {
            return Ok(false);
        };
        if tracked.generation.is_some() {
            return Ok(true);
        }
        let (form, end) = (tracked.form(), tracked.end());
        let complete = form == Form::Gzip || tracked.finishing();
        let mut contents = contents(file, form);
        let mut wanted = io::Read::take(
            &mut contents,
            if form == Form::Plain { end } else { u64::MAX },
        );
        match first_line(&mut wanted, complete)? {
            Some(generation) => {
                self.rotation.identified(id, generation);
                Ok(true)
            }
            None => {
                self.rotation.read_to(id, end);
                if form == Form::Gzip {
                    self.rotation.gzip_ended(id);
                }
                if complete && form == Form::Plain {
                    let operations = self.rotation.forget(id);
                    self.perform(operations, self.clock.monotonic());
                }
                Ok(false)
            }
        }
    }

    /// Begins to read a file at its position. False where the bytes before it are not those that were read.
    fn begin(&mut self, id: FileId, file: &Arc<dyn OpenFile>) -> io::Result<bool> {
        let Some(tracked) = self.rotation.file(id) else {
            return Ok(false);
        };
        let Some(generation) = tracked.generation else {
            return Ok(false);
        };
        let place = Place {
            id,
            generation,
            offset: tracked.offset,
            tail: tracked.tail,
        };
        let form = tracked.form();
        let line_max = self.settings.line_max;
        match Reading::begin(
            &self.origin,
            &place,
            file,
            form,
            line_max,
            self.settings.sizes,
        )? {
            Some(reading) => self.reading = Some(reading),
            None => {
                self.begin_anew(id);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets what was read ahead of a file's position. All whole lines were handed on before.
    fn stop_reading(&mut self, id: FileId) {
        self.reading.take_if(|reading| reading.id == id);
    }

    /// Whether a damaged `.gz` is not to be tried yet.
    fn waits_for_repair(
        &self,
        id: FileId,
        file: &Arc<dyn OpenFile>,
        now: Duration,
    ) -> io::Result<bool> {
        let Some(damage) = self.damage.get(&id) else {
            return Ok(false);
        };
        let settled =
            file.stat()?.size == damage.size && now.saturating_sub(damage.tried) < DAMAGE_RETRY;
        Ok(settled && !self.limited)
    }

    /// A `.gz` is incomplete or damaged: it is tried again until it has stood still for long enough, then its rest is
    /// a gap. With `--once` nobody will mend it meanwhile.
    fn damaged(&mut self, id: FileId, error: &io::Error, now: Duration) -> bool {
        let size = self.rotation.file(id).map_or(0, |file| file.size);
        let name = self.name_of(id);
        let reason = format!("{name} is incomplete or damaged and will be tried again: {error}");
        if !self.damage.contains_key(&id) {
            tracing::warn!(source = %self.origin.source, "{reason}");
        }
        let damage = self.damage.entry(id).or_insert(Damage {
            since: now,
            tried: now,
            size,
            reason,
        });
        damage.tried = now;
        if damage.size != size {
            damage.size = size;
            damage.since = now;
        }
        let given_up = self.limited || now.saturating_sub(damage.since) >= QUIET;
        if given_up {
            let operations = self.rotation.damaged(id);
            self.perform(operations, now);
        }
        given_up
    }

    /// Makes chunks of parcels.
    fn hand_on(&mut self, id: FileId, parcels: Vec<Parcel>) {
        for parcel in parcels {
            if let Some((offset, tail)) = parcel.resume {
                self.rotation.advanced(id, offset, tail);
            }
            if let Some((from, to)) = parcel.nul {
                let generation = self.rotation.file(id).and_then(|file| file.generation);
                self.lose(rotation::Loss {
                    reason: GapReason::Nul,
                    generation,
                    from: Some(from),
                    to: Some(to),
                });
                continue;
            }
            let heads = parcel
                .lines
                .heads
                .iter()
                .chain(parcel.piece.iter().filter_map(|piece| piece.head.as_ref()));
            let mut times = heads.filter_map(|head| head.time_us);
            let first_us = times.next();
            self.last_event_us = times.next_back().or(first_us).or(self.last_event_us);
            let mut gaps = std::mem::take(&mut self.gaps);
            for gap in &mut gaps {
                gap.before_us = first_us;
            }
            self.given = self.rotation.positions();
            self.ready.push_back(Chunk {
                gaps,
                span: parcel.span,
                lines: parcel.lines,
                piece: parcel.piece,
                positions: self.given.clone(),
                read_bytes: parcel.read_bytes,
            });
        }
    }

    /// Gaps with nothing behind them yet, and positions that moved without lines.
    fn without_lines(&mut self) -> Option<Chunk> {
        let positions = self.rotation.positions();
        if !self.started
            || (self.gaps.is_empty() && (positions == self.given || positions.is_empty()))
        {
            return None;
        }
        self.given = positions.clone();
        Some(Chunk {
            gaps: std::mem::take(&mut self.gaps),
            positions,
            ..Chunk::default()
        })
    }

    /// How many bytes may be read now.
    fn budget(&mut self, now: Duration) -> u64 {
        let Some(rate) = self.settings.read_rate else {
            return u64::MAX;
        };
        let (tokens, at) = self.tokens;
        let earned = now.saturating_sub(at).as_secs_f64() * rate as f64;
        // At most a second's worth is saved up.
        if earned >= 1.0 {
            self.tokens = (tokens.saturating_add(earned as u64).min(rate), now);
        }
        self.tokens.0
    }

    /// Whether the directory is to be listed again though nothing was heard.
    fn poll_due(&self, now: Duration) -> bool {
        self.unsettled
            || self
                .listed_at
                .is_none_or(|at| now.saturating_sub(at) >= POLL)
    }

    fn hear(&mut self, hint: Hint, now: Duration) {
        if hint == Hint::Names || self.poll_due(now) {
            self.look_around(true, now);
        } else if hint == Hint::Data {
            self.look_around(false, now);
        }
    }

    fn done(&self, now: Duration) -> bool {
        self.limited && self.rotation.all_finished() && self.rotation.due(now).is_none()
    }
}

impl Source for Tail {
    fn next(&mut self, wait: Duration) -> Result<Next, SourceError> {
        let deadline = self.clock.monotonic() + wait;
        let mut hint = if self.ready.is_empty() {
            self.watcher.wait(Duration::ZERO)
        } else {
            Hint::Nothing
        };
        // A wait that ended with the poll is not gone on with: the next one then begins with it, and an idle log costs
        // one wake-up a second instead of one for the poll and one for the deadline.
        let mut waited = false;
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Next::Chunk(chunk));
            }
            let now = self.clock.monotonic();
            self.hear(hint, now);
            if self.steps(now) == Steps::Unfinished {
                // Much is read that gives nothing to hand on. Files still come and go meanwhile, and one may be told to end.
                hint = self.watcher.wait(Duration::ZERO);
                if hint == Hint::Woken {
                    return Ok(Next::Idle);
                }
                continue;
            }
            if !self.ready.is_empty() {
                continue;
            }
            if let Some(chunk) = self.without_lines() {
                return Ok(Next::Chunk(chunk));
            }
            let now = self.clock.monotonic();
            if self.done(now) {
                return Ok(Next::Finished);
            }
            if let (true, Some(reason)) = (self.limited, &self.reason) {
                return Err(self.error(reason.clone()));
            }
            let left = deadline.saturating_sub(now);
            if left.is_zero() || hint == Hint::Woken || (waited && hint == Hint::Nothing) {
                return Ok(Next::Idle);
            }
            let until_poll = if self.unsettled { BITE } else { POLL }
                .saturating_sub(now.saturating_sub(self.listed_at.unwrap_or(now)));
            let until_tokens = if self.tokens.0 == 0 && self.settings.read_rate.is_some() {
                BITE
            } else {
                POLL
            };
            waited = true;
            hint = self.watcher.wait(
                left.min(until_poll.max(Duration::from_millis(1)))
                    .min(until_tokens),
            );
            if hint == Hint::Data {
                // Let a bite of it come together; names are looked at without delay.
                self.watcher
                    .pause(BITE.min(deadline.saturating_sub(self.clock.monotonic())));
                hint = hint.max(self.watcher.wait(Duration::ZERO));
            }
        }
    }

    fn limit_to_present(&mut self) -> Result<(), SourceError> {
        let now = self.clock.monotonic();
        self.look_around(true, now);
        for _ in 0..LOOKS_AT_ONCE {
            if self.unsettled {
                self.look_around(true, now);
            }
        }
        if let Some(reason) = &self.reason {
            return Err(self.error(reason.clone()));
        }
        if self.rotation.files().is_empty() && self.gaps.is_empty() {
            let path = self.names.dir().join(self.names.live());
            let problem = format!(
                "nothing to read: there is no {} and no backup of it",
                path.display()
            );
            return Err(self.error(problem));
        }
        self.rotation.limit();
        self.limited = true;
        Ok(())
    }

    fn look(&mut self) {
        let now = self.clock.monotonic();
        let hint = self.watcher.wait(Duration::ZERO);
        self.hear(hint, now);
    }

    fn report(&self) -> SourceReport {
        let unread: u64 = self
            .rotation
            .files()
            .iter()
            .map(rotation::Tracked::unread)
            .sum();
        let path = self.names.dir().join(self.names.live());
        let missing = format!("{} is not there yet", path.display());
        let damaged = self
            .damage
            .values()
            .next()
            .map(|damage| damage.reason.clone());
        let reason = self
            .reason
            .clone()
            .or(damaged)
            .or_else(|| (!self.has_live && unread == 0).then_some(missing));
        let state = match (&reason, self.rotation.all_finished()) {
            (Some(_), _) => SourceState::Waiting,
            (None, true) => SourceState::CaughtUp,
            (None, false) => SourceState::Reading,
        };
        let mut notes = Vec::new();
        if let (true, Some(last)) = (self.limited, self.rotation.files().last())
            && last.unread() > 0
            && self.rotation.all_finished()
        {
            notes.push(format!(
                "{}: {} bytes behind its last line feed stay unread",
                path.display(),
                last.unread()
            ));
        }
        notes.extend(
            self.ignored
                .iter()
                .map(|name| format!("{name}: ignored, not a regular file")),
        );
        SourceReport {
            state,
            reason,
            unread_bytes: self.started.then_some(unread),
            held_deleted_bytes: self.rotation.held_deleted(),
            seconds_until_loss: self.seconds_until_loss(),
            notes,
        }
    }

    fn about_to_lose(&self, horizon: Duration) -> bool {
        // The next file to be deleted would not fit any more.
        let largest = self
            .rotation
            .files()
            .iter()
            .map(|file| file.size)
            .max()
            .unwrap_or(0);
        let held = self.rotation.held_deleted();
        let full = held > 0 && held.saturating_add(largest) > self.settings.hold_deleted;
        full || self
            .seconds_until_loss()
            .is_some_and(|left| left < horizon.as_secs_f64())
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.watcher.waker()
    }

    fn reread(&self) -> Option<Arc<dyn Reread>> {
        Some(Arc::new(reread::Archive {
            origin: self.origin.clone(),
            names: self.names.clone(),
            disk: self.disk.clone(),
            line_max: self.settings.line_max,
        }))
    }
}

impl Tail {
    fn error(&self, problem: String) -> SourceError {
        SourceError {
            source_name: self.origin.source.clone(),
            problem,
        }
    }

    fn seconds_until_loss(&self) -> Option<f64> {
        let live_size = self.rotation.files().last().map_or(0, |file| file.size);
        let now_ms = self.clock.now().0 / 1000;
        self.settings.retention.seconds_until_loss(Present {
            backups: &self.rotation.backups(),
            live_size,
            now_ms,
        })
    }
}

/// Follows the log at `path` on the real file system.
fn open(
    path: &std::path::Path,
    settings: Settings,
    context: SourceContext,
) -> Result<Tail, SourceError> {
    let source_name = context.origin.source.clone();
    let names = LogNames::new(path).ok_or_else(|| SourceError {
        source_name: source_name.clone(),
        problem: format!("{} names no file", path.display()),
    })?;
    let watcher = Watcher::new(&source_name, names.dir().to_owned())?;
    let disk = RealDisk::new(names.dir().to_owned());
    Ok(Tail::new(
        context,
        names,
        Arc::new(disk),
        Box::new(watcher),
        settings,
    ))
}
