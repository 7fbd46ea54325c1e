//! What a spool's directory holds, and how it is put in order at start.
//!
//! [`survey`] only reads: headers of all segments, the blocks of the last one (and of older ones only where a snapshot
//! is lost). [`open`] then acts on it: copies to `quarantine/`, removes segments whose making was never finished, and
//! syncs the last one, because a killed process may have left bytes there that no sync has covered.
//!
//! How damage is told from a torn tail (design rule R6): every block says how much of its segment was durable before
//! its append. A bad place below the greatest such mark, or at or below a block whose records a sink has confirmed, was
//! acknowledged: damage. A bad place behind it belongs to an append that never ended: it and all behind it are void,
//! and the source reads again from the position before it.
//!
//! Invariants: no byte of a segment is changed or cut off; a second run, also after a crash in the first, ends in the
//! same state; record numbers below `confirmed` are never given out again.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{HEADER_LEN, Header, Identity, Kind, MAGIC, Meta};
use super::segment::{
    FORMAT, HeaderProblem, SEGMENT_HEADER_LEN, SegmentHeader, SegmentName, Step, Walk, check_block,
    list_segments,
};
use super::shelf::{Segment, Shelf, State};
use super::snapshot::Keys;
use super::writer::Active;
use super::{OpenError, Options};
use crate::durable_fs::{DurableFile, DurableFs};

/// Torn ends kept in `quarantine/`.
const TORN_KEPT: usize = 32;

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) segment: u64,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) problem: &'static str,
    /// It was acknowledged: damage. Otherwise the torn end of an append that never counted.
    pub(super) acknowledged: bool,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The spool's id; `None` where there is no segment to take it from.
    pub(super) spool: Option<u64>,
    /// Segments, oldest first, each with its acknowledged length.
    pub(super) segments: Vec<Segment>,
    /// Segments whose making was never finished.
    pub(super) unfinished: Vec<SegmentName>,
    pub(super) keys: Keys,
    pub(super) next_record: u64,
    /// The last segment may be appended to.
    pub(super) clean: bool,
    pub(super) faults: Vec<Fault>,
    /// Records that are gone with their headers at the end: first, and the number behind the last.
    pub(super) lost_end: Option<(u64, u64)>,
    pub(super) notes: Vec<String>,
    pub(super) last_number: Option<u64>,
}

/// A spool put in order.
pub(super) struct Opened {
    pub(super) shelf: Shelf,
    pub(super) keys: Keys,
    pub(super) active: Option<Active>,
    pub(super) last_number: Option<u64>,
    pub(super) notes: Vec<String>,
}

/// Surveys the spool and puts it in order.
pub(super) fn open(
    fs: &Arc<dyn DurableFs>,
    options: &Options,
    confirmed: u64,
) -> Result<Opened, OpenError> {
    let survey = survey(&**fs, &options.dir, confirmed)?;
    for name in ["quarantine", "rebuilt"] {
        fs.create_dir(&options.dir.join(name))?;
    }
    let mut notes = survey.notes;
    let restored = list_rebuilt(&**fs, &options.dir)?;
    let state = State::of(survey.segments, survey.next_record, restored);
    let last = state.segments.last().cloned();
    let spool = survey.spool.unwrap_or_else(random_id);
    let shelf = Shelf::new(
        Arc::clone(fs),
        options.dir.clone(),
        spool,
        options.max_bytes,
        false,
        state,
    );
    for fault in &survey.faults {
        let file = fs.open_read(&fault.path)?;
        let range = fault.offset..fault.end;
        if fault.acknowledged {
            shelf.quarantine(fault.segment, &*file, range);
        } else if let Err(error) =
            shelf.set_aside(&*file, range, &torn_name(fault.segment, fault.offset))
        {
            notes.push(format!(
                "segment {} at {}: copy the torn end: {error}",
                fault.segment, fault.offset
            ));
        }
        notes.push(describe(fault));
    }
    if let Some((first, end)) = survey.lost_end {
        shelf.count_lost();
        notes.push(format!(
            "records {first} to {} were confirmed by a sink and are gone from the spool",
            end - 1
        ));
    }
    for segment in &survey.unfinished {
        set_aside_unfinished(&shelf, segment, &mut notes)?;
    }
    if let Err(error) = forget_old_torn(&**fs, &options.dir) {
        notes.push(format!("remove old torn ends: {error}"));
    }
    let active = match last {
        Some(segment) => {
            let file = fs.open(&segment.path)?;
            file.sync()?;
            fs.sync_dir(&options.dir)?;
            survey.clean.then_some(Active {
                file,
                number: segment.number,
                len: segment.len,
            })
        }
        None => None,
    };
    Ok(Opened {
        shelf,
        keys: survey.keys,
        active,
        last_number: survey.last_number,
        notes,
    })
}

