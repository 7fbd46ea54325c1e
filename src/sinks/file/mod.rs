//! The file sink: lines into local files, each event once across `kill -9`, in record order.
//!
//! Not a log rotator for others' files: it writes to one file at a time and expects that nobody else writes there.
//! What it hands to delivery with each batch is a [`mark`]: the file and the length up to which it holds confirmed
//! records. [`writer`] keeps the rules about it.

mod mark;

mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::writer::{Compression, Options, Writer};
use super::envelope::LineFormat;
use super::{
    Batch, BoxFuture, BuildError, Defaults, Opened, Outcome, Record, Sink, SinkConfig, SinkContext,
    SinkKind,
};
use crate::config::{ByteSize, Choice, Field, Section, Spanned, TableDoc, WorkPath};
use crate::event::template::{NameKind, Template};

/// The kind.
pub static KIND: SinkKind = SinkKind {
    name: "file",
    summary: "Writes lines to local files, each event once across kill -9, in order.",
    fields: &[&PATH, &COMPRESSION, &FORMAT, &ROTATE],
    defaults: Defaults {
        batch_bytes: 5 << 20,
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

static PATH: Field<WorkPath> = Field::new(
    "path",
    "Where to write. May hold `{origin.cluster}`, `{origin.node}`, `{origin.source}` and a date of the event such as \
     `{event:%Y-%m-%d}`. Missing directories are made; files have mode 0600. A relative path is relative to the \
     working directory.",
)
.required();

static COMPRESSION: Field<Compression> = Field::new(
    "compression",
    "Each batch ends its own frame: what is there can always be read by `zcat` or `zstdcat`.",
)
.default("\"none\"");

static FORMAT: Field<Format> = Field::new(
    "format",
    "raw: the line as it is and one line feed. envelope: one JSON object with id, origin, position, hash and labels \
     beside the event.",
)
.default("\"raw\"");

static ROTATE: TableDoc = TableDoc {
    name: "rotate",
    doc: "When to rename the file to `<path>.<UTC time with milliseconds>` and begin a new one. Nothing is ever deleted.",
    fields: &[&ROTATE_BYTES, &ROTATE_EVERY],
};

static ROTATE_BYTES: Field<ByteSize> = Field::new(
    "bytes",
    "Rotate before the first batch after this size was reached.",
);

static ROTATE_EVERY: Field<Duration> = Field::new(
    "every",
    "Rotate before the first batch after this age was reached.",
);

/// `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Raw,
    Envelope,
}

impl Choice for Format {
    const WORDS: &'static [(&'static str, Self)] =
        &[("raw", Format::Raw), ("envelope", Format::Envelope)];
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
    ];
}

#[derive(Clone, Debug)]
struct FileConfig {
    path: Template,
    /// `path` as it was written.
    written: Spanned<PathBuf>,
    compression: Compression,
    format: Format,
    rotate_bytes: Option<u64>,
    rotate_every: Option<Duration>,
}

fn read(section: &mut Section<'_>) -> Option<Box<dyn SinkConfig>> {
    let path = section.get_spanned(&PATH);
    let compression = section.get(&COMPRESSION);
    let format = section.get(&FORMAT);
    let (mut rotate_bytes, mut rotate_every) = (None, None);
    if let Some(mut rotate) = section.table(&ROTATE) {
        rotate_bytes = rotate.get(&ROTATE_BYTES).map(|size| size.0);
        rotate_every = rotate.get(&ROTATE_EVERY);
        rotate.finish();
    }
    let path = path?;
    let template = path_template(section, &path);
    Some(Box::new(FileConfig {
        path: template?,
        written: Spanned {
            value: path.value.0,
            at: path.at,
        },
        compression: compression?,
        format: format?,
        rotate_bytes,
        rotate_every,
    }))
}

const PATHS: &str = "a path such as `/var/log/auditship/{origin.source}-{event:%Y-%m-%d}.jsonl`";

/// Reads the template; every mistake in it is reported.
fn path_template(section: &Section<'_>, path: &Spanned<WorkPath>) -> Option<Template> {
    let Some(text) = path.value.0.to_str() else {
        section.error_at(path.at, "the path is not UTF-8", None);
        return None;
    };
    match Template::parse(text, NameKind::Path) {
        Ok(template) if !text.ends_with('/') => return Some(template),
        Ok(_) => section.error_at(
            path.at,
            "this is a directory",
            Some(format!("name a file in it: `{text}audit.jsonl`")),
        ),
        Err(problems) => {
            for problem in problems {
                section.wrong_value(PATH.name, path.at, problem.to_string(), PATHS);
            }
        }
    }
    None
}

impl SinkConfig for FileConfig {
    fn build(&self, context: &SinkContext) -> Result<Arc<dyn Sink>, BuildError> {
        let format = || match self.format {
            Format::Raw => LineFormat::Raw,
            Format::Envelope => LineFormat::envelope(&context.labels),
        };
        let options = Options {
            path: self.path.clone(),
            rotate_bytes: self.rotate_bytes,
            rotate_every: self.rotate_every,
            compression: self.compression,
            format: format(),
        };
        let writer = Writer::new(options, context.fs.clone(), context.clock.clone());
        Ok(Arc::new(FileSink {
            writer: Arc::new(Mutex::new(writer)),
            format: format(),
        }))
    }

    fn writes(&self) -> Option<Spanned<PathBuf>> {
        Some(self.written.clone())
    }

    fn connect<'a>(
        &'a self,
        _context: &'a SinkContext,
        _setup: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let dir = nearest_dir(
                Path::new(self.path.literal_prefix())
                    .parent()
                    .unwrap_or(Path::new("/")),
            );
            rustix::fs::access(
                &dir,
                rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
            )
            .map_err(|error| {
                format!(
                    "write in {}: {error}: give the agent's user the right to write there",
                    dir.display()
                )
            })?;
            Ok(vec![format!("{} can be written to", dir.display())])
        })
    }
}

/// The directory itself, or the first one above it that exists.
fn nearest_dir(dir: &Path) -> PathBuf {
    let mut dir = dir;
    loop {
        if dir.as_os_str().is_empty() {
            return PathBuf::from(".");
        }
        if dir.is_dir() {
            return dir.to_owned();
        }
        dir = dir.parent().unwrap_or(Path::new("/"));
    }
}

struct FileSink {
    writer: Arc<Mutex<Writer>>,
    /// For weighing alone, without a wait for the writer.
    format: LineFormat,
}

impl FileSink {
    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> Result<T, String> {
        let writer = self.writer.clone();
        tokio::task::spawn_blocking(move || {
            work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|error| format!("file sink: {error}"))
    }
}

impl Sink for FileSink {
    fn open<'a>(&'a self, mark: Option<&'a [u8]>) -> BoxFuture<'a, Result<Opened, Outcome>> {
        let mark = mark.map(<[u8]>::to_vec);
        Box::pin(async move {
            let opened = self
                .blocking(move |writer| writer.open(mark.as_deref()))
                .await;
            opened.unwrap_or_else(|reason| {
                Err(Outcome::Retry {
                    after: None,
                    reason,
                    in_doubt: false,
                })
            })
        })
    }

    fn send(&self, batch: Arc<Batch>) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let sent = self.blocking(move |writer| writer.send(&batch)).await;
            sent.unwrap_or_else(|reason| Outcome::Retry {
                after: None,
                reason,
                in_doubt: false,
            })
        })
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.blocking(Writer::settle)
                .await
                .and_then(|settled| settled)
        })
    }

    fn weigh(&self, record: &Record) -> u64 {
        self.format.weigh(record)
    }
}
