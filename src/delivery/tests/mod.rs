//! A spool in memory, a scripted sink and a clock that follows the runtime's paused time.

mod attempts;

mod durability;

mod letters;

mod objects;

mod power_cuts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::*;
use crate::durable_fs::simulated::SimulatedFs;
use crate::event::encoding::RecordHead;
use crate::event::{EventId, Generation, LineHash, LineKind};
use crate::sinks::{
    Batch, BoxFuture, Form, Opened, Outcome, Record, Rejection, RejectionKind, Verdict,
};
use crate::spool::{Block, PieceRef, ReadError, record};

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Time as the paused runtime tells it.
pub(super) struct RuntimeClock(tokio::time::Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Micros {
        Micros(1_767_225_600_000_000 + i64::try_from(self.monotonic().as_micros()).unwrap())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A spool in memory whose blocks can be damaged.
pub(super) struct FakeSpool {
    blocks: Mutex<Vec<Arc<Block>>>,
    damaged: Mutex<BTreeSet<u64>>,
    restorable: AtomicBool,
    unreadable: AtomicBool,
    pieces: Mutex<Vec<Bytes>>,
    next: watch::Sender<u64>,
    oldest: AtomicU64,
}

pub(super) fn line(number: u64) -> String {
    format!("{{\"auditID\":\"{number}\"}}")
}

pub(super) fn head(number: u64, length: u64, kind: LineKind) -> RecordHead {
    RecordHead {
        offset: number * 100,
        length,
        kind,
        id: EventId([u8::try_from(number % 251).unwrap(); 16]),
        hash: LineHash::of(line(number).as_bytes()),
        time_us: Some(i64::try_from(number).unwrap()),
        envelope: Vec::new(),
    }
}

impl FakeSpool {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(FakeSpool {
            blocks: Mutex::default(),
            damaged: Mutex::default(),
            restorable: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            pieces: Mutex::default(),
            next: watch::Sender::new(0),
            oldest: AtomicU64::new(0),
        })
    }

    /// Appends one block of `count` ordinary records.
    pub(super) fn append(&self, count: u64) {
        let first = *self.next.borrow();
        let mut payload = Vec::new();
        for number in first..first + count {
            let line = line(number);
            let mut encoded = Vec::new();
            head(number, line.len() as u64, LineKind::Event).encode(&mut encoded);
            record::push(&mut payload, &encoded, line.as_bytes());
        }
        self.push(first, count, payload, Vec::new());
    }

    /// Appends one record that this version cannot read.
    pub(super) fn append_strange(&self) {
        let mut payload = Vec::new();
        record::push(&mut payload, &[99, 1, 2, 3], b"{}");
        let first = *self.next.borrow();
        self.push(first, 1, payload, Vec::new());
    }

    /// Appends one oversize record in pieces.
    pub(super) fn append_oversize(&self, pieces: &[&'static [u8]]) {
        let first = *self.next.borrow();
        let mut encoded = Vec::new();
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        head(first, length, LineKind::Oversize).encode(&mut encoded);
        let mut payload = Vec::new();
        record::push(&mut payload, &encoded, b"");
        let refs = (0..pieces.len() as u64)
            .map(|offset| PieceRef {
                segment: 0,
                offset,
                record: first,
            })
            .collect();
        *self.pieces.lock().unwrap() = pieces
            .iter()
            .map(|piece| Bytes::from_static(piece))
            .collect();
        self.push(first, 1, payload, refs);
    }

    fn push(&self, first: u64, count: u64, payload: Vec<u8>, pieces: Vec<PieceRef>) {
        let origin = Origin {
            cluster: "c".into(),
            node: "n".into(),
            source: "s".into(),
        };
        let span = Span {
            generation: Generation([7; 32]),
            start: first * 100,
            end: (first + count) * 100,
        };
        let block = Block {
            first,
            count: u32::try_from(count).unwrap(),
            key: origin.encode().into(),
            note: span.encode().into(),
            appended: Micros(i64::try_from(first).unwrap()),
            payload: payload.into(),
            pieces,
        };
        self.blocks.lock().unwrap().push(Arc::new(block));
        self.next.send_replace(first + count);
    }

    /// The block that holds this record cannot be read; with `restorable`, the source still has it.
    pub(super) fn damage(&self, number: u64, restorable: bool) {
        self.damaged.lock().unwrap().insert(number);
        self.restorable.store(restorable, Ordering::SeqCst);
    }

    /// Records below are gone.
    pub(super) fn release(&self, below: u64) {
        self.oldest.store(below, Ordering::SeqCst);
        self.blocks
            .lock()
            .unwrap()
            .retain(|block| block.first >= below);
    }
}

impl Blocks for FakeSpool {
    fn block_at(&self, record: u64) -> Result<Option<Arc<Block>>, ReadError> {
        if self.unreadable.load(Ordering::SeqCst) {
            return Err(ReadError::Io(io::ErrorKind::Other.into()));
        }
        let blocks = self.blocks.lock().unwrap();
        let Some(block) = blocks
            .iter()
            .find(|b| b.first + u64::from(b.count) > record)
        else {
            return Ok(None);
        };
        let range = block.first..block.first + u64::from(block.count);
        if self
            .damaged
            .lock()
            .unwrap()
            .iter()
            .any(|n| range.contains(n))
        {
            return Err(ReadError::Damaged {
                first: range.start,
                last: range.end - 1,
                key: block.key.to_vec(),
                note: block.note.to_vec(),
                payload_crc: None,
                segment: 0,
                offset: 0,
                problem: "flipped".into(),
            });
        }
        Ok(Some(Arc::clone(block)))
    }

    fn piece(&self, piece: PieceRef) -> Result<Bytes, ReadError> {
        Ok(self.pieces.lock().unwrap()[usize::try_from(piece.offset).unwrap()].clone())
    }

    fn restore(&self, damaged: &ReadError, _: &[u8]) -> io::Result<bool> {
        let ReadError::Damaged { first, last, .. } = damaged else {
            panic!("{damaged}")
        };
        let restorable = self.restorable.load(Ordering::SeqCst);
        self.damaged
            .lock()
            .unwrap()
            .retain(|n| !restorable || !(*first..=*last).contains(n));
        Ok(restorable)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    fn oldest_record(&self) -> u64 {
        self.oldest.load(Ordering::SeqCst)
    }
}

impl Rebuild for FakeSpool {
    fn payload(&self, _: &Origin, _: &Span) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

/// Gaps that were recorded.
#[derive(Default)]
pub(super) struct FakeGaps {
    recorded: Mutex<Vec<(String, SinkGap)>>,
    failing: AtomicBool,
}

impl FakeGaps {
    pub(super) fn all(&self) -> Vec<(SinkGapReason, u64, u64)> {
        self.recorded
            .lock()
            .unwrap()
            .iter()
            .map(|(_, gap)| (gap.reason, gap.first, gap.last))
            .collect()
    }
}

impl GapLog for FakeGaps {
    fn record(&self, sink: &str, gap: SinkGap) -> BoxFuture<'_, Result<(), String>> {
        let sink = sink.to_owned();
        Box::pin(async move {
            if self.failing.load(Ordering::SeqCst) {
                return Err("intake is busy".to_owned());
            }
            self.recorded.lock().unwrap().push((sink, gap));
            Ok(())
        })
    }
}

/// One attempt as the sink saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) at: Duration,
    pub(super) records: Vec<u64>,
    pub(super) form: Form,
    pub(super) in_doubt: bool,
}

/// What the scripted sink does with one attempt.
pub(super) enum Step {
    Now(Outcome),
    After(Duration, Outcome),
    Hang,
    Panic,
}

type Answer = Box<dyn FnMut(&Batch) -> Step + Send>;

/// A sink that answers as a test tells it.
pub(super) struct FakeSink {
    name: &'static str,
    clock: Arc<dyn Clock>,
    answer: Mutex<Answer>,
    seen: Mutex<Vec<Seen>>,
    stored: Mutex<BTreeMap<u64, u32>>,
    opens: Mutex<VecDeque<Result<Opened, Outcome>>>,
    open_marks: Mutex<Vec<Option<Vec<u8>>>>,
    settle: Mutex<VecDeque<Result<(), String>>>,
    secrets: AtomicBool,
    fs: Arc<SimulatedFs>,
}

impl FakeSink {
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn answer(&self, answer: impl FnMut(&Batch) -> Step + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// Records that it holds, each with how often it was stored.
    pub(super) fn stored(&self) -> BTreeMap<u64, u32> {
        self.stored.lock().unwrap().clone()
    }

    /// What was delivered is stored; what is in doubt is looked up first.
    fn store(&self, batch: &Batch, outcome: &Outcome) {
        let Outcome::Delivered { except, .. } = outcome else {
            return;
        };
        let mut stored = self.stored.lock().unwrap();
        for record in &batch.records {
            if !except.iter().any(|(number, _)| *number == record.number) {
                let copies = stored.entry(record.number).or_default();
                if *copies == 0 || !batch.in_doubt {
                    *copies += 1;
                }
            }
        }
    }
}

impl Sink for FakeSink {
    fn open<'a>(&'a self, mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        self.open_marks
            .lock()
            .unwrap()
            .push(mark.map(<[u8]>::to_vec));
        let opened = self
            .opens
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Ok(Opened::default()));
        Box::pin(async move { opened })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        let records: Vec<u64> = batch.records.iter().map(|record| record.number).collect();
        let place =
            CursorFile::peek(&*self.fs, &cursor_path(Path::new("/state"), self.name)).unwrap();
        if let Some(place) = place {
            assert!(
                records.iter().all(|n| *n < place.send_limit),
                "{records:?} beyond the durable {place:?}"
            );
        }
        let seen = Seen {
            at: self.clock.monotonic(),
            records,
            form: batch.form,
            in_doubt: batch.in_doubt,
        };
        self.seen.lock().unwrap().push(seen);
        let step = (self.answer.lock().unwrap())(&batch);
        Box::pin(async move {
            let outcome = match step {
                Step::Now(outcome) => outcome,
                Step::After(wait, outcome) => {
                    clock::sleep(wait).await;
                    outcome
                }
                Step::Hang => std::future::pending().await,
                Step::Panic => panic!("scripted"),
            };
            self.store(&batch, &outcome);
            outcome
        })
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), String>> {
        let settled = self.settle.lock().unwrap().pop_front().unwrap_or(Ok(()));
        Box::pin(async move { settled })
    }

    fn weigh(&self, _: &Record) -> u64 {
        10
    }

    fn secrets_changed(&self) -> bool {
        self.secrets.swap(false, Ordering::SeqCst)
    }
}

pub(super) fn delivered() -> Outcome {
    except(Vec::new())
}

pub(super) fn except(except: Vec<(u64, Verdict)>) -> Outcome {
    Outcome::Delivered {
        mark: None,
        except,
        alarms: Vec::new(),
    }
}

pub(super) fn all_but(batch: &Batch, bad: impl Fn(u64) -> Option<Verdict>) -> Outcome {
    except(
        batch
            .records
            .iter()
            .filter_map(|record| bad(record.number).map(|v| (record.number, v)))
            .collect(),
    )
}

pub(super) fn no(kind: RejectionKind) -> Rejection {
    Rejection {
        kind,
        class: "mapper".into(),
        reason: "does not fit".into(),
    }
}

pub(super) fn retry(after: Option<Duration>) -> Outcome {
    Outcome::Retry {
        after,
        reason: "503".into(),
        in_doubt: false,
    }
}

/// One sink on a spool and a disk that outlive restarts.
pub(super) struct Rig {
    pub(super) spool: Arc<FakeSpool>,
    pub(super) gaps: Arc<FakeGaps>,
    pub(super) sink: Arc<FakeSink>,
    pub(super) fs: Arc<SimulatedFs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) memory: Arc<Memory>,
    pub(super) letters_max: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(RuntimeClock(tokio::time::Instant::now()));
        let fs = Arc::new(SimulatedFs::new());
        Rig {
            spool: FakeSpool::new(),
            gaps: Arc::default(),
            sink: fake_sink("sink", &clock, &fs),
            fs,
            clock,
            memory: Memory::new(1 << 20),
            letters_max: 1 << 20,
        }
    }

    pub(super) fn spec(&self) -> SinkSpec {
        SinkSpec {
            name: "sink".into(),
            sink: Arc::clone(&self.sink) as Arc<dyn Sink>,
            from_now: false,
            required: true,
            batch_bytes: 1000,
            batch_events: 50,
            batch_wait: s(1),
            concurrency: 1,
            timeout: s(10),
            waits: false,
            sealed: false,
        }
    }

    pub(super) fn shared(&self) -> Shared {
        Shared {
            reader: Arc::clone(&self.spool) as Arc<dyn Blocks>,
            clock: Arc::clone(&self.clock),
            fs: Arc::clone(&self.fs) as Arc<dyn DurableFs>,
            state_dir: "/state".into(),
            dead_letter_max_bytes: self.letters_max,
            memory: Arc::clone(&self.memory),
            rebuild: Arc::clone(&self.spool) as Arc<dyn Rebuild>,
            gaps: Arc::clone(&self.gaps) as Arc<dyn GapLog>,
            wake: Arc::new(|| {}),
        }
    }

    pub(super) fn start(&self) -> Delivery {
        self.start_with(vec![self.spec()])
    }

    pub(super) fn start_with(&self, specs: Vec<SinkSpec>) -> Delivery {
        Delivery::start(specs, &self.shared(), &tokio::runtime::Handle::current()).unwrap()
    }

    /// What is stored of the sink, with the law.
    pub(super) fn place(&self) -> CursorRecord {
        let record = CursorFile::peek(&*self.fs, &cursor_path(Path::new("/state"), "sink"))
            .unwrap()
            .unwrap();
        assert_eq!(
            record.cursor,
            record.delivered + record.not_selected + record.dead_letter + record.gap
        );
        record
    }

    pub(super) fn letters(&self) -> DeadLetters {
        DeadLetters::look(
            Arc::clone(&self.fs) as Arc<dyn DurableFs>,
            Path::new("/state"),
            self.letters_max,
        )
    }
}

