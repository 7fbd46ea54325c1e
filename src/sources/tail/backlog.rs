//! The backups of a log: what they are called, in which order they come, and how the bytes inside a `.gz` are read.
//!
//! Names are lumberjack's: `<stem>-<yyyy-mm-ddThh-mm-ss.mmm><ext>`, with `.gz` behind it once compressed; `ext` begins
//! at the last dot of the live name. The time is the moment of the rotation in UTC, the end of the contents. Every
//! other name is somebody else's file (`audit.log.1`, `audit.log.swp`).
//!
//! A `.gz` is written under its final name and complete only when the plain file beside it is gone, so where both are
//! there the plain one is read.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::disk::OpenFile;

/// The moment of a rotation as it stands in a backup's name. Sorts as time does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stamp([u8; Stamp::LEN]);

impl Stamp {
    const LEN: usize = 23;
    /// `0` stands for a digit.
    const SHAPE: &'static [u8; Stamp::LEN] = b"0000-00-00T00-00-00.000";

    fn parse(text: &str) -> Option<Stamp> {
        let bytes: [u8; Stamp::LEN] = text.as_bytes().try_into().ok()?;
        for (byte, shape) in bytes.iter().zip(Stamp::SHAPE) {
            let fits = if *shape == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == shape
            };
            if !fits {
                return None;
            }
        }
        let stamp = Stamp(bytes);
        // lumberjack parses the name and ignores what is no time, such as a thirteenth month.
        stamp.time()?;
        Some(stamp)
    }

    fn as_str(&self) -> &str {
        // Only ASCII passes `parse`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn time(&self) -> Option<jiff::Timestamp> {
        let text = self.as_str();
        let (date, time) = text.split_at_checked(11)?;
        format!("{date}{}Z", time.replace('-', ":")).parse().ok()
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn millis(&self) -> i64 {
        self.time().map_or(0, jiff::Timestamp::as_millisecond)
    }
}

impl std::fmt::Debug for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a file holds its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Form {
    Plain,
    Gzip,
}

/// A name that belongs to the log. Backups sort by their time, the live file last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Name {
    Backup(Stamp, Form),
    Live,
}

impl Name {
    pub(super) fn stamp(self) -> Option<Stamp> {
        match self {
            Name::Backup(stamp, _) => Some(stamp),
            Name::Live => None,
        }
    }

    pub(super) fn form(self) -> Form {
        match self {
            Name::Backup(_, form) => form,
            Name::Live => Form::Plain,
        }
    }
}

/// The names of one log.
#[derive(Clone, Debug)]
pub(super) struct LogNames {
    dir: PathBuf,
    live: String,
    /// With its `-`.
    prefix: String,
    /// From the last dot; may be empty.
    ext: String,
}