/// One line for the log.
pub(super) fn describe(fault: &Fault) -> String {
    let what = if fault.acknowledged {
        "damage, set aside"
    } else {
        "torn end of an append that never counted"
    };
    format!(
        "segment {} bytes {} to {}: {what}: {}",
        fault.segment, fault.offset, fault.end, fault.problem
    )
}

fn torn_name(segment: u64, offset: u64) -> String {
    format!("{segment:010}-{offset:012}.torn")
}

/// Torn ends were never acknowledged and are kept only to be looked at: the newest few, or a machine that is often
/// cut off would fill its disk with them. Damage (`.bad`) is never removed.
fn forget_old_torn(fs: &dyn DurableFs, dir: &Path) -> io::Result<()> {
    let dir = dir.join("quarantine");
    let mut torn = fs.list(&dir)?;
    torn.retain(|file| file.name.ends_with(".torn"));
    let surplus = torn.len().saturating_sub(TORN_KEPT);
    for file in &torn[..surplus] {
        fs.remove(&dir.join(&file.name))?;
    }
    Ok(())
}

/// A segment that was never acknowledged: its bytes are copied, then it goes, so that its name is free.
fn set_aside_unfinished(
    shelf: &Shelf,
    segment: &SegmentName,
    notes: &mut Vec<String>,
) -> io::Result<()> {
    notes.push(format!(
        "segment {}: its making was never finished, nothing of it counted",
        segment.number
    ));
    let file = shelf.fs.open_read(&segment.path)?;
    if let Err(error) = shelf.set_aside(&*file, 0..segment.len, &torn_name(segment.number, 0)) {
        // It stays where it is, outside the chain of segments, and is met again at the next start.
        notes.push(format!("segment {}: copy it: {error}", segment.number));
        return Ok(());
    }
    shelf.fs.remove(&segment.path)?;
    shelf.fs.sync_dir(&shelf.dir)
}

/// Rebuilt blocks by segment and offset.
pub(super) fn list_rebuilt(
    fs: &dyn DurableFs,
    dir: &Path,
) -> io::Result<HashMap<(u64, u64), PathBuf>> {
    let dir = dir.join("rebuilt");
    let listed = match fs.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        other => other?,
    };
    let place = |name: &str| {
        let (segment, offset) = name.strip_suffix(".blk")?.split_once('-')?;
        Some((segment.parse().ok()?, offset.parse().ok()?))
    };
    Ok(listed
        .iter()
        .filter_map(|file| Some((place(&file.name)?, dir.join(&file.name))))
        .collect())
}