pub(super) fn fake_sink(
    name: &'static str,
    clock: &Arc<dyn Clock>,
    fs: &Arc<SimulatedFs>,
) -> Arc<FakeSink> {
    Arc::new(FakeSink {
        name,
        clock: Arc::clone(clock),
        answer: Mutex::new(Box::new(|_| Step::Now(delivered()))),
        seen: Mutex::default(),
        stored: Mutex::default(),
        opens: Mutex::default(),
        open_marks: Mutex::default(),
        settle: Mutex::default(),
        secrets: AtomicBool::new(false),
        fs: Arc::clone(fs),
    })
}

/// Waits, in the runtime's own time, until the first sink's report fulfils a condition.
pub(super) async fn until(delivery: &Delivery, what: impl Fn(&SinkReport) -> bool) -> SinkReport {
    for _ in 0..100_000 {
        let report = delivery.reports().remove(0);
        if what(&report) {
            return report;
        }
        clock::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {:#?}", delivery.reports());
}

/// Waits until everything spooled is confirmed durably.
pub(super) async fn drained(delivery: &Delivery, rig: &Rig) -> SinkReport {
    let end = *rig.spool.next.borrow();
    until(delivery, |report| report.durable.cursor == end).await
}

pub(super) fn numbers(range: Range<u64>) -> Vec<u64> {
    range.collect()
}
