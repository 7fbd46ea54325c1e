//! The whole configuration, read and valid, not yet built: `[agent]`, `[spool]`, `[dead_letter]`, `[admin]`, and each
//! source and sink by its own kind. Reads; builds and touches nothing.
//!
//! The same field lists make the schema and the reference ([`reference`]).

mod agent;

mod files;

mod sink;

use crate::config::reference::{ArrayDoc, KindDoc, Reference};
use crate::config::{ByteSize, Document, Field, Name, Section, TableDoc};
use crate::sinks::SINKS;
use crate::sources::{SOURCES, SourceConfig, read_config};

pub use agent::{Admin, Agent, DeadLetter, OnFull, Spool};
pub use sink::SinkSettings;

/// Everything a pipeline file says.
#[derive(Debug)]
pub struct Settings {
    /// `[agent]`.
    pub agent: Agent,
    /// `[spool]`.
    pub spool: Spool,
    /// `[dead_letter]`.
    pub dead_letter: DeadLetter,
    /// `[admin]`.
    pub admin: Admin,
    /// `[[source]]`, in order.
    pub sources: Vec<SourceSettings>,
    /// `[[sink]]`, in order.
    pub sinks: Vec<SinkSettings>,
}

/// One `[[source]]`.
#[derive(Debug)]
pub struct SourceSettings {
    /// Its name.
    pub name: String,
    /// What its kind read.
    pub config: Box<dyn SourceConfig>,
}

impl Settings {
    /// Reads a document. `None` where a mistake was found; the document then tells all of them.
    pub fn read(document: &Document) -> Option<Settings> {
        let mut root = document.root();
        let agent = agent::read_agent(&mut root);
        let spool = agent::read_spool(&mut root);
        let dead_letter = agent::read_dead_letter(&mut root);
        let admin = agent::read_admin(&mut root);
        let memory = agent.as_ref().map(|agent| agent.memory);
        let sources = read_sources(&mut root, memory);
        refuse_stages(&mut root);
        let sinks = sink::read_sinks(&mut root);
        root.finish();
        let (sources, sinks) = (sources?, sinks?);
        if files::refuse_shared(document, &sources, &sinks) {
            return None;
        }
        Some(Settings {
            agent: agent?,
            spool: spool?,
            dead_letter: dead_letter?,
            admin: admin?,
            sources,
            sinks,
        })
    }
}

const SOURCE_NAME: Field<Name> = Field::new(
    "name",
    "Name of the source. Part of every event's id: a renamed source is a new one, which starts as `start` says.",
)
.required();

/// `[[source]]` for reading, schema and reference.
static SOURCE: TableDoc = TableDoc {
    name: "source",
    doc: "Where events come from.",
    fields: &[&SOURCE_NAME],
};

/// Shared stages come with a later version; until then their table is known and refused.
static STAGE: TableDoc = TableDoc {
    name: "stage",
    doc: "Not built yet: shared stages.",
    fields: &[],
};

fn read_sources(root: &mut Section<'_>, memory: Option<u64>) -> Option<Vec<SourceSettings>> {
    let tables = root.tables(&SOURCE);
    if root.has_none(&SOURCE) {
        root.error_at(
            root.place(),
            "there is no `[[source]]`",
            Some("name the audit log to read".into()),
        );
    }
    let mut sources = Vec::with_capacity(tables.len());
    for mut table in tables {
        let name = table.get(&SOURCE_NAME);
        let config = read_config(&mut table);
        if let (Some(config), Some(memory)) = (&config, memory) {
            let line_max = config.line_max();
            if line_max.value.0 > memory / 16 {
                let most = ByteSize(memory / 16);
                table.error_at(
                    line_max.at,
                    format!("`line_max` is more than a sixteenth of `agent.memory`, {most}"),
                    Some("longer lines are kept too, in pieces; or raise `agent.memory`".into()),
                );
            }
        }
        table.finish();
        sources.push(name.zip(config).map(|(name, config)| SourceSettings {
            name: name.0,
            config,
        }));
    }
    let sources: Option<Vec<_>> = sources.into_iter().collect();
    sources.filter(|sources| !sources.is_empty())
}

fn refuse_stages(root: &mut Section<'_>) {
    for mut stage in root.tables(&STAGE) {
        stage.ignore_rest();
        stage.error_at(
            stage.place(),
            "stages are not built yet",
            Some("take this `[[stage]]` out".into()),
        );
    }
}

/// The whole configuration for schema and reference.
pub fn reference() -> Reference {
    let sources = SOURCES.iter().map(|kind| KindDoc {
        name: kind.name,
        summary: kind.summary,
        fields: kind.fields,
    });
    let sinks = SINKS.iter().map(|kind| KindDoc {
        name: kind.name,
        summary: kind.summary,
        fields: kind.fields,
    });
    Reference {
        fields: vec![
            &agent::AGENT,
            &agent::SPOOL,
            &agent::DEAD_LETTER,
            &agent::ADMIN,
        ],
        arrays: vec![
            ArrayDoc {
                table: &SOURCE,
                kinds: sources.collect(),
            },
            ArrayDoc {
                table: &sink::SINK,
                kinds: sinks.collect(),
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_sentence_and_a_default_that_can_be_read() {
        assert_eq!(reference().verify(), Vec::<String>::new());
    }

    #[test]
    fn a_configuration_whose_only_source_and_sink_are_taken_out_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ship.toml");
        let text = "agent = { cluster = \"a\", node = \"b\" }\n\
             [[source]]\nname = \"api\"\ntype = \"stdin\"\n\
             [[sink]]\nname = \"out\"\ntype = \"stdout\"\n";
        std::fs::write(&path, text).unwrap();
        for (set, said) in [
            ("sink.out.enabled=false", "there is no `[[sink]]`"),
            ("source.api.enabled=false", "there is no `[[source]]`"),
        ] {
            let document = Document::load(&path, &[set.to_owned()]).unwrap();
            assert!(Settings::read(&document).is_none());
            let mistakes = document.finish().expect_err(set).to_string();
            assert!(mistakes.contains(said), "{set}: {mistakes}");
        }
    }
}