/// Looks at the directory without changing anything.
pub(super) fn survey(fs: &dyn DurableFs, dir: &Path, confirmed: u64) -> Result<Survey, OpenError> {
    let mut names = list_segments(fs, dir)?;
    let mut headers = Vec::new();
    for name in &names {
        headers.push(read_header(fs, dir, name)?);
    }
    let mut survey = Survey {
        spool: spool_id(fs, &names, &headers)?,
        next_record: confirmed,
        last_number: names.last().map(|name| name.number),
        ..Survey::default()
    };
    let Some(spool) = survey.spool else {
        survey.unfinished = names;
        if confirmed > 0 {
            survey.notes.push(format!(
                "no segment is left of a spool of which {confirmed} records were confirmed"
            ));
        }
        return Ok(survey);
    };
    for header in headers.iter_mut() {
        *header = header
            .take()
            .filter(|header| header.identity.spool == spool);
    }
    drop_outside_chain(&mut names, &mut headers, &mut survey);
    let last = find_last(fs, spool, confirmed, &mut names, &mut headers, &mut survey)?;
    chain(&names, &headers, &mut survey);
    let Some(acknowledged) = last else {
        return Ok(survey);
    };
    recover_last(fs, spool, confirmed, acknowledged, &mut survey)?;
    Ok(survey)
}

/// The header where it is believable; an error where a newer version made it.
fn read_header(
    fs: &dyn DurableFs,
    dir: &Path,
    name: &SegmentName,
) -> Result<Option<SegmentHeader>, OpenError> {
    let file = fs.open_read(&name.path)?;
    match SegmentHeader::read(&*file)? {
        Ok(header) => Ok((header.identity.segment == name.number).then_some(header)),
        Err(HeaderProblem::Newer(found)) => Err(OpenError::Newer {
            dir: dir.display().to_string(),
            found,
            known: FORMAT,
        }),
        Err(HeaderProblem::Damaged(_)) => Ok(None),
    }
}

/// The id that the first whole header names; where every header is lost, the one of the first whole block.
fn spool_id(
    fs: &dyn DurableFs,
    names: &[SegmentName],
    headers: &[Option<SegmentHeader>],
) -> io::Result<Option<u64>> {
    if let Some(header) = headers.iter().flatten().next() {
        return Ok(Some(header.identity.spool));
    }
    for name in names {
        let file = fs.open_read(&name.path)?;
        if let Some(spool) = spool_id_of_blocks(&*file, name.number)? {
            return Ok(Some(spool));
        }
    }
    Ok(None)
}

/// The id that the first believable block names.
fn spool_id_of_blocks(file: &dyn DurableFile, segment: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; 256 << 10];
    let mut offset = 0;
    loop {
        let read = file.read_at(offset, &mut buffer)?;
        for at in memchr::memmem::find_iter(&buffer[..read], &MAGIC) {
            let Some(bytes) = buffer[at..read].first_chunk() else {
                continue;
            };
            let spool = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes"));
            if Header::parse(bytes, Identity { spool, segment }).is_ok() {
                return Ok(Some(spool));
            }
        }
        if read < buffer.len() {
            return Ok(None);
        }
        // A header may lie across two chunks.
        offset += (read - HEADER_LEN) as u64;
    }
}

/// A random id for a new spool, from the system's randomness behind the standard hash tables.
fn random_id() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// Takes out segments that the one behind them does not know: their making failed while the agent went on.
fn drop_outside_chain(
    names: &mut Vec<SegmentName>,
    headers: &mut Vec<Option<SegmentHeader>>,
    survey: &mut Survey,
) {
    let mut at = names.len();
    let mut previous = None;
    while at > 0 {
        at -= 1;
        if previous.is_some_and(|known| known < names[at].number) {
            survey.unfinished.push(names.remove(at));
            headers.remove(at);
            continue;
        }
        previous = headers[at].as_ref().and_then(|header| header.previous);
    }
}

