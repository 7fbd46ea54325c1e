//! The keys of a file source.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{ByteSize, Choice, Field, Section, Spanned, TableDoc, WorkPath};

use super::super::{Source, SourceConfig, SourceContext, SourceError, SourceKind};
use super::reading::Sizes;
use super::resume::Start;
use super::retention::Retention;
use super::{Settings, open};

/// The file source.
pub static KIND: SourceKind = SourceKind {
    name: "file",
    summary: "Follows the audit log of a kube-apiserver across rotations, with its backups as history.",
    fields: &[
        &PATH,
        &START,
        &LINE_MAX,
        &HOLD_DELETED,
        &RETENTION,
        &READ_RATE,
        &METRICS_URL,
    ],
    read,
};

const PATH: Field<WorkPath> = Field::new(
    "path",
    "The live file, as `--audit-log-path` names it. Its backups (`<stem>-<time><extension>`, also with `.gz`) are found \
     beside it; every other name is left alone. Relative to the working directory.",
)
.required();

const START: Field<Start> = Field::new(
    "start",
    "Where to begin when no position is stored: `oldest` (the oldest backup), `live` (the start of the live file) or \
     `end` (what is written from now on).",
)
.default("\"oldest\"");

pub(in super::super) const LINE_MAX: Field<ByteSize> = Field::new(
    "line_max",
    "Longest line that is handled whole, at most a sixteenth of `agent.memory`. A longer one is kept in pieces and \
     delivered as one event; it is never skipped.",
)
.default("\"4MiB\"");

const HOLD_DELETED: Field<ByteSize> = Field::new(
    "hold_deleted",
    "How much disk may be kept alive by open descriptors of deleted backups that were not read yet. Beyond it the \
     oldest is given up, with a recorded gap.",
)
.default("\"1GiB\"");

const READ_RATE: Field<ByteSize> = Field::new(
    "read_rate",
    "Bytes read per second at most, to be gentle to the disk while a backlog is read. Default: no limit.",
)
.min("\"1KiB\"");

const METRICS_URL: Field<String> = Field::new(
    "metrics_url",
    "The API server's metrics, to compare what it wrote with what was read. Not built yet.",
);

const RETENTION: TableDoc = TableDoc {
    name: "retention",
    doc: "The API server's own flags, from which the time until unread backups are deleted is reckoned. Unset: unknown.",
    fields: &[&BACKUPS, &AGE, &SIZE],
};

const BACKUPS: Field<u64> = Field::new(
    "backups",
    "`--audit-log-maxbackup`: how many backups are kept; 0 means all of them.",
);

const AGE: Field<Duration> = Field::new(
    "age",
    "`--audit-log-maxage`: how long backups are kept, such as `\"30d\"`.",
);

const SIZE: Field<ByteSize> = Field::new(
    "size",
    "`--audit-log-maxsize`: at which size the log is rotated.",
);

impl Choice for Start {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("oldest", Start::Oldest),
        ("live", Start::Live),
        ("end", Start::End),
    ];
}

/// A file source as configured.
#[derive(Debug)]
struct FileConfig {
    path: PathBuf,
    line_max: Spanned<ByteSize>,
    settings: Settings,
}

fn read(section: &mut Section<'_>) -> Option<Box<dyn SourceConfig>> {
    let path = section.get_spanned(&PATH);
    let start = section.get(&START);
    let line_max = section.get_spanned(&LINE_MAX);
    let hold_deleted = section.get(&HOLD_DELETED);
    let read_rate = section.get(&READ_RATE);
    let mut retention = Retention::default();
    if let Some(mut table) = section.table(&RETENTION) {
        retention.backups = table.get(&BACKUPS);
        retention.age = table.get(&AGE);
        retention.size = table.get(&SIZE).map(|size| size.0);
        table.finish();
    }
    if section.get(&METRICS_URL).is_some() {
        let place = section.place_of(METRICS_URL.name);
        section.error_at(
            place,
            "`metrics_url` is not built yet",
            Some("remove it".to_owned()),
        );
    }
    if let Some(path) = &path
        && path
            .value
            .0
            .file_name()
            .and_then(|name| name.to_str())
            .is_none()
    {
        section.error_at(
            path.at,
            "this path names no file",
            Some("give the path of the live file".to_owned()),
        );
    }
    if section.failed() {
        return None;
    }
    let (path, line_max) = (path?, line_max?);
    let settings = Settings {
        start: start?,
        line_max: usize::try_from(line_max.value.0).ok()?,
        hold_deleted: hold_deleted?.0,
        retention,
        read_rate: read_rate.map(|rate| rate.0),
        sizes: Sizes::default(),
    };
    Some(Box::new(FileConfig {
        path: path.value.0,
        line_max,
        settings,
    }))
}

