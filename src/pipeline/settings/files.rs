//! One file, one writer: a file sink cuts off whatever lies behind its own confirmed bytes, so a second writer would lose
//! events, and a log that the agent writes itself would never end.
//!
//! Compares paths as they are written, made absolute; it follows no link and looks at no file.

use std::path::{Path, PathBuf};

use super::{SinkSettings, SourceSettings};
use crate::config::Document;

/// Reports each file sink that writes where another does, or into a log that is read. Whether there was one.
pub(super) fn refuse_shared(
    document: &Document,
    sources: &[SourceSettings],
    sinks: &[SinkSettings],
) -> bool {
    let mut taken: Vec<(PathBuf, String)> = Vec::new();
    for source in sources {
        if let Some(path) = source.config.follows() {
            taken.push((absolute(path), format!("source `{}` reads", source.name)));
        }
    }
    let mut refused = false;
    for sink in sinks {
        let Some(written) = sink.config.writes() else {
            continue;
        };
        let path = absolute(&written.value);
        if let Some((_, who)) = taken.iter().find(|(taken, _)| *taken == path) {
            refused = true;
            document.error_at(
                written.at,
                format!("this is the file that {who}"),
                Some("give each its own file".into()),
            );
        }
        taken.push((path, format!("sink `{}` writes", sink.name)));
    }
    refused
}

/// Where no working directory can be had, the path as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Document;
    use crate::pipeline::settings::Settings;

    /// Two file sinks with these paths beside a source on `log/audit.log`; what is said about them, and whether that is
    /// refused.
    #[track_caller]
    fn check(first: &str, second: &str, said: Option<&str>) {
        let text = format!(
            "[agent]\ncluster = \"c\"\nnode = \"n\"\n[[source]]\nname = \"s\"\ntype = \"file\"\npath = \"log/audit.log\"\n\
             [[sink]]\nname = \"one\"\ntype = \"file\"\npath = \"{first}\"\n\
             [[sink]]\nname = \"two\"\ntype = \"file\"\npath = \"{second}\"\n"
        );
        let document = Document::parse("auditship.toml", &text, Path::new(".")).unwrap();
        assert_eq!(Settings::read(&document).is_none(), said.is_some());
        let told = document.finish().map_err(|mistakes| mistakes.to_string());
        assert_eq!(told.is_err(), said.is_some(), "{told:?}");
        assert!(said.is_none_or(|said| told.unwrap_err().contains(said)));
    }

    #[test]
    fn two_file_sinks_on_one_file_are_refused() {
        check("a", "b", None);
        check("a", "a", Some("that sink `one` writes"));
        check("out/a", "./out//a", Some("that sink `one` writes"));
        check(
            "a-{event:%Y}",
            "a-{event:%Y}",
            Some("that sink `one` writes"),
        );
    }

    #[test]
    fn a_sink_does_not_write_into_the_log_that_is_read() {
        check("a", "log/audit.log", Some("that source `s` reads"));
    }
}
