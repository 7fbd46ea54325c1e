//! The log: to standard error, as text for people or one JSON object a line; what keeps repeating is held back.
//!
//! Not a place for event bodies or secrets: callers log names, numbers and reasons.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, filter};

use super::repeats::Repeats;
use crate::clock::Clock;

/// `agent.log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// `agent.log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What an operator must look at.
    Error,
    /// What may become that.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// What was tried.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// The log was set up before.
#[derive(Debug, thiserror::Error)]
#[error("set up the log: {0}")]
pub struct LogError(#[from] tracing::subscriber::SetGlobalDefaultError);

/// Sets up the log of the process, once.
pub fn init(level: LogLevel, format: LogFormat, clock: Arc<dyn Clock>) -> Result<(), LogError> {
    let color = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing::subscriber::set_global_default(subscriber(level, format, color, clock, io::stderr))?;
    Ok(())
}

fn subscriber<W>(
    level: LogLevel,
    format: LogFormat,
    color: bool,
    clock: Arc<dyn Clock>,
    out: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Libraries below speak in their own terms; only their warnings are ours.
    let levels = filter::Targets::new()
        .with_target("auditship", level.filter())
        .with_default(level.filter().min(LevelFilter::WARN));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(out)
        .with_ansi(color);
    let time = WallTime(clock.clone());
    match format {
        LogFormat::Text => {
            let inner: Format<Full, WallTime> =
                Format::default().with_timer(time).with_target(false);
            let layer = layer.event_format(HoldRepeats::new(inner, clock));
            Box::new(Registry::default().with(layer.with_filter(levels)))
        }
        LogFormat::Json => {
            let inner: Format<Json, WallTime> = Format::default()
                .json()
                .flatten_event(true)
                .with_timer(time)
                .with_target(false);
            let layer = layer
                .fmt_fields(JsonFields::new())
                .event_format(HoldRepeats::new(inner, clock));
            Box::new(Registry::default().with(layer.with_filter(levels)))
        }
    }
}

struct WallTime(Arc<dyn Clock>);

impl FormatTime for WallTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&self.0.now().rfc3339())
    }
}

/// Formats what [`Repeats`] admits, and nothing of the rest.
struct HoldRepeats<F> {
    inner: F,
    clock: Arc<dyn Clock>,
    repeats: Mutex<Repeats>,
}

impl<F> HoldRepeats<F> {
    fn new(inner: F, clock: Arc<dyn Clock>) -> Self {
        HoldRepeats {
            inner,
            clock,
            repeats: Mutex::default(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for HoldRepeats<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = self.clock.monotonic();
        let admitted = self
            .repeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(kind_of(event), now);
        let Some(held) = admitted else { return Ok(()) };
        if held == 0 {
            return self.inner.format_event(context, writer, event);
        }
        // The number goes into the line itself, so that a reader of single lines still sees it.
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match line.strip_suffix('}') {
            Some(object) if line.starts_with('{') => {
                writeln!(writer, "{object},\"held_back\":{held}}}")
            }
            _ => writeln!(writer, "{line} held_back={held}"),
        }
    }
}

/// Lines are of one kind when they come from the same statement and are about the same sink, source or stage.
fn kind_of(event: &Event<'_>) -> u64 {
    struct Subject(DefaultHasher);
    impl Visit for Subject {
        fn record_str(&mut self, field: &Field, value: &str) {
            if matches!(field.name(), "sink" | "source" | "stage") {
                value.hash(&mut self.0);
            }
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if matches!(field.name(), "sink" | "source" | "stage") {
                format!("{value:?}").hash(&mut self.0);
            }
        }
    }
    let mut subject = Subject(DefaultHasher::new());
    event.metadata().callsite().hash(&mut subject.0);
    event.record(&mut subject);
    subject.0.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::clock::{ManualClock, Micros};

    #[derive(Clone, Default)]
    struct Sheet(Arc<Mutex<Vec<u8>>>);

    impl Write for Sheet {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, write: impl FnOnce(&ManualClock)) -> Vec<String> {
        let (sheet, clock) = (
            Sheet::default(),
            Arc::new(ManualClock::at(Micros(1_764_000_000_000_000))),
        );
        let out = sheet.clone();
        let subscriber = subscriber(level, format, false, clock.clone(), move || out.clone());
        tracing::subscriber::with_default(subscriber, || write(&clock));
        let bytes = sheet.0.lock().expect("no panic").clone();
        String::from_utf8(bytes)
            .expect("UTF-8")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn text_is_time_level_message_and_fields() {
        let lines = logged(LogLevel::Info, LogFormat::Text, |_| {
            tracing::info!(sink = "search", "sink goes on");
            tracing::debug!("not shown");
        });
        assert_eq!(
            lines,
            ["2025-11-24T16:00:00.000000Z  INFO sink goes on sink=\"search\""]
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let lines = logged(LogLevel::Debug, LogFormat::Json, |_| {
            tracing::warn!(sink = "search", code = 503, "retry")
        });
        let value: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "retry");
        assert_eq!(value["sink"], "search");
        assert_eq!(value["code"], 503);
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn libraries_are_heard_from_warnings_on() {
        let lines = logged(LogLevel::Trace, LogFormat::Text, |_| {
            tracing::info!(target: "hyper", "chatter");
            tracing::warn!(target: "hyper", "trouble");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn what_repeats_is_held_back_for_each_sink_and_counted_in_the_next_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = logged(LogLevel::Info, format, |clock| {
                let say = |sink: &str| tracing::warn!(sink, "attempt failed");
                for _ in 0..100 {
                    say("a");
                }
                say("b");
                clock.advance(Repeats::WINDOW);
                say("a");
            });
            assert_eq!(lines.len(), Repeats::BURST as usize + 2, "{lines:?}");
            let last = lines.last().expect("lines");
            match format {
                LogFormat::Text => assert!(last.ends_with("held_back=95"), "{last}"),
                LogFormat::Json => {
                    let value: serde_json::Value = serde_json::from_str(last).expect("JSON");
                    assert_eq!(value["held_back"], 95);
                }
            }
        }
    }
}
