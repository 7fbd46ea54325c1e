//! A sink that seals its batches and builds their bodies while they fill, as one for objects does.

use super::*;
use crate::delivery::seal::{Seals, seals_path};
use crate::sinks::{BatchKey, BodyBuilder, BuiltBody, Holds, Seal};

/// A destination of whole objects, and the sink before it.
struct Objects {
    fs: Arc<SimulatedFs>,
    /// What it holds: the records of each object.
    held: Mutex<BTreeSet<Vec<u64>>>,
    /// Keys are the record number modulo this.
    keys: u64,
    /// Changes what the same records are encoded to.
    encoder: u8,
    answer: Mutex<Script>,
    asked: Mutex<Vec<Vec<u64>>>,
}

type Script = Box<dyn FnMut(&[u64]) -> Answer + Send>;

/// What becomes of one attempt.
enum Answer {
    Store,
    /// It is stored, and nobody hears of it.
    StoreAndHang,
    Refuse,
}

impl Objects {
    fn new(rig: &Rig, keys: u64, encoder: u8) -> Arc<Self> {
        Arc::new(Objects {
            fs: Arc::clone(&rig.fs),
            held: Mutex::default(),
            keys,
            encoder,
            answer: Mutex::new(Box::new(|_| Answer::Store)),
            asked: Mutex::default(),
        })
    }

    /// The same destination behind other settings.
    fn with_encoder(&self, rig: &Rig, encoder: u8) -> Arc<Self> {
        let other = Objects::new(rig, self.keys, encoder);
        *other.held.lock().unwrap() = self.held.lock().unwrap().clone();
        other
    }

    fn answer(&self, answer: impl FnMut(&[u64]) -> Answer + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn held(&self) -> Vec<Vec<u64>> {
        self.held.lock().unwrap().iter().cloned().collect()
    }
}

struct Body(Vec<u64>);

impl BodyBuilder for Body {
    fn push(&mut self, record: &Record) -> io::Result<()> {
        self.0.push(record.number);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.0.len() as u64 * 10
    }

    fn finish(self: Box<Self>) -> io::Result<BuiltBody> {
        Ok(BuiltBody(Arc::new(self.0)))
    }
}

fn records(batch: &Batch) -> Vec<u64> {
    let body = batch.body.as_ref().expect("a body was built");
    body.0.downcast_ref::<Vec<u64>>().unwrap().clone()
}

impl Sink for Objects {
    fn open<'a>(&'a self, _: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(async { Ok(Opened::default()) })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        let records = records(&batch);
        let fs = Arc::clone(&self.fs) as Arc<dyn DurableFs>;
        let mut seals = Seals::open(fs, seals_path(Path::new("/state"), "sink")).unwrap();
        let sealed = seals.read().unwrap();
        let numbers: crate::delivery::numbers::Numbers = records.iter().copied().collect();
        assert!(
            sealed
                .iter()
                .any(|(n, seal)| *n == numbers && Some(seal) == batch.seal.as_ref()),
            "{records:?} is sent before its seal is durable"
        );
        let answer = (self.answer.lock().unwrap())(&records);
        if !matches!(answer, Answer::Refuse) {
            self.held.lock().unwrap().insert(records);
        }
        Box::pin(async move {
            match answer {
                Answer::Store => delivered(),
                Answer::StoreAndHang => std::future::pending().await,
                Answer::Refuse => retry(None),
            }
        })
    }

    fn weigh(&self, _: &Record) -> u64 {
        unreachable!("bodies are weighed as they are built")
    }

    fn batch_key(&self, record: &Record) -> BatchKey {
        BatchKey(vec![u8::try_from(record.number % self.keys).unwrap()])
    }

    fn begin_body(&self) -> Option<Box<dyn BodyBuilder>> {
        Some(Box::new(Body(Vec::new())))
    }

    fn seal(&self, batch: &Batch) -> Option<Seal> {
        let target = records(batch)
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        Some(Seal {
            target,
            encoder: [self.encoder; 16],
            sha256: [0; 32],
        })
    }

    fn look_up<'a>(&'a self, seal: &'a Seal) -> BoxFuture<'a, Result<Holds, Outcome>> {
        let numbers = seal
            .target
            .chunks(8)
            .map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        let numbers: Vec<u64> = numbers.collect();
        let holds = match self.held.lock().unwrap().contains(&numbers) {
            true => Holds::Yes,
            false => Holds::No,
        };
        self.asked.lock().unwrap().push(numbers);
        Box::pin(async move { Ok(holds) })
    }
}

fn spec(rig: &Rig, sink: &Arc<Objects>) -> SinkSpec {
    SinkSpec {
        sink: Arc::clone(sink) as Arc<dyn Sink>,
        batch_bytes: 100,
        batch_events: u64::MAX,
        batch_wait: s(300),
        waits: true,
        sealed: true,
        ..rig.spec()
    }
}

fn start(rig: &Rig, sink: &Arc<Objects>) -> Delivery {
    rig.start_with(vec![spec(rig, sink)])
}

#[tokio::test(start_paused = true)]
async fn a_body_is_built_until_it_has_its_size_or_its_age() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 1, 0);
    rig.spool.append(7);
    let delivery = start(&rig, &sink);
    clock::sleep(s(299)).await;
    assert_eq!(sink.held(), Vec::<Vec<u64>>::new());
    rig.spool.append(6);
    until(&delivery, |report| report.durable.cursor == 10).await;
    assert_eq!(sink.held(), [numbers(0..10)]);
    drained(&delivery, &rig).await;
    assert_eq!(sink.held()[1], numbers(10..13), "the rest after its wait");
    assert!(rig.clock.monotonic() > s(599));
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_the_wait() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 2, 0);
    rig.spool.append(5);
    let delivery = start(&rig, &sink);
    let flushed = delivery.flushed(5, s(60)).await;
    assert_eq!(flushed, [("sink".to_owned(), Flushed::Confirmed)]);
    assert_eq!(sink.held(), [vec![0, 2, 4], vec![1, 3]]);
    assert!(rig.clock.monotonic() < s(10));
}

