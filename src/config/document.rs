//! A TOML document with spans, laid over what it extends, with `--set` applied and variables filled in.
//!
//! Invariant: whatever can still be read after a mistake is read, so that all mistakes are shown at once. A document
//! with mistakes is no less a document: only [`Document::finish`] says whether it may be used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Diagnostics;
use super::diagnostics::{Diagnostic, Severity, SourceFile};
use super::layers::{self, Step};
use super::section::{Place, Section};
use super::tree::{self, Entry, Item, Table, Text, Tree};
use super::variables::{self, Environment};

/// The merged configuration, ready to be read by sections.
pub struct Document {
    root: Table,
    files: Vec<Arc<SourceFile>>,
    environment: Environment,
    /// Something could not be read at all: a key that seems to be missing may not be.
    incomplete: bool,
    /// Lines that are not TOML; what reading finds in them is only a consequence.
    damaged: Vec<Place>,
    found: Mutex<Found>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    mistakes: Vec<Diagnostic>,
    secrets: Vec<Place>,
}

/// Shows only the files' names: values may be secrets.
impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Document {
    /// Loads `path` with everything it extends and applies `--set KEY=VALUE`. An error only where there is nothing
    /// to read; every other mistake is kept for [`Document::finish`].
    pub fn load(path: &Path, sets: &[String]) -> Result<Document, Diagnostics> {
        Document::load_with(path, sets, Environment::process())
    }

    /// As [`Document::load`], with another environment.
    pub fn load_with(
        path: &Path,
        sets: &[String],
        environment: Environment,
    ) -> Result<Document, Diagnostics> {
        let text = read_file(path).map_err(|reason| {
            Diagnostics::from(Diagnostic::error(format!(
                "cannot read {}: {reason}",
                path.display()
            )))
        })?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let name = path.display().to_string();
        Ok(Loader::new(environment).document(name, Some(path), dir, text, sets))
    }

    /// From text, for tests and embedded defaults; paths are relative to `dir`.
    pub fn parse(name: &str, text: &str, dir: &Path) -> Result<Document, Diagnostics> {
        Document::parse_with(name, text, dir, &[], Environment::process())
    }

    /// As [`Document::parse`], with `--set` and another environment.
    pub fn parse_with(
        name: &str,
        text: &str,
        dir: &Path,
        sets: &[String],
        environment: Environment,
    ) -> Result<Document, Diagnostics> {
        Ok(Loader::new(environment).document(name.into(), None, dir, text.into(), sets))
    }

    /// Without a key, for reading defaults.
    pub(crate) fn empty() -> Document {
        Loader::new(Environment::new(|_| None)).document(
            String::new(),
            None,
            Path::new(""),
            String::new(),
            &[],
        )
    }

    /// Every file it was made from, the given one first.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files
            .iter()
            .filter_map(|file| file.path.clone())
            .collect()
    }

    /// The root, for reading. Mistakes are collected in the document until [`Document::finish`].
    pub fn root(&self) -> Section<'_> {
        Section::new(
            self,
            &self.root,
            Place {
                file: 0,
                start: 0,
                end: 0,
            },
        )
    }

    /// All mistakes that reading found (with the warnings), or nothing.
    pub fn finish(&self) -> Result<(), Diagnostics> {
        let all = self.diagnostics(|_| true);
        if all.errors() > 0 { Err(all) } else { Ok(()) }
    }

    /// What somebody should look at though the configuration can be used.
    pub fn warnings(&self) -> Diagnostics {
        self.diagnostics(|diagnostic| diagnostic.severity() == Severity::Warning)
    }

    fn diagnostics(&self, of: impl Fn(&Diagnostic) -> bool) -> Diagnostics {
        let found = self.found();
        let mistakes: Vec<Diagnostic> = found
            .mistakes
            .iter()
            .filter(|mistake| of(mistake))
            .cloned()
            .collect();
        Diagnostics::new(&mistakes, &self.files, &found.secrets)
    }

    /// Adds a mistake or a warning.
    pub fn report(&self, diagnostic: Diagnostic) {
        let is_consequence = diagnostic.place().is_some_and(|place| {
            self.damaged.iter().any(|line| {
                line.file == place.file && (line.start..=line.end).contains(&place.start)
            })
        });
        if !is_consequence {
            self.found().mistakes.push(diagnostic);
        }
    }

    /// Adds a mistake by its place, as [`Section::error_at`] does, for what is found when sections are gone.
    pub fn error_at(&self, place: Place, message: impl Into<String>, help: Option<String>) {
        self.root_error(Diagnostic::error(message).at(place), help);
    }

    fn root_error(&self, diagnostic: Diagnostic, help: Option<String>) {
        self.report(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// Never shows what stands at a place.
    pub(crate) fn hide(&self, place: Place) {
        self.found().secrets.push(place);
    }

    /// The directory of the file that a place is in.
    pub(crate) fn dir(&self, place: Place) -> &Path {
        self.files
            .get(place.file)
            .map_or(Path::new(""), |file| &file.dir)
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        // A list of messages is whole whenever it is not being pushed to.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Greater than any configuration written by people; a file beyond it is some other file.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is larger than 1MiB".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}

/// Puts a document together.
struct Loader {
    files: Vec<Arc<SourceFile>>,
    environment: Environment,
    incomplete: bool,
    damaged: Vec<Place>,
    mistakes: Vec<Diagnostic>,
}

impl Loader {
    fn new(environment: Environment) -> Self {
        Loader {
            files: Vec::new(),
            environment,
            incomplete: false,
            damaged: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    fn document(
        mut self,
        name: String,
        path: Option<&Path>,
        dir: &Path,
        text: String,
        sets: &[String],
    ) -> Document {
        let mut chain: Vec<PathBuf> = path.map(canonical).into_iter().collect();
        let mut root = self.file(name, path, dir, text, &mut chain);
        for set in sets {
            self.set(&mut root, set);
        }
        layers::report_duplicates(&root, &mut self.mistakes);
        layers::drop_disabled(&mut root, &mut self.mistakes);
        let found = Found {
            mistakes: self.mistakes,
            secrets: Vec::new(),
        };
        Document {
            root,
            files: self.files,
            environment: self.environment,
            incomplete: self.incomplete,
            damaged: self.damaged,
            found: Mutex::new(found),
        }
    }

    /// Reads one file and lays it over what it extends. `chain` is the files that led here, this one last.
    fn file(
        &mut self,
        name: String,
        path: Option<&Path>,
        dir: &Path,
        text: String,
        chain: &mut Vec<PathBuf>,
    ) -> Table {
        let index = self.files.len();
        let file = Arc::new(SourceFile {
            name,
            path: path.map(Path::to_owned),
            dir: dir.to_owned(),
            text,
        });
        self.files.push(Arc::clone(&file));

        let before = self.mistakes.len();
        let mut table = tree::parse(index, &file.text, &mut self.mistakes);
        for place in self.mistakes[before..].iter().filter_map(Diagnostic::place) {
            let line = file.line_of(place.start);
            self.damaged.push(Place {
                file: index,
                start: line.start,
                end: line.end,
            });
            self.incomplete = true;
        }
        variables::fill(&mut table, &self.environment, &mut self.mistakes);
        layers::report_duplicates(&table, &mut self.mistakes);
        match table.remove("extends") {
            Some(extends) => self.extended(extends, dir, table, chain),
            None => table,
        }
    }

    fn extended(
        &mut self,
        extends: Entry,
        dir: &Path,
        over: Table,
        chain: &mut Vec<PathBuf>,
    ) -> Table {
        let mut base = self.base(&extends.tree, dir, chain).unwrap_or_else(|| {
            self.incomplete = true;
            Table::default()
        });
        layers::lay_over(&mut base, over, &mut self.mistakes);
        base
    }

    /// The table that `extends` names; nothing where it cannot be had, which is reported.
    fn base(&mut self, extends: &Tree, dir: &Path, chain: &mut Vec<PathBuf>) -> Option<Table> {
        let relative = match &extends.item {
            Item::Text(text) => &text.value,
            Item::Broken => return None,
            other => {
                self.mistakes.push(
                    Diagnostic::error("wrong value of `extends`")
                        .at(extends.place)
                        .label(format!("this is {}", other.type_name()))
                        .note("allowed is the path of one file, relative to this one"),
                );
                return None;
            }
        };
        let path = dir.join(relative);
        let failed =
            Diagnostic::error(format!("cannot extend {}", path.display())).at(extends.place);
        if chain.contains(&canonical(&path)) {
            self.mistakes
                .push(failed.label("this file extends itself, here or through others"));
            return None;
        }
        match read_file(&path) {
            Ok(text) => {
                chain.push(canonical(&path));
                let dir = path.parent().unwrap_or(Path::new(""));
                let table = self.file(path.display().to_string(), Some(&path), dir, text, chain);
                chain.pop();
                Some(table)
            }
            Err(reason) => {
                self.mistakes.push(failed.label(reason));
                None
            }
        }
    }

    /// Applies one `--set KEY=VALUE`. Its text is a file of its own, so that mistakes in it are shown as any other.
    fn set(&mut self, root: &mut Table, text: &str) {
        let file = self.files.len();
        let source = SourceFile {
            name: "--set".into(),
            path: None,
            dir: PathBuf::new(),
            text: text.into(),
        };
        self.files.push(Arc::new(source));
        let whole = Place {
            file,
            start: 0,
            end: text.len(),
        };
        let Some(equals) = equals_sign(text) else {
            self.mistakes.push(
                Diagnostic::error("`--set` takes KEY=VALUE").at(whole).label("there is no `=`").help(
                    "for example `--set spool.max_bytes=20GiB` or `--set sink.search.batch.wait=2s`",
                ),
            );
            return;
        };
        let Some(steps) = steps(file, &text[..equals]) else {
            let place = Place {
                end: equals,
                ..whole
            };
            self.mistakes.push(Diagnostic::error("`--set` takes KEY=VALUE").at(place).label("this is not a key").help(
                "a key is names with dots between them; put a name with other characters than `A-Za-z0-9_-` in quotes",
            ));
            return;
        };
        let start = equals + 1;
        let value = &text[start..];
        let place = Place { start, ..whole };
        let mut tree =
            tree::parse_value(file, start, value, &mut self.mistakes).unwrap_or_else(|| Tree {
                item: Item::Text(Text {
                    value: value.into(),
                    from_environment: false,
                }),
                place,
            });
        variables::fill_tree(&mut tree, &self.environment, &mut self.mistakes);
        layers::assign(root, &steps, tree, &mut self.mistakes);
    }
}

/// The same path for the same file, as far as the file system tells.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The first `=` outside quotes.
fn equals_sign(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'=') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The parts of a dotted key, as TOML reads them.
fn steps(file: usize, key: &str) -> Option<Vec<Step>> {
    if key.contains(char::is_control) {
        return None;
    }
    let mut mistakes = Vec::new();
    let mut table = tree::parse(file, &format!("{key}=0"), &mut mistakes);
    let mut steps = Vec::new();
    while mistakes.is_empty() {
        let entry = table.entries.pop()?;
        steps.push(Step {
            key: entry.key,
            place: entry.key_place,
        });
        match entry.tree.item {
            Item::Table(below) => table = below,
            _ => return Some(steps),
        }
    }
    None
}
