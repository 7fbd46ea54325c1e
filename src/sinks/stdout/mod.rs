//! The stdout sink: lines on standard output, for a first look and for tests. Nothing is remembered about it: after
//! an unclean stop what was in flight may come again.
//!
//! A closed standard output (`| head`) ends quietly: the sink stops with the reason [`CLOSED`], which `run` takes for
//! an orderly end, not for a mistake.

mod pretty;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::envelope::LineFormat;
use super::{
    Batch, BoxFuture, BuildError, Defaults, Opened, Outcome, Record, Sink, SinkConfig, SinkContext,
    SinkKind,
};
use crate::config::{Choice, Field, Section};

/// The reason of the stop when nobody reads standard output any more.
pub const CLOSED: &str = "stdout closed";

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "stdout",
    summary: "Writes lines to standard output, for a first look and for tests.",
    fields: &[&FORMAT],
    defaults: Defaults {
        batch_bytes: 1 << 20,
        batch_events: 10_000,
        batch_wait: Duration::from_secs(1),
        concurrency: 1,
        concurrency_max: 1,
        proxy: false,
        waits: false,
        sealed: false,
    },
    read,
};

static FORMAT: Field<Format> = Field::new(
    "format",
    "raw: the line as it is and one line feed. envelope: one JSON object with id, origin, position, hash and labels \
     beside the event. pretty: one short line for people (time, verb, user, resource, code), coloured on a terminal.",
)
.default("\"raw\"");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Envelope,
    Pretty,
}

impl Choice for Format {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("raw", Format::Raw),
        ("envelope", Format::Envelope),
        ("pretty", Format::Pretty),
    ];
}

#[derive(Debug)]
struct StdoutConfig {
    format: Format,
}

fn read(section: &mut Section<'_>) -> Option<Box<dyn SinkConfig>> {
    let format = section.get(&FORMAT)?;
    Some(Box::new(StdoutConfig { format }))
}

impl SinkConfig for StdoutConfig {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        // A person who asks for no colour is obeyed (no-color.org), as is a pipe.
        let color = io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let encoding = match self.format {
            Format::Raw => Encoding::Lines(LineFormat::Raw),
            Format::Envelope => Encoding::Lines(LineFormat::envelope(&context.labels)),
            Format::Pretty => Encoding::Pretty { color },
        };
        Ok(Arc::new(StdoutSink {
            encoding: Arc::new(encoding),
            out: Arc::new(Mutex::new(io::stdout())),
        }))
    }

    fn connect<'a>(
        &'a self,
        _context: &'a SinkContext,
        _setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async { Ok(vec!["standard output needs no connection".to_owned()]) })
    }
}

enum Encoding {
    Lines(LineFormat),
    Pretty { color: bool },
}

impl Encoding {
    fn write(&self, record: &Record, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Encoding::Lines(format) => format.write(record, out),
            Encoding::Pretty { color } => pretty::write(record, *color, out),
        }
    }
}

struct StdoutSink<W> {
    encoding: Arc<Encoding>,
    out: Arc<Mutex<W>>,
}

/// Bytes gathered before a write: a batch never stands in memory twice.
const BUFFER: usize = 64 << 10;

fn write_batch(batch: &Batch, encoding: &Encoding, out: &mut dyn Write) -> Outcome {
    let mut buffered = io::BufWriter::with_capacity(BUFFER, out);
    let written = batch
        .records
        .iter()
        .try_for_each(|record| encoding.write(record, &mut buffered))
        .and_then(|()| buffered.flush());
    // What an error left in the buffer is sent again with the whole batch, not by the buffer's own drop.
    let (_out, _unwritten) = buffered.into_parts();
    match written {
        Ok(()) => Outcome::Delivered {
            mark: None,
            except: Vec::new(),
            alarms: Vec::new(),
        },
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Stop {
            reason: CLOSED.to_owned(),
        },
        Err(error) => Outcome::Retry {
            after: None,
            reason: format!("write standard output: {error}"),
            in_doubt: true,
        },
    }
}

impl<W: Write + Send + 'static> Sink for StdoutSink<W> {
    fn open<'a>(&'a self, _mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        Box::pin(async { Ok(Opened::default()) })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        let (encoding, out) = (self.encoding.clone(), self.out.clone());
        Box::pin(async move {
            // A terminal or a pipe may block for as long as its reader likes: not on a worker of the runtime.
            let written = tokio::task::spawn_blocking(move || {
                let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                write_batch(&batch, &encoding, &mut *out)
            });
            written.await.unwrap_or_else(|error| Outcome::Retry {
                after: None,
                reason: format!("write standard output: {error}"),
                in_doubt: true,
            })
        })
    }

    fn weigh(&self, record: &Record) -> u64 {
        match &*self.encoding {
            Encoding::Lines(format) => format.weigh(record),
            Encoding::Pretty { .. } => pretty::LINE_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;
    use crate::event::LineKind;

    /// Fails with `kind` after `room` bytes.
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
        kind: io::ErrorKind,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.taken.len());
            self.taken.extend_from_slice(&bytes[..taken]);
            if taken == 0 && !bytes.is_empty() {
                Err(self.kind.into())
            } else {
                Ok(taken)
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn send(kind: io::ErrorKind, room: usize) -> (Outcome, Vec<u8>) {
        let out = Arc::new(Mutex::new(Pipe {
            taken: Vec::new(),
            room,
            kind,
        }));
        let sink = StdoutSink {
            encoding: Arc::new(Encoding::Lines(LineFormat::Raw)),
            out: out.clone(),
        };
        let records = (0..3).map(|number| {
            record(
                number,
                LineKind::Event,
                format!("{{\"n\":{number}}}").as_bytes(),
            )
        });
        let batch = Batch {
            records: records.collect(),
            ..Batch::default()
        };
        let outcome = sink.send(Arc::new(batch)).await;
        drop(sink);
        let taken = std::mem::take(&mut out.lock().expect("no panic").taken);
        (outcome, taken)
    }

    #[tokio::test]
    async fn lines_come_out_in_order() {
        let (outcome, taken) = send(io::ErrorKind::Other, 1000).await;
        assert_eq!(
            outcome,
            Outcome::Delivered {
                mark: None,
                except: vec![],
                alarms: vec![]
            }
        );
        assert_eq!(taken, b"{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    }

    #[tokio::test]
    async fn a_closed_stdout_stops_with_its_own_reason() {
        let (outcome, _) = send(io::ErrorKind::BrokenPipe, 5).await;
        assert_eq!(
            outcome,
            Outcome::Stop {
                reason: CLOSED.to_owned()
            }
        );
    }

    #[tokio::test]
    async fn another_failure_is_tried_again_and_in_doubt() {
        let (outcome, taken) = send(io::ErrorKind::WouldBlock, 5).await;
        assert!(
            matches!(outcome, Outcome::Retry { in_doubt: true, .. }),
            "{outcome:?}"
        );
        assert_eq!(taken, b"{\"n\":");
    }
}
