//! Reads a range of the log once more, from another thread, when its block in the spool is damaged. Only what is
//! still under a name is found; what we merely hold a descriptor of is not.

use std::io;
use std::sync::Arc;

use crate::event::encoding::Span;
use crate::event::{IdPrefix, Origin};
use crate::framing::lines::{Framed, Framer};

use super::super::{Lines, Reread};
use super::backlog::{Form, LogNames, Name, contents, plain_from};
use super::disk::Disk;
use super::file_identity::skip_to;
use super::listing::Prober;
use super::resume::Probe;

/// The log's files by name.
pub(super) struct Archive {
    pub(super) origin: Origin,
    pub(super) names: LogNames,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) line_max: usize,
}

impl Reread for Archive {
    fn reread(&self, span: &Span) -> Option<Lines> {
        match self.find(span) {
            Ok(lines) => lines,
            Err(error) => {
                tracing::warn!(source = %self.origin.source, %error, "a damaged block could not be read once more");
                None
            }
        }
    }
}

impl Archive {
    /// The names change while we look, so a file may be met under none of them; the caller asks again later.
    fn find(&self, span: &Span) -> io::Result<Option<Lines>> {
        let entries = self.disk.list(&|name| self.names.parse(name).is_some())?;
        let mut names: Vec<_> = entries
            .found
            .iter()
            .filter(|entry| entry.regular)
            .filter_map(|entry| self.names.parse(&entry.name))
            .collect();
        // Plain files first: their lines are found without decompressing what is before them.
        names.sort_by_key(|name| (name.form(), *name));
        let mut prober = Prober {
            disk: self.disk.as_ref(),
            names: &self.names,
        };
        for name in names {
            let same = match prober.generation(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result? == Some(span.generation),
            };
            if same && let Some(lines) = self.read(&prober, name, span)? {
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }

    /// The lines of the span, if they end where they ended the first time.
    fn read(&self, prober: &Prober<'_>, name: Name, span: &Span) -> io::Result<Option<Lines>> {
        let file = prober.open(name)?;
        let mut contents = match name.form() {
            Form::Plain => plain_from(&file, span.start),
            Form::Gzip => contents(&file, Form::Gzip),
        };
        if name.form() == Form::Gzip && skip_to(&mut contents, span.start)?.is_none() {
            return Ok(None);
        }
        let ids = IdPrefix::new(&self.origin, &span.generation);
        let mut framer = Framer::new(self.line_max, span.start);
        let mut lines = Lines::default();
        let mut end = span.start;
        // Anything but whole lines has no place in `Lines`.
        let mut only_lines = true;
        let mut take = |framed: Framed<'_>| match framed {
            Framed::Line {
                offset,
                end: line_end,
                kind,
                time_us,
                bytes,
            } => {
                lines.push(&ids, offset, kind, time_us, bytes);
                end = line_end;
                true
            }
            Framed::Piece { .. } | Framed::NulGap { .. } => {
                only_lines = false;
                false
            }
        };
        let mut wanted = io::Read::take(&mut contents, span.end - span.start);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = io::Read::read(&mut wanted, &mut buffer)?;
            if read == 0 {
                // The last bytes of a generation are a line without a line feed.
                framer.finish(&mut take);
                break;
            }
            if framer.push(&buffer[..read], &mut take) < read {
                break;
            }
        }
        Ok((only_lines && end == span.end).then_some(lines))
    }
}