impl SourceConfig for FileConfig {
    fn build(&self, context: SourceContext) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(open(&self.path, self.settings.clone(), context)?))
    }

    fn line_max(&self) -> Spanned<ByteSize> {
        self.line_max.clone()
    }

    fn follows(&self) -> Option<&std::path::Path> {
        Some(&self.path)
    }

    fn reads(&self) -> Vec<PathBuf> {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => vec![dir.to_owned()],
            _ => vec![PathBuf::from(".")],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Document;
    use crate::sources::{SOURCES, read_config};

    const TABLE: TableDoc = TableDoc {
        name: "source",
        doc: "",
        fields: &[],
    };

    /// Reads one source; gives what it became and every mistake.
    fn read(text: &str) -> (Option<String>, String) {
        let document = Document::parse(
            "auditship.toml",
            &format!("[[source]]\n{text}\n"),
            Path::new("."),
        )
        .unwrap();
        let mut config = None;
        {
            let mut root = document.root();
            for mut section in root.tables(&TABLE) {
                config = read_config(&mut section).map(|config| format!("{config:?}"));
            }
        }
        (
            config,
            document
                .finish()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default(),
        )
    }

    #[test]
    fn a_path_is_all_that_is_needed() {
        let (config, mistakes) = read("type = \"file\"\npath = \"audit.log\"");
        assert_eq!(mistakes, "");
        let config = config.unwrap();
        assert!(config.contains("start: Oldest"), "{config}");
        assert!(config.contains("line_max: 4194304"), "{config}");
    }

    #[test]
    fn retention_and_rate_are_read() {
        let (config, mistakes) = read(
            "type = \"file\"\npath = \"a.log\"\nstart = \"end\"\nread_rate = \"50MiB\"\n\
             retention = { backups = 10, age = \"30d\", size = \"100MiB\" }",
        );
        assert_eq!(mistakes, "");
        let config = config.unwrap();
        assert!(
            config.contains("backups: Some(10), age: Some(2592000s), size: Some(104857600)"),
            "{config}"
        );
        assert!(config.contains("read_rate: Some(52428800)"), "{config}");
    }

    #[test]
    fn every_mistake_is_said() {
        for (text, expected) in [
            ("type = \"file\"", "path"),
            ("type = \"file\"\npath = \"/\"", "names no file"),
            (
                "type = \"file\"\npath = \"a.log\"\nstart = \"begin\"",
                "oldest",
            ),
            (
                "type = \"file\"\npath = \"a.log\"\nmetrics_url = \"https://x\"",
                "not built yet",
            ),
            (
                "type = \"file\"\npath = \"a.log\"\nread_rate = \"0MiB\"",
                "read_rate",
            ),
            ("type = \"kafka\"", "not built yet"),
            ("type = \"fyle\"", "file"),
        ] {
            let (config, mistakes) = read(text);
            assert!(config.is_none(), "{text}: {config:?}");
            assert!(mistakes.contains(expected), "{text}: {mistakes}");
        }
    }

    #[test]
    fn defaults_and_docs_are_sound() {
        for kind in SOURCES {
            for field in kind.fields {
                field.verify().unwrap();
                assert!(field.doc().ends_with('.'), "{}", field.name());
            }
        }
    }
}
