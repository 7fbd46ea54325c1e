//! A model of the API server's side for tests: a file system in memory with inodes that are reused, and lumberjack
//! writing, rotating, compressing and deleting in it, step by step. Every call of the agent may find that the writer
//! has moved on meanwhile.
//!
//! Semantics are those of lumberjack 2.2.1: rename, create and open again (with a window without a live file), `.gz`
//! written under its final name while the plain file is still there, deletion of the oldest by count.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::ManualClock;
use crate::event::Generation;

use super::disk::{Disk, Entries, Entry, OpenFile, Stat, not_regular};
use super::watcher::{Hint, Watch};

/// One physical generation as it was written, whatever became of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    /// How many of them the agent saw with a descriptor of the file in hand.
    pub(super) seen: usize,
}

impl Written {
    pub(super) fn generation(&self) -> Generation {
        let end = self
            .bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(self.bytes.len());
        Generation::of_first_line(&self.bytes[..end])
    }
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    links: u64,
    open: usize,
    regular: bool,
    /// Index into the history of what is written to it.
    written: Option<usize>,
}

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    pub(super) compress: bool,
    /// Backups kept; 0: all.
    pub(super) backups: usize,
    pub(super) truncates: bool,
    pub(super) clock_steps_back: bool,
    pub(super) crashes: bool,
    pub(super) file_max: usize,
    pub(super) line_max: usize,
}

/// The steps that lumberjack still has to do, one per act.
#[derive(Debug)]
enum Step {
    Rename,
    Create,
    Open,
    Mill,
    Delete(String),
    HalfGzip(String),
    WholeGzip(String),
    RemovePlain(String),
}

pub(super) struct World {
    names: BTreeMap<String, u64>,
    inodes: BTreeMap<u64, Inode>,
    pub(super) written: Vec<Written>,
    pub(super) habits: Habits,
    pub(super) random: fastrand::Rng,
    pub(super) clock: Arc<ManualClock>,
    /// Inode that the API server has open.
    writer: Option<u64>,
    /// The rest of a line of which a part is visible.
    half: Vec<u8>,
    steps: VecDeque<Step>,
    /// For names, in milliseconds.
    wall: i64,
    lines: u64,
    /// In how many of 100 calls the writer moves on.
    pub(super) haste: u32,
    /// How often at most, or looking at many backups would make ever more of them.
    pub(super) budget: u32,
    /// How long a wait without an end lasts.
    pub(super) leap: Option<Duration>,
    /// Calls that fail: opens with this error.
    pub(super) open_error: Option<i32>,
    pub(super) list_error: Option<i32>,
    pub(super) truncated: bool,
    pub(super) deleted: bool,
    pub(super) listings: usize,
}

impl World {
    pub(super) fn new(habits: Habits, seed: u64) -> Self {
        World {
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            written: Vec::new(),
            habits,
            random: fastrand::Rng::with_seed(seed),
            clock: Arc::new(ManualClock::default()),
            writer: None,
            half: Vec::new(),
            steps: VecDeque::new(),
            wall: 1_700_000_000_000,
            lines: 0,
            haste: 0,
            budget: 0,
            leap: None,
            open_error: None,
            list_error: None,
            truncated: false,
            deleted: false,
            listings: 0,
        }
    }

    /// The lowest free number, as ext4 gives it.
    fn new_inode(&mut self, regular: bool) -> u64 {
        let number = (1..)
            .find(|number| !self.inodes.contains_key(number))
            .unwrap_or(u64::MAX);
        self.inodes.insert(
            number,
            Inode {
                regular,
                ..Inode::default()
            },
        );
        number
    }

    fn release(&mut self, number: u64) {
        if self
            .inodes
            .get(&number)
            .is_some_and(|inode| inode.links == 0 && inode.open == 0)
            && self.writer != Some(number)
        {
            self.inodes.remove(&number);
        }
    }

    fn link(&mut self, name: &str, number: u64) {
        self.unlink(name);
        self.inodes.get_mut(&number).unwrap().links += 1;
        self.names.insert(name.to_owned(), number);
    }

