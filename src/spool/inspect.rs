//! A look at a spool that takes no lock and changes nothing, while an agent may be writing it: for `status` and
//! `spool ls|verify|export`. [`repair`] alone writes, under the lock.
//!
//! Invariants: what is shown of a running agent's spool may be a moment old, never wrong; a torn tail is no damage,
//! for it may be an append in flight; memory is bounded by one block, whatever the size of the spool.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::block::{Header, Identity, Kind};
use super::recovery::{Survey, list_rebuilt, survey};
use super::segment::{SEGMENT_HEADER_LEN, Step, Walk};
use super::shelf::{Segment, Shelf, State};
use super::{KeyState, OpenError, Options, ReadError, Reader, SpoolReport, recovery};
use crate::clock::Micros;
use crate::durable_fs::{DurableFile, DurableFs, Listed};

/// How often a survey is begun again because the agent freed a segment under it.
const ATTEMPTS: usize = 8;

/// What a spool held when it was looked at.
pub struct Look {
    shelf: Arc<Shelf>,
    survey: Survey,
}

/// A segment, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its first record, or the next one where it has none.
    pub first: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
    /// File name.
    pub name: String,
}

/// A block, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// `data`, `piece`, `position`, `gap` or `snapshot`.
    pub kind: &'static str,
    /// Offset in the segment.
    pub offset: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// First record; of a block without records, the next one.
    pub first: u64,
    /// Records in it.
    pub records: u32,
    /// Uncompressed bytes of the payload.
    pub payload_bytes: u32,
    /// When it was appended.
    pub appended: Micros,
}

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Segment number.
    pub segment: u64,
    /// Where the damage begins.
    pub offset: u64,
    /// Offset behind it.
    pub end: u64,
    /// First and last record in it, where it has any.
    pub records: Option<(u64, u64)>,
    /// What is wrong.
    pub problem: String,
    /// It is the end of an append that never counted (or is in flight): nothing is lost.
    pub torn: bool,
    /// It was read again from its source: readers get it whole.
    pub restored: bool,
}

/// Sums of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments read.
    pub segments: u64,
    /// Blocks that are whole.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Findings that are damage: neither torn nor restored.
    pub damaged: u64,
}