#[tokio::test(start_paused = true)]
async fn keys_are_kept_apart_and_together_hold_no_more_than_one_batch() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 3, 0);
    rig.spool.append(300);
    let delivery = start(&rig, &sink);
    drained(&delivery, &rig).await;
    for object in sink.held() {
        assert!(object.iter().all(|n| n % 3 == object[0] % 3), "{object:?}");
        assert!(object.len() <= 10, "{object:?}");
    }
    let mut all: Vec<u64> = sink.held().concat();
    all.sort_unstable();
    assert_eq!(all, numbers(0..300));
}

#[tokio::test(start_paused = true)]
async fn a_ninth_key_closes_the_oldest_batch() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 9, 0);
    let spec = SinkSpec {
        batch_bytes: 1000,
        ..spec(&rig, &sink)
    };
    rig.spool.append(9);
    let delivery = rig.start_with(vec![spec]);
    until(&delivery, |report| report.durable.cursor == 1).await;
    assert_eq!(sink.held(), [vec![0]]);
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_the_same_batch_is_sent_again_whatever_came_since() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 1, 0);
    sink.answer(|_| Answer::StoreAndHang);
    rig.spool.append(7);
    let delivery = start(&rig, &sink);
    until(&delivery, |_| sink.held().len() == 1).await;
    delivery.abort();
    rig.spool.append(20);
    sink.answer(|_| Answer::Store);
    let delivery = start(&rig, &sink);
    drained(&delivery, &rig).await;
    assert_eq!(sink.held()[0], numbers(0..7));
    assert_eq!(sink.held().concat(), numbers(0..27), "each record once");
    assert!(sink.asked.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_sealed_under_other_settings_is_asked_for_and_sent_anew_where_it_is_not() {
    for stored in [true, false] {
        let rig = Rig::new();
        let sink = Objects::new(&rig, 1, 0);
        sink.answer(move |_| match stored {
            true => Answer::StoreAndHang,
            false => Answer::Refuse,
        });
        rig.spool.append(10);
        let delivery = start(&rig, &sink);
        until(&delivery, |report| {
            stored && !sink.held().is_empty() || report.last_error.is_some()
        })
        .await;
        delivery.abort();
        let sink = sink.with_encoder(&rig, 1);
        sink.answer(move |_| {
            assert!(!stored, "it is there already");
            Answer::Store
        });
        let delivery = start(&rig, &sink);
        let report = drained(&delivery, &rig).await;
        assert_eq!(*sink.asked.lock().unwrap(), [numbers(0..10)]);
        assert_eq!(sink.held(), [numbers(0..10)]);
        assert_eq!(report.durable.delivered, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_what_was_not_sealed_and_the_next_start_sends_it_once() {
    let rig = Rig::new();
    let sink = Objects::new(&rig, 2, 0);
    rig.spool.append(15);
    let delivery = start(&rig, &sink);
    until(&delivery, |_| !sink.held().is_empty()).await;
    delivery.stop(s(5)).await;
    let delivery = start(&rig, &sink);
    drained(&delivery, &rig).await;
    let mut all = sink.held().concat();
    all.sort_unstable();
    assert_eq!(all, numbers(0..15));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_hangs_never_uses_up_the_slots_of_the_others() {
    let mut rig = Rig::new();
    rig.memory = Memory::new(64 << 20);
    let sink = Objects::new(&rig, 1, 0);
    sink.answer(|records| match records[0] {
        0 => Answer::StoreAndHang,
        _ => Answer::Store,
    });
    rig.spool.append(1000);
    let spec = SinkSpec {
        concurrency: 2,
        ..spec(&rig, &sink)
    };
    let delivery = rig.start_with(vec![spec]);
    clock::sleep(s(15)).await;
    let held = sink.held().len();
    assert!(
        (50..64).contains(&held),
        "{held} of 100 while the first hangs"
    );
    sink.answer(|_| Answer::Store);
    let report = drained(&delivery, &rig).await;
    assert!(!report.alarms.contains_key("seal"), "{:?}", report.alarms);
    assert_eq!(sink.held().concat(), numbers(0..1000));
}

#[test]
fn each_record_is_in_one_object_across_kills() {
    for seed in 0..60 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(killed_again_and_again(seed));
    }
}

async fn killed_again_and_again(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let rig = Rig::new();
    let sink = Objects::new(&rig, random.u64(1..4), 0);
    for _ in 0..12 {
        let mut answers = fastrand::Rng::with_seed(random.u64(..));
        sink.answer(move |_| match answers.u32(0..6) {
            0 => Answer::StoreAndHang,
            1 => Answer::Refuse,
            _ => Answer::Store,
        });
        rig.spool.append(random.u64(1..40));
        let delivery = start(&rig, &sink);
        clock::sleep(Duration::from_millis(random.u64(1..700_000))).await;
        match random.u32(0..3) {
            0 => delivery.stop(s(random.u64(1..30))).await,
            _ => delivery.abort(),
        }
    }
    sink.answer(|_| Answer::Store);
    let delivery = start(&rig, &sink);
    drained(&delivery, &rig).await;
    let mut all = sink.held().concat();
    all.sort_unstable();
    assert_eq!(all, numbers(0..*rig.spool.next.borrow()), "seed {seed}");
    rig.place();
}