    pub(super) fn unlink(&mut self, name: &str) {
        if let Some(number) = self.names.remove(name) {
            self.inodes.get_mut(&number).unwrap().links -= 1;
            self.release(number);
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let number = self.names[from];
        self.link(to, number);
        self.unlink(from);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// A file as somebody else would put it there.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) {
        let number = self.new_inode(true);
        let inode = self.inodes.get_mut(&number).unwrap();
        inode.bytes = bytes.to_vec();
        inode.written = Some(self.written.len());
        self.written.push(Written {
            bytes: bytes.to_vec(),
            seen: 0,
        });
        self.link(name, number);
    }

    pub(super) fn put_fifo(&mut self, name: &str) {
        let number = self.new_inode(false);
        self.link(name, number);
    }

    /// Appends to what stands under a name.
    pub(super) fn append(&mut self, name: &str, bytes: &[u8]) {
        self.write_to(self.names[name], bytes);
    }

    /// Replaces the contents in place.
    pub(super) fn overwrite(&mut self, name: &str, bytes: &[u8]) {
        let number = self.names[name];
        self.inodes.get_mut(&number).unwrap().bytes = bytes.to_vec();
        self.inodes.get_mut(&number).unwrap().written = Some(self.written.len());
        self.written.push(Written {
            bytes: bytes.to_vec(),
            seen: 0,
        });
        self.truncated = true;
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.inodes[&self.names[name]].bytes.clone()
    }

    fn write_to(&mut self, number: u64, bytes: &[u8]) {
        let inode = self.inodes.get_mut(&number).unwrap();
        inode.bytes.extend_from_slice(bytes);
        let written = inode.written.unwrap();
        self.written[written].bytes.extend_from_slice(bytes);
    }

    fn create_live(&mut self) {
        let number = self.new_inode(true);
        self.inodes.get_mut(&number).unwrap().written = Some(self.written.len());
        self.written.push(Written::default());
        self.link("audit.log", number);
    }

    /// What lumberjack does at its first write.
    fn open_or_create(&mut self) {
        match self.names.get("audit.log").copied() {
            None => {
                self.create_live();
                self.writer = self.names.get("audit.log").copied();
            }
            Some(number) if self.inodes[&number].bytes.len() >= self.habits.file_max => {
                self.steps
                    .extend([Step::Rename, Step::Create, Step::Open, Step::Mill]);
            }
            Some(number) => self.writer = Some(number),
        }
    }

    fn line(&mut self) -> Vec<u8> {
        self.lines += 1;
        let long = self.random.usize(..self.habits.line_max.max(1));
        let mut line =
            format!("{{\"n\":{},\"p\":\"{}\"}}", self.lines, "x".repeat(long)).into_bytes();
        line.push(b'\n');
        line
    }

    /// The writer's next step, whatever it is.
    pub(super) fn act(&mut self) {
        if let Some(step) = self.steps.pop_front() {
            self.step(step);
            return;
        }
        let dice = self.random.u32(..100);
        if self.habits.truncates && dice < 3 && self.names.contains_key("audit.log") {
            let number = self.names["audit.log"];
            if !self.inodes[&number].bytes.is_empty() {
                self.truncated = true;
                self.half.clear();
                self.overwrite("audit.log", b"");
            }
        } else if self.habits.clock_steps_back && dice < 6 {
            self.wall -= self.random.i64(0..4000);
        } else if self.habits.crashes && dice < 9 {
            // What was visible of a line stays torn, the next process appends to it.
            self.half.clear();
            self.writer = None;
        } else {
            self.write();
        }
    }

    fn write(&mut self) {
        let Some(number) = self.writer else {
            self.open_or_create();
            return;
        };
        if !self.half.is_empty() {
            let half = std::mem::take(&mut self.half);
            self.write_to(number, &half);
            return;
        }
        let line = self.line();
        if self.inodes[&number].bytes.len() + line.len() > self.habits.file_max {
            self.steps
                .extend([Step::Rename, Step::Create, Step::Open, Step::Mill]);
            self.writer = None;
            self.release(number);
            return;
        }
        let visible = if self.random.u8(..4) == 0 {
            self.random.usize(..line.len())
        } else {
            line.len()
        };
        self.half = line[visible..].to_vec();
        self.write_to(number, &line[..visible]);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Rename => {
                self.wall += self.random.i64(1..3000);
                let stamp = jiff::Timestamp::from_millisecond(self.wall).unwrap();
                let name = format!("audit-{}.log", stamp.strftime("%Y-%m-%dT%H-%M-%S%.3f"));
                // lumberjack would overwrite a backup of the same millisecond.
                if self.names.contains_key(&name) || self.names.contains_key(&format!("{name}.gz"))
                {
                    self.steps.push_front(Step::Rename);
                } else if self.names.contains_key("audit.log") {
                    self.rename("audit.log", &name);
                }
            }
            Step::Create => self.create_live(),
            Step::Open => self.writer = self.names.get("audit.log").copied(),
            Step::Mill => self.mill(),
            Step::Delete(name) => {
                self.deleted = true;
                self.unlink(&name);
            }
            Step::HalfGzip(name) => {
                let bytes = gzip(&self.bytes(&name));
                let number = self.new_inode(true);
                self.inodes.get_mut(&number).unwrap().bytes = bytes[..bytes.len() / 2].to_vec();
                self.link(&format!("{name}.gz"), number);
            }
            Step::WholeGzip(name) => {
                let bytes = gzip(&self.bytes(&name));
                let number = self.names[&format!("{name}.gz")];
                self.inodes.get_mut(&number).unwrap().bytes = bytes;
            }
            Step::RemovePlain(name) => self.unlink(&name),
        }
    }

