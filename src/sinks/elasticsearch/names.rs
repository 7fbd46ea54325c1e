//! Index names that depend on fields of events, kept few: at most 64 distinct ones, and `<prefix>other` for the rest,
//! so that a client of the API server cannot make indices without end. The set is small durable state.
//!
//! Invariants: a name is durable before its first use, so that a resend after a crash goes to the same index; names
//! are never taken out while the prefix stays. What is kept is the name without the event's time (see
//! [`Rendered::distinct`]).
//!
//! ```text
//! auditship index names 1
//! audit-get-
//! …
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::durable_fs::DurableFs;
use crate::event::template::{Admission, BoundedNames, Rendered};

/// Elasticsearch's limit on an index name.
const NAME_BYTES_MAX: usize = 255;

const HEADER: &str = "auditship index names 1";

/// Far more than 64 names need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The names in use.
pub(super) struct Names {
    fs: Arc<dyn DurableFs>,
    path: PathBuf,
    known: BoundedNames,
}

impl Names {
    /// Reads the set kept in `path`. Names with another prefix are those of an earlier configuration and not counted.
    pub(super) fn load(fs: Arc<dyn DurableFs>, path: PathBuf, prefix: &str) -> io::Result<Self> {
        let mut names = Names {
            fs,
            path,
            known: BoundedNames::new(prefix, []),
        };
        let file = match names.fs.open_read(&names.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(names.told("open", error)),
        };
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "not a list of index names of this version",
            )
        };
        let length = file.len().map_err(|error| names.told("read", error))?;
        if length > FILE_BYTES_MAX {
            return Err(names.told("read", damaged()));
        }
        let mut bytes = vec![0; length as usize];
        let read = file
            .read_at(0, &mut bytes)
            .map_err(|error| names.told("read", error))?;
        bytes.truncate(read);
        let text = String::from_utf8(bytes).map_err(|_| names.told("read", damaged()))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(names.told("read", damaged()));
        }
        let kept = lines
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned);
        names.known = BoundedNames::new(prefix, kept);
        Ok(names)
    }

    /// The names to use for those wanted, in the same order, after whatever is new was made durable.
    pub(super) fn admit(&mut self, wanted: Vec<Rendered>) -> io::Result<Vec<String>> {
        let mut known = self.known.clone();
        let mut grown = false;
        let mut admitted = Vec::with_capacity(wanted.len());
        for Rendered { name, distinct } in wanted {
            let admission = distinct
                .as_deref()
                .map_or(Admission::Known, |distinct| known.admission(distinct));
            if let (Admission::New, Some(distinct)) = (admission, distinct) {
                grown |= known.add(distinct);
            }
            admitted.push(if admission == Admission::Full {
                known.other()
            } else {
                name
            });
        }
        if grown {
            self.keep(&known)?;
            self.known = known;
        }
        Ok(admitted)
    }

    fn keep(&self, known: &BoundedNames) -> io::Result<()> {
        let mut text = HEADER.to_owned() + "\n";
        for name in known.names() {
            text.push_str(name);
            text.push('\n');
        }
        if let Some(dir) = self.path.parent() {
            self.fs
                .create_dir(dir)
                .map_err(|error| self.told("make the directory of", error))?;
        }
        self.fs
            .replace(&self.path, text.as_bytes())
            .map_err(|error| self.told("write", error))
    }

    fn told(&self, verb: &str, error: io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("{verb} {}: {error}", self.path.display()),
        )
    }
}

/// What is wrong with the name of a data stream.
pub(super) fn problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("a name may not be empty".to_owned());
    }
    if let Some(first) = text.chars().next().filter(|c| !c.is_ascii_alphanumeric()) {
        return Some(format!("a data stream may not begin with `{first}`"));
    }
    let fine = |c: &char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if let Some(bad) = text.chars().find(|c| !fine(c)) {
        return Some(format!(
            "`{bad}` cannot be in the name of a data stream: allowed are a-z, 0-9, `.`, `_` and `-`"
        ));
    }
    (text.len() > NAME_BYTES_MAX).then(|| format!("a name has at most {NAME_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable_fs::SystemFs;

    fn wanted(distinct: &str) -> Rendered {
        Rendered {
            name: format!("{distinct}-2026"),
            distinct: Some(distinct.to_owned()),
        }
    }

    #[test]
    fn the_65th_name_goes_to_other_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinks/search/index-names");
        let load = |prefix| Names::load(Arc::new(SystemFs), path.clone(), prefix).unwrap();
        let mut names = load("audit-");
        let first = names
            .admit((0..70).map(|n| wanted(&format!("audit-{n:02}"))).collect())
            .unwrap();
        assert_eq!(
            (first[63].as_str(), first[64].as_str()),
            ("audit-63-2026", "audit-other")
        );
        let mut names = load("audit-");
        let again = names
            .admit(vec![wanted("audit-99"), wanted("audit-07")])
            .unwrap();
        assert_eq!(again, ["audit-other", "audit-07-2026"]);
        let fixed = Rendered {
            name: "audit-2026".to_owned(),
            distinct: None,
        };
        assert_eq!(
            names.admit(vec![fixed]).unwrap(),
            ["audit-2026"],
            "a name without client fields is not counted"
        );
        assert_eq!(
            load("other-").admit(vec![wanted("other-1")]).unwrap(),
            ["other-1-2026"],
            "another prefix starts anew"
        );
    }

    #[test]
    fn a_file_that_is_no_list_of_names_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index-names");
        std::fs::write(&path, "something else\n").unwrap();
        let error = Names::load(Arc::new(SystemFs), path.clone(), "audit-")
            .err()
            .unwrap();
        assert!(error.to_string().contains("index-names"), "{error}");
    }
}