impl LogNames {
    /// `None` where `path` has no file name of UTF-8.
    pub(super) fn new(path: &Path) -> Option<Self> {
        let live = path.file_name()?.to_str()?.to_owned();
        let dot = live.rfind('.').unwrap_or(live.len());
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        Some(LogNames {
            dir,
            prefix: format!("{}-", &live[..dot]),
            ext: live[dot..].to_owned(),
            live,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn live(&self) -> &str {
        &self.live
    }

    /// What a name means; `None`: not ours.
    pub(super) fn parse(&self, name: &str) -> Option<Name> {
        if name == self.live {
            return Some(Name::Live);
        }
        let rest = name.strip_prefix(&self.prefix)?;
        if let Some(stamp) = rest.strip_suffix(&self.ext).and_then(Stamp::parse) {
            return Some(Name::Backup(stamp, Form::Plain));
        }
        let stamp = rest
            .strip_suffix(".gz")?
            .strip_suffix(&self.ext)
            .and_then(Stamp::parse)?;
        Some(Name::Backup(stamp, Form::Gzip))
    }

    pub(super) fn file_name(&self, name: Name) -> String {
        match name {
            Name::Live => self.live.clone(),
            Name::Backup(stamp, form) => {
                let gz = if form == Form::Gzip { ".gz" } else { "" };
                format!("{}{}{}{gz}", self.prefix, stamp.as_str(), self.ext)
            }
        }
    }
}

/// The bytes of a plain file from an offset on.
pub(super) fn plain_from(file: &Arc<dyn OpenFile>, offset: u64) -> Box<dyn Read + Send> {
    Box::new(Sequential {
        file: file.clone(),
        at: offset,
        forget: false,
        forgotten: offset,
    })
}

/// The uncompressed bytes of an open file from its start.
pub(super) fn contents(file: &Arc<dyn OpenFile>, form: Form) -> Box<dyn Read + Send> {
    let raw = Sequential {
        file: file.clone(),
        at: 0,
        forget: form == Form::Gzip,
        forgotten: 0,
    };
    match form {
        Form::Plain => Box::new(raw),
        // The decoder checks CRC and length when it meets the end.
        Form::Gzip => Box::new(GzDecoder::new(raw)),
    }
}

/// Whether an error of [`contents`] says that the compressed bytes are incomplete or damaged, rather than that the
/// disk could not be read.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
    )
}

/// The uncompressed length that a complete `.gz` ends with, modulo 2^32.
pub(super) fn gzip_length(file: &dyn OpenFile) -> io::Result<Option<u32>> {
    let size = file.stat()?.size;
    let mut bytes = [0; 4];
    // 10 bytes of header, at least 2 of data, 8 of trailer.
    if size < 20 || file.read_at(size - 4, &mut bytes)? < 4 {
        return Ok(None);
    }
    Ok(Some(u32::from_le_bytes(bytes)))
}

/// Reads an open file from front to back and lets the page cache go of what was read of a compressed one: nobody
/// reads that again, while lumberjack still reads the live file once more to compress it.
struct Sequential {
    file: Arc<dyn OpenFile>,
    at: u64,
    forget: bool,
    forgotten: u64,
}

impl Sequential {
    const FORGET_EVERY: u64 = 4 << 20;
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, buffer)?;
        self.at += read as u64;
        let behind = self.at - self.forgotten;
        if self.forget && behind > 0 && (read == 0 || behind >= Self::FORGET_EVERY) {
            self.file.forget_cached(self.forgotten, behind);
            self.forgotten = self.at;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> LogNames {
        LogNames::new(Path::new(path)).unwrap()
    }

    #[test]
    fn names_are_those_of_lumberjack_and_no_others() {
        let log = names("/var/log/audit/audit.log");
        let plain = "audit-2019-07-19T03-10-44.452.log";
        for (name, form) in [
            (plain.to_owned(), Form::Plain),
            (format!("{plain}.gz"), Form::Gzip),
        ] {
            let parsed = log.parse(&name).unwrap();
            assert_eq!(parsed.form(), form);
            assert_eq!(log.file_name(parsed), name);
            assert_eq!(parsed.stamp().unwrap().millis(), 1_563_505_844_452);
        }
        assert_eq!(log.parse("audit.log"), Some(Name::Live));
        for other in [
            "audit.log.1",
            "audit.log.gz",
            "audit-2019-07-19T03-10-44.452.log.1",
            "audit-2019-07-19T03-10-44.452.log.gz.gz",
            "audit-2019-13-19T03-10-44.452.log",
            "audit-2019-07-19T03:10:44.452.log",
            "audit-2019-07-19T03-10-44.log",
            "audit-x.log",
            ".audit.log.swp",
            "audit2-2019-07-19T03-10-44.452.log",
        ] {
            assert_eq!(log.parse(other), None, "{other}");
        }
    }

    #[test]
    fn extension_begins_at_the_last_dot_and_may_be_missing() {
        assert!(
            names("kube.audit.json")
                .parse("kube.audit-2019-07-19T03-10-44.452.json")
                .is_some()
        );
        let log = names("/x/audit");
        assert!(
            log.parse("audit-2019-07-19T03-10-44.452.gz")
                .is_some_and(|n| n.form() == Form::Gzip)
        );
        assert!(
            log.parse("audit-2019-07-19T03-10-44.452")
                .is_some_and(|n| n.form() == Form::Plain)
        );
        assert_eq!(names("audit.log").dir(), Path::new("."));
    }

    #[test]
    fn backups_sort_by_time_and_the_live_file_comes_last() {
        let log = names("audit.log");
        let mut all = [
            "audit.log",
            "audit-2019-07-19T03-10-44.452.log.gz",
            "audit-2018-12-31T23-59-59.999.log",
            "audit-2019-07-19T03-10-44.451.log",
        ]
        .map(|name| log.parse(name).unwrap());
        all.sort();
        let sorted: Vec<_> = all.iter().map(|name| log.file_name(*name)).collect();
        assert_eq!(
            sorted,
            [
                "audit-2018-12-31T23-59-59.999.log",
                "audit-2019-07-19T03-10-44.451.log",
                "audit-2019-07-19T03-10-44.452.log.gz",
                "audit.log",
            ]
        );
    }
}
