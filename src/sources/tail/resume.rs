//! Where reading goes on after a start: which of the listed files the stored positions name, which are still to be
//! read, which were read before, and what is lost. Pure: contents are asked for through [`Probe`].
//!
//! Invariants: a position is found by contents under whatever name (the inode only says where to look first); of the
//! files behind the youngest one found, all are read; a file is passed over only when it is older than one found.

use std::io;

use crate::event::Generation;
use crate::event::encoding::{GapReason, GenerationPosition};

use super::backlog::{Form, Name};
use super::rotation::{Listed, Loss};

/// Where to start with no stored position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the oldest backup.
    Oldest,
    /// At the start of the live file.
    Live,
    /// Behind the live file's last line feed.
    End,
}

/// Looks into listed files. An error is the disk's; a damaged `.gz` is just not recognised.
pub(super) trait Probe {
    /// The generation of a file.
    fn generation(&mut self, name: Name) -> io::Result<Option<Generation>>;
    /// Whether the bytes before the position's offset are those that were read.
    fn holds(&mut self, name: Name, position: &GenerationPosition) -> io::Result<bool>;
    /// The position behind the file's last line feed.
    fn end(&mut self, name: Name) -> io::Result<GenerationPosition>;
}

/// What to do with each listed file.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be read, oldest first, from where.
    pub(super) follow: Vec<(Listed, Option<GenerationPosition>)>,
    /// Not to be read.
    pub(super) pass_over: Vec<Listed>,
    /// Positions whose generation is gone.
    pub(super) losses: Vec<Loss>,
}

/// Decides for all of `listing`.
pub(super) fn plan(
    listing: &[Listed],
    stored: &[GenerationPosition],
    start: Start,
    probe: &mut dyn Probe,
) -> io::Result<Plan> {
    let files = one_per_generation(listing);
    if stored.is_empty() {
        return first_start(files, start, probe);
    }
    let named: Vec<&GenerationPosition> =
        stored.iter().filter(|p| p.generation.is_some()).collect();
    if named.is_empty() {
        return Ok(nothing_read_yet(files, stored, start));
    }
    let mut generations = Vec::new();
    for file in &files {
        generations.push(probe.generation(file.name)?);
    }
    let mut found: Vec<Option<&GenerationPosition>> = vec![None; files.len()];
    let mut plan = Plan::default();
    let mut changed = None;
    for position in &named {
        changed = None;
        let mut is_found = false;
        for at in by_likelihood(&files, position) {
            if found[at].is_some() || generations[at] != position.generation {
                continue;
            }
            if probe.holds(files[at].name, position)? {
                found[at] = Some(position);
                is_found = true;
                break;
            }
            let shorter =
                files[at].name.form() == Form::Plain && files[at].stat.size < position.offset;
            changed = Some((
                at,
                if shorter {
                    GapReason::Shrunk
                } else {
                    GapReason::Overwritten
                },
            ));
        }
        if is_found {
            changed = None;
        } else {
            // Even one that had been read to its end: an unfinished last line may have stood behind the offset.
            let reason = changed.map_or(GapReason::Deleted, |(_, reason)| reason);
            let (generation, from) = (position.generation, Some(position.offset));
            plan.losses.push(Loss {
                reason,
                generation,
                from,
                to: None,
            });
        }
    }
    // A file that begins as it did and goes on otherwise is the one that was read: what is before it was read too.
    let youngest = found
        .iter()
        .rposition(Option::is_some)
        .max(changed.map(|(at, _)| at));
    for (at, file) in files.into_iter().enumerate() {
        match found[at] {
            Some(position) => plan.follow.push((file, Some(position.clone()))),
            None if youngest.is_some_and(|youngest| at < youngest) => plan.pass_over.push(file),
            None => plan.follow.push((file, None)),
        }
    }
    Ok(plan)
}

fn first_start(mut files: Vec<Listed>, start: Start, probe: &mut dyn Probe) -> io::Result<Plan> {
    let mut plan = Plan::default();
    if start == Start::Oldest {
        plan.follow = files.into_iter().map(|file| (file, None)).collect();
        return Ok(plan);
    }
    if let Some(live) = files.pop_if(|file| file.name == Name::Live) {
        let position = if start == Start::End {
            Some(probe.end(live.name)?)
        } else {
            None
        };
        plan.follow.push((live, position));
    }
    plan.pass_over = files;
    Ok(plan)
}

/// Nothing but a file without a line feed was ever seen. With `start` other than `oldest` the backups of that time
/// were not wanted; its inode is the only trace, and where that is gone too, all is read rather than something lost.
fn nothing_read_yet(files: Vec<Listed>, stored: &[GenerationPosition], start: Start) -> Plan {
    let same = |file: &Listed| {
        stored
            .iter()
            .any(|p| (p.device, p.inode) == (file.stat.device, file.stat.inode))
    };
    let first = match start {
        Start::Oldest => 0,
        Start::Live | Start::End => files.iter().position(same).unwrap_or(0),
    };
    let mut plan = Plan::default();
    for (at, file) in files.into_iter().enumerate() {
        if at < first {
            plan.pass_over.push(file);
        } else {
            plan.follow.push((file, None));
        }
    }
    plan
}

/// In order of age; of a plain backup and its `.gz` the plain one.
fn one_per_generation(listing: &[Listed]) -> Vec<Listed> {
    let mut files = listing.to_vec();
    files.sort_by_key(|file| file.name);
    files.dedup_by(|later, kept| {
        later.name.stamp().is_some() && later.name.stamp() == kept.name.stamp()
    });
    files
}

/// Indices of the files, the likeliest to be the position's first: the same inode, then plain files, then `.gz`.
fn by_likelihood(files: &[Listed], position: &GenerationPosition) -> Vec<usize> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|at| {
        let file = &files[*at];
        let plain = file.name.form() == Form::Plain;
        let same_inode = (file.stat.device, file.stat.inode) == (position.device, position.inode);
        (!(plain && same_inode), !plain, *at)
    });
    order
}