impl Look {
    /// Looks at the spool in `dir`; `None` where there is none. `confirmed` is the highest cursor of any sink, as for
    /// [`Spool::open`](super::Spool::open).
    pub fn at(
        fs: &Arc<dyn DurableFs>,
        dir: &Path,
        confirmed: u64,
    ) -> Result<Option<Look>, OpenError> {
        let mut attempt = 1;
        loop {
            match survey(&**fs, dir, confirmed) {
                Ok(survey) => return Ok(Look::of(fs, dir, survey)?),
                Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    if matches!(fs.list(dir), Err(error) if error.kind() == io::ErrorKind::NotFound)
                    {
                        return Ok(None);
                    }
                    if attempt == ATTEMPTS {
                        return Err(error.into());
                    }
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn of(fs: &Arc<dyn DurableFs>, dir: &Path, survey: Survey) -> io::Result<Option<Look>> {
        let Some(spool) = survey.spool else {
            return Ok(None);
        };
        let state = State::of(
            survey.segments.clone(),
            survey.next_record,
            list_rebuilt(&**fs, dir)?,
        );
        let shelf = Shelf::new(Arc::clone(fs), dir.to_owned(), spool, 0, true, state);
        Ok(Some(Look {
            shelf: Arc::new(shelf),
            survey,
        }))
    }

    /// Every key's newest state and gaps.
    pub fn keys(&self) -> Vec<KeyState> {
        self.survey.keys.to_vec()
    }

    /// Id, size and record numbers. The limit is not known here: `max_bytes` is 0.
    pub fn report(&self) -> SpoolReport {
        self.shelf.report()
    }

    /// Reads records as they were at the time of the look. A segment that the agent freed since is reported as missing.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shelf))
    }

    /// Segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = &self.survey.segments;
        let info = |(at, segment): (usize, &Segment)| SegmentInfo {
            number: segment.number,
            first: segment.first,
            records: self.end_of(at) - segment.first,
            bytes: segment.len,
            name: segment
                .path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        };
        segments.iter().enumerate().map(info).collect()
    }

    /// Shows every block of a segment whose header is whole.
    pub fn blocks(&self, segment: u64, visit: &mut dyn FnMut(BlockInfo)) -> io::Result<()> {
        let Some(segment) = self.shelf.segment(segment) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no segment {segment}"),
            ));
        };
        let file = self.shelf.fs.open_read(&segment.path)?;
        let mut walk = self.walk(&*file, &segment);
        while let Some(step) = walk.step()? {
            if let Step::Block { offset, header } = step {
                visit(block_info(offset, &header));
            }
        }
        Ok(())
    }

    /// Reads all, checks every checksum, and shows what is not as it was written.
    pub fn verify(&self, visit: &mut dyn FnMut(Finding)) -> io::Result<Verified> {
        let mut verified = Verified::default();
        for (at, segment) in self.survey.segments.iter().enumerate() {
            verified.segments += 1;
            verified.bytes += segment.len;
            self.verify_segment(segment, self.end_of(at), &mut verified, visit)?;
        }
        for fault in self
            .survey
            .faults
            .iter()
            .filter(|fault| !fault.acknowledged)
        {
            let (segment, offset, end, problem) = (
                fault.segment,
                fault.offset,
                fault.end,
                fault.problem.to_owned(),
            );
            visit(Finding {
                segment,
                offset,
                end,
                records: None,
                problem,
                torn: true,
                restored: false,
            });
        }
        Ok(verified)
    }

    fn verify_segment(
        &self,
        segment: &Segment,
        end_record: u64,
        verified: &mut Verified,
        visit: &mut dyn FnMut(Finding),
    ) -> io::Result<()> {
        let mut report = |offset, end, records, problem: &str, restored: bool| {
            verified.damaged += u64::from(!restored);
            let problem = problem.to_owned();
            visit(Finding {
                segment: segment.number,
                offset,
                end,
                records,
                problem,
                torn: false,
                restored,
            });
        };
        let file = match self.shelf.fs.open_read(&segment.path) {
            // Freed since the look, or taken away: the next look tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let records = (end_record > segment.first).then(|| (segment.first, end_record - 1));
                report(0, segment.len, records, "its segment is missing", false);
                return Ok(());
            }
            other => other?,
        };
        let (mut blocks, mut records) = (0, 0);
        let mut next = segment.first;
        let mut bad: Option<(u64, u64, &str)> = None;
        let mut walk = self.walk(&*file, segment);
        while let Some(step) = walk.step()? {
            let (offset, header) = match step {
                Step::Bad {
                    offset,
                    end,
                    problem,
                } => {
                    bad = Some((offset, end, problem));
                    continue;
                }
                Step::Block { offset, header } => (offset, header),
            };
            let hole = (header.first > next).then(|| (next, header.first - 1));
            match (bad.take(), hole) {
                (Some((from, to, problem)), hole) => report(from, to, hole, problem, false),
                (None, Some(hole)) => report(
                    offset,
                    offset,
                    Some(hole),
                    "a block before it is missing",
                    false,
                ),
                (None, None) => {}
            }
            next = header.end();
            match self.verify_block(&*file, segment, offset, &header)? {
                None => {
                    blocks += 1;
                    records += u64::from(header.count);
                }
                Some(problem) => {
                    let end = (offset + header.block_len()).min(segment.len);
                    let range = (header.count > 0).then(|| (header.first, header.end() - 1));
                    let restored = self
                        .shelf
                        .state()
                        .restored
                        .contains_key(&(segment.number, offset));
                    report(offset, end, range, problem, restored);
                }
            }
        }
        let hole = (end_record > next).then(|| (next, end_record - 1));
        match (bad, hole) {
            (Some((from, to, problem)), hole) => report(from, to, hole, problem, false),
            (None, Some(hole)) => report(
                segment.len,
                segment.len,
                Some(hole),
                "its end is missing",
                false,
            ),
            (None, None) => {}
        }
        verified.blocks += blocks;
        verified.records += records;
        Ok(())
    }

    fn verify_block(
        &self,
        file: &dyn DurableFile,
        segment: &Segment,
        offset: u64,
        header: &Header,
    ) -> io::Result<Option<&'static str>> {
        let reader = self.reader();
        let (meta, payload) = reader.body(file, offset, header, segment.len)?;
        file.forget_cached(offset, header.block_len());
        Ok(match (meta, payload) {
            (_, Err(problem)) => Some(problem),
            (None, Ok(_)) => Some("key, note or state fail their checksum"),
            (Some(_), Ok(_)) => None,
        })
    }

    /// What was set aside, newest last.
    pub fn quarantine(&self) -> io::Result<Vec<Listed>> {
        match self.shelf.fs.list(&self.shelf.dir.join("quarantine")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// What [`repair`] would do, one line each; nothing is changed.
    pub fn plan(&self) -> io::Result<Vec<String>> {
        let mut plan = Vec::new();
        for segment in &self.survey.unfinished {
            plan.push(format!(
                "set aside segment {}, whose making was never finished",
                segment.number
            ));
        }
        self.verify(&mut |finding| {
            if !finding.restored {
                plan.push(describe(&finding));
            }
        })?;
        Ok(plan)
    }

    fn walk<'a>(&self, file: &'a dyn DurableFile, segment: &Segment) -> Walk<'a> {
        let identity = Identity {
            spool: self.shelf.spool,
            segment: segment.number,
        };
        Walk {
            file,
            identity,
            offset: SEGMENT_HEADER_LEN,
            limit: segment.len,
        }
    }

    /// Number behind the last record of the segment at this place in the list.
    fn end_of(&self, at: usize) -> u64 {
        self.survey
            .segments
            .get(at + 1)
            .map_or(self.survey.next_record, |next| next.first)
    }
}