/// Takes out segments at the end whose making was never finished. How much of the last one that stays was
/// acknowledged for certain; `None` where none stays.
fn find_last(
    fs: &dyn DurableFs,
    spool: u64,
    confirmed: u64,
    names: &mut Vec<SegmentName>,
    headers: &mut Vec<Option<SegmentHeader>>,
    survey: &mut Survey,
) -> io::Result<Option<u64>> {
    let mut known = 0;
    while let Some(name) = names.last() {
        let file = fs.open_read(&name.path)?;
        let identity = Identity {
            spool,
            segment: name.number,
        };
        let acknowledged = acknowledged_bytes(&*file, identity, name.len, confirmed)?.max(known);
        let header = headers.last().cloned().flatten();
        let whole = header.is_some() && read_snapshot(&*file, identity, name.len)?.is_some();
        if acknowledged > 0 || whole {
            return Ok(Some(acknowledged));
        }
        let before = names.len().checked_sub(2).map(|at| names[at].number);
        known = header
            .filter(|header| header.previous == before)
            .map_or(0, |header| header.previous_len);
        survey.unfinished.extend(names.pop());
        headers.pop();
    }
    Ok(None)
}

/// The greatest durable length that any block of the segment vouches for.
fn acknowledged_bytes(
    file: &dyn DurableFile,
    identity: Identity,
    limit: u64,
    confirmed: u64,
) -> io::Result<u64> {
    let mut walk = Walk {
        file,
        identity,
        offset: SEGMENT_HEADER_LEN,
        limit,
    };
    let mut acknowledged = 0;
    while let Some(step) = walk.step()? {
        let Step::Block { offset, header } = step else {
            continue;
        };
        acknowledged = acknowledged.max(header.acknowledged);
        if header.count > 0 && header.first < confirmed {
            acknowledged = acknowledged.max(offset.saturating_add(header.block_len()));
        }
    }
    Ok(acknowledged.min(limit))
}

/// The segments with what their neighbours say of them.
fn chain(names: &[SegmentName], headers: &[Option<SegmentHeader>], survey: &mut Survey) {
    for (at, name) in names.iter().enumerate() {
        let header = headers[at].as_ref();
        let next = headers.get(at + 1).and_then(Option::as_ref);
        let mut len = name.len;
        match next {
            Some(next) if next.previous == Some(name.number) => len = len.min(next.previous_len),
            Some(next) => survey.notes.push(format!(
                "segments between {} and {} are missing",
                name.number, next.identity.segment
            )),
            None => {}
        }
        if header.is_none() {
            survey
                .notes
                .push(format!("segment {}: its header is damaged", name.number));
        }
        survey.segments.push(Segment {
            number: name.number,
            first: header.map_or(name.first, |header| header.first),
            len,
            path: name.path.clone(),
            // Where it is not known, everything before is kept as long as this segment.
            oldest_pieces: header.map_or(0, |header| header.oldest_pieces),
        });
    }
}

/// Reads the keys' states and finds the end of the last segment.
fn recover_last(
    fs: &dyn DurableFs,
    spool: u64,
    confirmed: u64,
    acknowledged: u64,
    survey: &mut Survey,
) -> io::Result<()> {
    let last = survey.segments.len() - 1;
    let mut base = last;
    while base > 0 && !has_snapshot(fs, spool, &survey.segments[base])? {
        base -= 1;
    }
    let mut replay = Replay::default();
    for at in base..=last {
        let segment = survey.segments[at].clone();
        let file = fs.open_read(&segment.path)?;
        let identity = Identity {
            spool,
            segment: segment.number,
        };
        replay.next_record = replay.next_record.max(segment.first);
        replay.acknowledged = if at == last { acknowledged } else { u64::MAX };
        replay.run(&*file, identity, &segment)?;
    }
    let segment = &mut survey.segments[last];
    survey.clean = replay.torn_at.is_none();
    segment.len = replay.torn_at.unwrap_or(segment.len);
    survey.keys = replay.keys;
    survey.faults = replay.faults;
    survey.next_record = replay.next_record;
    if confirmed > survey.next_record {
        survey.lost_end = Some((survey.next_record, confirmed));
        survey.next_record = confirmed;
        // The next segment begins behind the lost records, so that readers see where they were.
        survey.clean = false;
    }
    Ok(())
}

fn has_snapshot(fs: &dyn DurableFs, spool: u64, segment: &Segment) -> io::Result<bool> {
    let file = fs.open_read(&segment.path)?;
    let identity = Identity {
        spool,
        segment: segment.number,
    };
    Ok(read_snapshot(&*file, identity, segment.len)?.is_some())
}

