//! Random interleavings of writer, rotation, compression, deletion, truncation, crashes and restarts of the agent,
//! against an oracle: every byte written is delivered exactly once and in order, or lies in a recorded gap.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::model::{Habits, Model, Written};
use super::{Out, settings, tail_of, unpack};
use crate::event::Generation;
use crate::event::encoding::{GapReason, GenerationPosition, SourceGap};
use crate::sources::{Next, Source};

/// One run of the agent over a part of the writer's life, killed at the end of it. What came out after the last
/// durable chunk is as good as never seen.
#[derive(Default)]
struct Durable {
    out: Vec<Out>,
    positions: Vec<GenerationPosition>,
}

fn trace(what: impl FnOnce() -> String) {
    if std::env::var("AUDITSHIP_SEED").is_ok() {
        eprintln!("{}", what());
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let habits = Habits {
        compress: random.bool(),
        backups: if random.u8(..5) < 3 {
            0
        } else {
            random.usize(1..4)
        },
        truncates: random.u8(..5) == 0,
        clock_steps_back: random.u8(..8) == 0,
        crashes: random.u8(..3) == 0,
        file_max: random.usize(120..500),
        line_max: random.usize(1..60),
    };
    // Who truncates a copied log has turned lumberjack's own rotation off (kube-up on GCE: maxsize 2000000000).
    let habits = if habits.truncates {
        Habits {
            file_max: usize::MAX / 2,
            ..habits
        }
    } else {
        habits
    };
    let mut settings = settings();
    if random.u8(..6) == 0 {
        // Most lines are oversize.
        settings.line_max = 20;
    }
    if random.u8(..6) == 0 {
        settings.hold_deleted = random.u64(..600);
    }
    let model = Model::new(habits, seed);
    let mut durable = Durable::default();
    // After a step back of the clock the names no longer tell which backups were read before a restart.
    let sessions = if habits.clock_steps_back {
        1
    } else {
        random.usize(1..4)
    };
    for session in 0..sessions {
        let last = session + 1 == sessions;
        for _ in 0..random.usize(..30) {
            model.world().act();
        }
        session_of(&model, &settings, &mut durable, &mut random, last)?;
    }
    let world = model.world();
    let lossy = habits.truncates || world.deleted;
    check(
        &world.written,
        &durable.out,
        lossy,
        habits.truncates,
        !habits.clock_steps_back,
    )
    .map_err(|error| format!("seed {seed}: {error}\n{habits:?} {settings:?}"))
}

fn session_of(
    model: &Model,
    settings: &super::Settings,
    durable: &mut Durable,
    random: &mut fastrand::Rng,
    last: bool,
) -> Result<(), String> {
    model.world().forget_unless(|generation| {
        let listed = durable
            .positions
            .iter()
            .any(|position| position.generation == Some(generation));
        listed
            || durable
                .out
                .iter()
                .any(|out| matches!(out, Out::Line { generation: g, .. } if *g == generation))
    });
    let mut tail = tail_of(model, settings.clone(), durable.positions.clone());
    model.world().haste = random.u32(..25);
    model.world().budget = random.u32(..120);
    let mut session: Vec<(Vec<Out>, Vec<GenerationPosition>)> = Vec::new();
    let mut pieces = Vec::new();
    let mut take = |tail: &mut super::Tail, wait: u64| -> Result<bool, String> {
        match tail
            .next(Duration::from_millis(wait))
            .map_err(|error| error.to_string())?
        {
            Next::Chunk(chunk) => {
                trace(|| {
                    format!(
                        "{:?} {:?}",
                        unpack(&chunk, &mut Vec::new()),
                        chunk.positions
                    )
                });
                session.push((unpack(&chunk, &mut pieces), chunk.positions));
                Ok(true)
            }
            Next::Idle => Ok(false),
            Next::Finished => Err("finished without a limit".to_owned()),
        }
    };
    for _ in 0..random.usize(..25) {
        take(&mut tail, random.u64(..1500))?;
    }
    if last {
        {
            let mut world = model.world();
            world.haste = 0;
            world.settle();
            world.leap = Some(Duration::from_secs(40));
        }
        let mut idle = 0;
        while idle < 12 {
            idle = if take(&mut tail, 1000)? { 0 } else { idle + 1 };
        }
    }
    trace(|| format!("session ends with {}", session.len()));
    let kept = if last {
        session.len()
    } else {
        random.usize(..=session.len())
    };
    for (out, positions) in session.into_iter().take(kept) {
        durable.out.extend(out);
        durable.positions = positions;
    }
    Ok(())
}

/// Whether what came out is what was written.
fn check(
    written: &[Written],
    out: &[Out],
    lossy: bool,
    truncates: bool,
    ordered: bool,
) -> Result<(), String> {
    let order: BTreeMap<Generation, usize> = written
        .iter()
        .enumerate()
        .filter(|(_, w)| !w.bytes.is_empty())
        .map(|(at, w)| (w.generation(), at))
        .collect();
    let mut covered: Vec<Vec<bool>> = written
        .iter()
        .map(|written| vec![false; written.bytes.len()])
        .collect();
    let mut newest = 0;
    let mut ends: BTreeMap<usize, u64> = BTreeMap::new();
    let mut gaps: Vec<&SourceGap> = Vec::new();
    for item in out {
        let (generation, offset, bytes) = match item {
            Out::Gap(gap) => {
                gaps.push(gap);
                continue;
            }
            Out::Line {
                generation,
                offset,
                bytes,
            } => (generation, *offset, bytes),
        };
        let at = *order
            .get(generation)
            .ok_or_else(|| format!("unknown generation {generation:?}"))?;
        let start = usize::try_from(offset).unwrap();
        // A torn end becomes a line only when the file is retired, long after a younger one was begun.
        let torn_end = start + bytes.len() == written[at].bytes.len();
        if ordered && at < newest && !torn_end {
            return Err(format!("generation {at} after {newest}"));
        }
        newest = newest.max(at);
        let found = written[at].bytes.get(start..start + bytes.len());
        if found != Some(bytes.as_slice()) {
            return Err(format!("generation {at} has other bytes at {offset}"));
        }
        let end = ends.entry(at).or_default();
        if offset < *end {
            return Err(format!("generation {at}: offset {offset} came after {end}"));
        }
        *end = offset + bytes.len() as u64;
        covered[at][start..start + bytes.len()].fill(true);
    }
    if !lossy && !gaps.is_empty() {
        return Err(format!("a gap where nothing was lost: {gaps:?}"));
    }
    missing(written, &covered, &order, &gaps, truncates)
}

/// Whether all that was not delivered lies in a gap.
fn missing(
    written: &[Written],
    covered: &[Vec<bool>],
    order: &BTreeMap<Generation, usize>,
    gaps: &[&SourceGap],
    truncates: bool,
) -> Result<(), String> {
    let nothing_of = |at: usize| covered[at].iter().all(|covered| !covered);
    for (at, written_here) in written.iter().enumerate() {
        for (offset, byte) in written_here.bytes.iter().enumerate() {
            if covered[at][offset] || *byte == b'\n' {
                continue;
            }
            let in_a_gap = gaps.iter().any(|gap| {
                let from = usize::try_from(gap.from.unwrap_or(0)).unwrap();
                let to = gap.to.map_or(usize::MAX, |to| usize::try_from(to).unwrap());
                let Some(generation) = gap.generation else {
                    return nothing_of(at);
                };
                match order.get(&generation) {
                    Some(lost) if *lost == at => (from..to).contains(&offset),
                    // Where the generation of the position is gone, younger ones may be gone with it unseen.
                    Some(lost) => {
                        gap.reason != GapReason::HoldDeleted
                            && *lost < at
                            && (lost + 1..=at).all(nothing_of)
                    }
                    None => false,
                }
            });
            // Written and gone again between two looks, before anything of it was known.
            // Of a cut file its size alone was known, and it may have grown beyond that again.
            let unheard_of = (written_here.seen == 0 || truncates) && nothing_of(at);
            if !in_a_gap && !unheard_of {
                let text = String::from_utf8_lossy(&written_here.bytes);
                return Err(format!(
                    "generation {at}: byte {offset} of {text:?} is lost in silence; gaps {gaps:?}"
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn every_line_is_delivered_once_or_lies_in_a_gap() {
    let seeds = std::env::var("AUDITSHIP_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(10_000);
    if let Some(seed) = std::env::var("AUDITSHIP_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        run(seed).unwrap();
        return;
    }
    let failures: Vec<String> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            scope.spawn(move || {
                let seeds = (0..seeds).filter(|seed| seed % 2 == half);
                seeds
                    .filter_map(|seed| run(seed).err())
                    .take(5)
                    .collect::<Vec<_>>()
            })
        });
        halves
            .into_iter()
            .flat_map(|half| half.join().unwrap())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}
