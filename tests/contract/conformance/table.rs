//! Runs the cases of one destination on one server, and makes a table of all of them when the last is through.

use std::any::Any;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use super::cases::{CASES, Case};
use super::trial::Ground;
use super::{DESTINATIONS, Destination};
use crate::support::servers;
use crate::support::wait::Stopwatch;

/// The page that the table is written into.
const PAGE: &str = "docs/conformance.md";
const BEGIN: &str = "<!-- table: written by a run, see above -->\n";
const END: &str = "<!-- end of table -->\n";

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cell {
    Passed,
    Failed(String),
    /// It means nothing there, for this reason.
    Nothing(&'static str),
    /// The server cannot be had here, or another case was asked for.
    NotRun,
}

/// One destination's results.
struct Row {
    name: &'static str,
    sink: &'static str,
    version: String,
    cells: Vec<Cell>,
}

/// Rows of destinations that are through.
static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// Runs every case of a destination and panics with those that failed.
pub(crate) fn hold(name: &'static str, destination: &dyn Destination) {
    let row = run(name, destination);
    let mut failures = String::new();
    for (case, cell) in CASES.iter().zip(&row.cells) {
        if let Cell::Failed(why) = cell {
            writeln!(failures, "{}: {why}", case.name).expect("a String takes all");
        }
    }
    {
        let mut rows = ROWS.lock().expect("no holder panics");
        rows.push(row);
        if rows.len() == DESTINATIONS.len() {
            publish(&mut rows);
        }
    }
    assert!(failures.is_empty(), "{name} does not hold:\n{failures}");
}

fn run(name: &'static str, destination: &dyn Destination) -> Row {
    let only = std::env::var("AUDITSHIP_CASE").ok();
    let mut row = Row {
        name,
        sink: destination.sink(),
        version: "not had".to_owned(),
        cells: Vec::new(),
    };
    let running = destination.start();
    match &running {
        Ok(running) => row.version = running.version(),
        Err(why) => servers::skip(&format!("conformance::{name}"), why),
    }
    for case in CASES {
        row.cells
            .push(match (lacking(destination, case), &running) {
                (Some(why), _) => Cell::Nothing(why),
                (None, Err(_)) => Cell::NotRun,
                (None, Ok(_)) if only.as_deref().is_some_and(|only| only != case.name) => {
                    Cell::NotRun
                }
                (None, Ok(running)) => {
                    let running = running.as_ref();
                    let watch = Stopwatch::start();
                    let ground = Ground::new(destination, running);
                    let ran = catch_unwind(AssertUnwindSafe(|| (case.run)(&ground)));
                    let cell = match (ran, ground.absent()) {
                        (Err(panic), _) => Cell::Failed(message(&*panic)),
                        (Ok(()), None) => Cell::Passed,
                        (Ok(()), Some(why)) => {
                            servers::skip(&format!("conformance::{name}, {}", case.name), &why);
                            Cell::NotRun
                        }
                    };
                    let end = if cell == Cell::Passed { "ok" } else { "FAILED" };
                    println!("{name}, {}: {end} in {:.1?}", case.name, watch.elapsed());
                    cell
                }
            });
    }
    row
}

/// Why a case means nothing for a destination.
fn lacking(destination: &dyn Destination, case: &Case) -> Option<&'static str> {
    let lacks = destination.lacks();
    case.needs
        .iter()
        .find_map(|need| lacks.iter().find(|(lack, _)| lack == need))
        .map(|(_, why)| *why)
}

fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else {
        "a panic without words".to_owned()
    }
}

/// Prints the table, past the test harness, and writes it into its page where asked to.
fn publish(rows: &mut [Row]) {
    rows.sort_by_key(|row| DESTINATIONS.iter().position(|(name, _)| *name == row.name));
    let table = render(rows);
    std::io::stdout()
        .write_all(format!("\n{table}\n").as_bytes())
        .expect("standard output");
    // A part of the cases is no table.
    let whole = std::env::var_os("AUDITSHIP_CASE").is_none();
    if whole && std::env::var_os("AUDITSHIP_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        let page = fs::read_to_string(&path).expect("the page is there");
        let (head, rest) = page.split_once(BEGIN).expect("the page has a place for it");
        let (_, tail) = rest.split_once(END).expect("the page has a place for it");
        fs::write(&path, format!("{head}{BEGIN}{table}{END}{tail}")).expect("write the page");
    }
}

/// Markdown: a line for each case, a column for each destination, and below it why a cell says nothing.
fn render(rows: &[Row]) -> String {
    let mut text = String::from("| |");
    for row in rows {
        write!(text, " {}: {} |", row.sink, row.version).expect("a String takes all");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(rows.len()));
    text.push('\n');
    let mut reasons: Vec<String> = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        write!(text, "| {} |", case.name).expect("a String takes all");
        for row in rows {
            let cell = match &row.cells[index] {
                Cell::Passed => "pass".to_owned(),
                Cell::Failed(_) => "**FAIL**".to_owned(),
                Cell::NotRun => "not run".to_owned(),
                Cell::Nothing(why) => {
                    let reason = format!("{}: {why}", row.sink);
                    let number = reasons
                        .iter()
                        .position(|known| *known == reason)
                        .unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                    format!("- ({})", number + 1)
                }
            };
            write!(text, " {cell} |").expect("a String takes all");
        }
        text.push('\n');
    }
    text.push('\n');
    for case in CASES {
        writeln!(text, "- **{}**: {}.", case.name, case.what).expect("a String takes all");
    }
    text.push_str("\nWhy a case means nothing there:\n\n");
    for (number, reason) in reasons.iter().enumerate() {
        writeln!(text, "{}. {reason}", number + 1).expect("a String takes all");
    }
    text
}

#[test]
fn a_destination_says_once_and_why_it_lacks_something() {
    for (name, destination) in DESTINATIONS {
        let lacks = destination.lacks();
        for (index, (need, why)) in lacks.iter().enumerate() {
            assert!(!why.is_empty(), "{name} does not say why it lacks {need:?}");
            assert!(
                lacks[..index].iter().all(|(earlier, _)| earlier != need),
                "{name} lacks {need:?} twice"
            );
        }
        assert!(
            CASES
                .iter()
                .any(|case| lacking(*destination, case).is_none()),
            "{name} lacks what any case needs and has shown nothing"
        );
    }
}

#[test]
fn the_page_has_a_line_for_every_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(path).expect("the page is there");
    for case in CASES {
        assert!(
            page.contains(&format!("\n| {} |", case.name)),
            "{PAGE} does not speak of {}: run the suite with AUDITSHIP_BLESS=1",
            case.name
        );
    }
}