    /// Deletes by count, then compresses what is left, one by one.
    fn mill(&mut self) {
        let mut stems: Vec<String> = Vec::new();
        for name in self.names.keys().filter(|name| name.starts_with("audit-")) {
            let stem = name.trim_end_matches(".gz").to_owned();
            if stems.last() != Some(&stem) {
                stems.push(stem);
            }
        }
        let surplus = if self.habits.backups == 0 {
            0
        } else {
            stems.len().saturating_sub(self.habits.backups)
        };
        for stem in stems.drain(..surplus) {
            for name in [format!("{stem}.gz"), stem.clone()] {
                if self.names.contains_key(&name) {
                    self.steps.push_back(Step::Delete(name));
                }
            }
        }
        for stem in stems {
            if self.habits.compress && self.names.contains_key(&stem) {
                self.steps.push_back(Step::HalfGzip(stem.clone()));
                self.steps.push_back(Step::WholeGzip(stem.clone()));
                self.steps.push_back(Step::RemovePlain(stem));
            }
        }
    }

    /// Brings everything begun to its end and writes one more line.
    pub(super) fn settle(&mut self) {
        self.habits.truncates = false;
        self.habits.crashes = false;
        self.habits.clock_steps_back = false;
        for acts in 0..1000 {
            let at_rest = self.steps.is_empty() && self.half.is_empty() && self.writer.is_some();
            if at_rest && acts > 0 && self.bytes("audit.log").ends_with(b"\n") {
                return;
            }
            self.act();
        }
        panic!("the writer does not come to rest");
    }

    /// An agent that starts knows nothing but what is durable.
    pub(super) fn forget_unless(&mut self, known: impl Fn(Generation) -> bool) {
        for written in &mut self.written {
            if !known(written.generation()) {
                written.seen = 0;
            }
        }
    }

    fn maybe_act(&mut self) {
        if self.budget > 0 && self.random.u32(..100) < self.haste {
            self.budget -= 1;
            self.act();
        }
    }

    fn stat(&self, number: u64) -> Stat {
        let inode = &self.inodes[&number];
        Stat {
            device: 1,
            inode: number,
            size: inode.bytes.len() as u64,
            links: inode.links,
        }
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The agent's view of the world.
#[derive(Clone)]
pub(super) struct Model(pub(super) Arc<Mutex<World>>);

impl Model {
    pub(super) fn new(habits: Habits, seed: u64) -> Self {
        Model(Arc::new(Mutex::new(World::new(habits, seed))))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Disk for Model {
    fn list(&self, wanted: &dyn Fn(&str) -> bool) -> io::Result<Entries> {
        let names = {
            let mut world = self.world();
            world.listings += 1;
            if let Some(error) = world.list_error {
                return Err(io::Error::from_raw_os_error(error));
            }
            world.maybe_act();
            world.names()
        };
        let mut entries = Entries::default();
        for name in names {
            let mut world = self.world();
            world.maybe_act();
            if !wanted(&name) {
                continue;
            }
            let Some(number) = world.names.get(&name).copied() else {
                entries.vanished = true;
                continue;
            };
            entries.found.push(Entry {
                stat: world.stat(number),
                regular: world.inodes[&number].regular,
                name,
            });
        }
        Ok(entries)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let mut world = self.world();
        world.maybe_act();
        if let Some(error) = world.open_error {
            return Err(io::Error::from_raw_os_error(error));
        }
        let number = world
            .names
            .get(name)
            .copied()
            .ok_or(io::ErrorKind::NotFound)?;
        let inode = world.inodes.get_mut(&number).unwrap();
        if !inode.regular {
            return Err(not_regular());
        }
        inode.open += 1;
        Ok(Arc::new(ModelFile {
            model: self.clone(),
            number,
        }))
    }
}

struct ModelFile {
    model: Model,
    number: u64,
}

impl OpenFile for ModelFile {
    fn stat(&self) -> io::Result<Stat> {
        let mut world = self.model.world();
        world.maybe_act();
        let inode = &world.inodes[&self.number];
        if let (Some(written), seen) = (inode.written, inode.bytes.len()) {
            world.written[written].seen = seen;
        }
        Ok(world.stat(self.number))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.model.world();
        world.maybe_act();
        let bytes = &world.inodes[&self.number].bytes;
        let rest = bytes
            .get(usize::try_from(offset).unwrap()..)
            .unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn forget_cached(&self, _offset: u64, _len: u64) {}
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        let mut world = self.model.world();
        world.inodes.get_mut(&self.number).unwrap().open -= 1;
        world.release(self.number);
    }
}

/// Lets time pass instead of waiting, and hints at random.
pub(super) struct ModelWatch(pub(super) Model);

impl Watch for ModelWatch {
    fn wait(&mut self, timeout: Duration) -> Hint {
        let mut world = self.0.world();
        if timeout.is_zero() {
            return Hint::Nothing;
        }
        let time = world.leap.unwrap_or(timeout);
        world.clock.advance(time);
        if world.haste > 0 {
            for _ in 0..world.random.u32(..8) {
                world.act();
            }
        }
        match world.random.u8(..4) {
            0 | 1 => Hint::Nothing,
            2 => Hint::Data,
            _ => Hint::Names,
        }
    }

    fn pause(&mut self, time: Duration) {
        self.0.world().clock.advance(time);
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| {})
    }
}