/// Copies all damage to `quarantine/` and puts the last segment in order, as the next start would; what it did, one
/// line each. Takes the lock: no agent may be running. Damaged bytes also stay where they are.
pub fn repair(
    fs: &Arc<dyn DurableFs>,
    options: &Options,
    confirmed: u64,
) -> Result<Vec<String>, OpenError> {
    let _lock = fs.lock(&options.dir)?;
    let opened = recovery::open(fs, options, confirmed)?;
    let mut done = opened.notes;
    let Some(look) = Look::at(fs, &options.dir, confirmed)? else {
        return Ok(done);
    };
    let mut findings = Vec::new();
    look.verify(&mut |finding| findings.push(finding))?;
    for finding in findings
        .iter()
        .filter(|finding| !finding.torn && !finding.restored)
    {
        let Some(segment) = opened.shelf.segment(finding.segment) else {
            continue;
        };
        let file = fs.open_read(&segment.path)?;
        opened
            .shelf
            .quarantine(finding.segment, &*file, finding.offset..finding.end);
        opened.shelf.save_damage(&segment)?;
        done.push(describe(finding));
    }
    Ok(done)
}

fn describe(finding: &Finding) -> String {
    let Finding {
        segment,
        offset,
        end,
        problem,
        ..
    } = finding;
    let records = match finding.records {
        Some((first, last)) => format!(", records {first} to {last}"),
        None => String::new(),
    };
    let what = if finding.torn {
        "leave out the torn end"
    } else {
        "copy to quarantine"
    };
    format!("{what}: segment {segment} bytes {offset} to {end}{records}: {problem}")
}

fn block_info(offset: u64, header: &Header) -> BlockInfo {
    BlockInfo {
        kind: match header.kind {
            Kind::Data => "data",
            Kind::Piece => "piece",
            Kind::Position => "position",
            Kind::Gap => "gap",
            Kind::Snapshot => "snapshot",
        },
        offset,
        bytes: header.block_len(),
        first: header.first,
        records: header.count,
        payload_bytes: header.payload_len,
        appended: Micros(header.appended_us),
    }
}

/// Every record from `from` on, with the block that holds it, and every damaged range; for `spool export`. Stops at
/// the first error that is not damage.
pub fn export(
    reader: &Reader,
    from: u64,
    visit: &mut dyn FnMut(Exported<'_>) -> io::Result<()>,
) -> Result<(), ReadError> {
    let mut record = from;
    loop {
        match reader.block_at(record) {
            Ok(None) => return Ok(()),
            Ok(Some(block)) => {
                visit(Exported::Block(&block))?;
                record = block.first + u64::from(block.count);
            }
            Err(ReadError::Damaged {
                first,
                last,
                problem,
                ..
            }) => {
                visit(Exported::Damaged {
                    first,
                    last,
                    problem: &problem,
                })?;
                record = last + 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What `export` meets.
#[derive(Clone, Copy, Debug)]
pub enum Exported<'a> {
    /// A block; of the first one, records below the one asked for may be in it.
    Block(&'a super::Block),
    /// Records that are not there.
    Damaged {
        /// First.
        first: u64,
        /// Last, inclusive.
        last: u64,
        /// What is wrong.
        problem: &'a str,
    },
}