/// The snapshot a segment begins with, where it is whole.
fn read_snapshot(
    file: &dyn DurableFile,
    identity: Identity,
    limit: u64,
) -> io::Result<Option<Keys>> {
    let mut walk = Walk {
        file,
        identity,
        offset: SEGMENT_HEADER_LEN,
        limit,
    };
    match walk.step()? {
        Some(Step::Block { offset, header }) if header.kind == Kind::Snapshot => {
            decode_snapshot(file, offset, &header, limit)
        }
        _ => Ok(None),
    }
}

fn decode_snapshot(
    file: &dyn DurableFile,
    offset: u64,
    header: &Header,
    limit: u64,
) -> io::Result<Option<Keys>> {
    if let (_, Some(_)) = check_block(file, offset, header, limit)? {
        return Ok(None);
    }
    let mut stored = vec![0; header.stored_len as usize];
    if file.read_at(
        offset + header.block_len() - u64::from(header.stored_len),
        &mut stored,
    )? < stored.len()
    {
        return Ok(None);
    }
    let mut zstd = zstd::bulk::Decompressor::new()?;
    let payload = super::block::decode_payload(header, &stored, &mut zstd);
    Ok(payload.ok().and_then(|payload| Keys::decode(&payload)))
}

/// Blocks taken in one after the other.
#[derive(Default)]
struct Replay {
    keys: Keys,
    next_record: u64,
    acknowledged: u64,
    faults: Vec<Fault>,
    torn_at: Option<u64>,
}

impl Replay {
    fn run(
        &mut self,
        file: &dyn DurableFile,
        identity: Identity,
        segment: &Segment,
    ) -> io::Result<()> {
        let mut walk = Walk {
            file,
            identity,
            offset: SEGMENT_HEADER_LEN,
            limit: segment.len,
        };
        self.torn_at = None;
        while let Some(step) = walk.step()? {
            let (offset, end, problem) = match step {
                Step::Bad {
                    offset,
                    end,
                    problem,
                } => (offset, end, problem),
                Step::Block { offset, header } => {
                    let end = offset.saturating_add(header.block_len()).min(segment.len);
                    match self.take(file, offset, &header, segment.len)? {
                        None => continue,
                        Some(problem) => (offset, end, problem),
                    }
                }
            };
            let acknowledged = offset < self.acknowledged;
            let end = if acknowledged { end } else { segment.len };
            let (segment_number, path) = (segment.number, segment.path.clone());
            self.faults.push(Fault {
                segment: segment_number,
                path,
                offset,
                end,
                problem,
                acknowledged,
            });
            if !acknowledged {
                self.torn_at = Some(offset);
                break;
            }
        }
        Ok(())
    }

    /// Takes a block in. What is wrong with it, if anything; an acknowledged one counts all the same, as far as its
    /// header and its variable part are whole.
    fn take(
        &mut self,
        file: &dyn DurableFile,
        offset: u64,
        header: &Header,
        limit: u64,
    ) -> io::Result<Option<&'static str>> {
        let (meta, mut problem) = check_block(file, offset, header, limit)?;
        if header.first < self.next_record {
            return Ok(Some("record numbers go back"));
        }
        if problem.is_none() && header.kind == Kind::Snapshot {
            match decode_snapshot(file, offset, header, limit)? {
                Some(keys) => self.keys = keys,
                None => problem = Some("snapshot cannot be read"),
            }
        }
        if problem.is_some() && offset >= self.acknowledged {
            return Ok(problem);
        }
        self.next_record = header.end();
        match meta {
            Some(Meta { ref key, .. }) if header.kind == Kind::Snapshot => {
                debug_assert!(key.is_empty())
            }
            Some(meta) => self.keys.apply_meta(header.kind, &meta),
            None => {}
        }
        Ok(problem)
    }
}
