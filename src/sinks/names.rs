//! Names of indices and topics that depend on fields of events, kept few: at most 64 distinct ones, and
//! `<prefix>other` for the rest, so that a client of the API server cannot make them without end. The set is small
//! durable state, one file for each sink.
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

/// Far more than 64 names need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the names of one sink are kept.
#[derive(Clone)]
pub(super) struct Place {
    /// On the disk.
    pub(super) fs: Arc<dyn DurableFs>,
    /// The file; its directory need not be there.
    pub(super) path: PathBuf,
    /// What is named, in the file's first line: `index`, `topic`.
    pub(super) noun: &'static str,
}

/// The names in use.
pub(super) struct Names {
    place: Place,
    known: BoundedNames,
}

impl Names {
    /// Reads the set kept there. Names with another prefix are those of an earlier configuration and not counted.
    pub(super) fn load(place: Place, prefix: &str) -> io::Result<Self> {
        let mut names = Names {
            place,
            known: BoundedNames::new(prefix, []),
        };
        let file = match names.place.fs.open_read(&names.place.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(names.told("open", error)),
        };
        let noun = names.place.noun;
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not a list of {noun} names of this version"),
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
        if lines.next() != Some(names.place.header().as_str()) {
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
        let mut text = self.place.header() + "\n";
        for name in known.names() {
            text.push_str(name);
            text.push('\n');
        }
        if let Some(dir) = self.place.path.parent() {
            self.place
                .fs
                .create_dir(dir)
                .map_err(|error| self.told("make the directory of", error))?;
        }
        self.place
            .fs
            .replace(&self.place.path, text.as_bytes())
            .map_err(|error| self.told("write", error))
    }

    fn told(&self, verb: &str, error: io::Error) -> io::Error {
        io::Error::new(
            error.kind(),
            format!("{verb} {}: {error}", self.place.path.display()),
        )
    }
}

impl Place {
    fn header(&self) -> String {
        format!("auditship {} names 1", self.noun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable_fs::SystemFs;

    fn place(path: &std::path::Path) -> Place {
        Place {
            fs: Arc::new(SystemFs),
            path: path.to_owned(),
            noun: "index",
        }
    }

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
        let load = |prefix| Names::load(place(&path), prefix).unwrap();
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
        let error = Names::load(place(&path), "audit-").err().unwrap();
        assert!(error.to_string().contains("index-names"), "{error}");
    }
}
