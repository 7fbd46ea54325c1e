//! Layers of a configuration: a file over the one it extends, `--set` over both. Pure: trees in, a tree out.
//!
//! Tables merge. Arrays of tables match by name: what matches merges, what is new is appended, `enabled = false`
//! removes, a changed `type` replaces. Everything else, lists written inline among it, is replaced whole.

use super::diagnostics::{Diagnostic, listed, near};
use super::section::Place;
use super::tree::{Entry, Item, Table, Tree};

/// The array whose elements are named by their `type` where they have no `name`.
const NAMED_BY_TYPE: &str = "stage";

/// The name of a table in the array `key`, if it has one.
pub(crate) fn identity<'a>(key: &str, table: &'a Table) -> Option<&'a str> {
    match table.get("name") {
        Some(_) => table.text("name").filter(|name| !name.is_empty()),
        None if key == NAMED_BY_TYPE => table.text("type"),
        None => None,
    }
}

/// Lays `over` over `base`.
pub(crate) fn lay_over(base: &mut Table, over: Table, mistakes: &mut Vec<Diagnostic>) {
    for entry in over.entries {
        match base.get_mut(&entry.key) {
            Some(old) => lay_tree_over(&entry.key, old, entry.tree, mistakes),
            None => base.entries.push(entry),
        }
    }
}

fn lay_tree_over(key: &str, base: &mut Tree, over: Tree, mistakes: &mut Vec<Diagnostic>) {
    let place = over.place;
    match (&mut base.item, over.item) {
        (Item::Table(old), Item::Table(new)) if !(is_secret(old) && is_secret(&new)) => {
            lay_over(old, new, mistakes);
            base.place = place;
        }
        (Item::Tables(old), Item::Tables(new)) => {
            for element in new {
                lay_element_over(key, old, element, mistakes);
            }
        }
        (old, new) => {
            *old = new;
            base.place = place;
        }
    }
}

/// A secret is one value though it is written as a table: `{ env = … }` over `{ file = … }` replaces it.
fn is_secret(table: &Table) -> bool {
    matches!(table.entries.as_slice(), [entry] if ["file", "env", "credential"].contains(&entry.key.as_str()))
}

fn lay_element_over(key: &str, base: &mut Vec<Tree>, over: Tree, mistakes: &mut Vec<Diagnostic>) {
    let Item::Table(new) = over.item else { return };
    let name = identity(key, &new);
    let named = |tree: &&mut Tree| matches!(&tree.item, Item::Table(old) if name.is_some() && identity(key, old) == name);
    let Some(found) = base.iter_mut().find(named) else {
        if is_disabled(&new)
            && let Some(name) = name
            && new.get("type").is_none()
        {
            mistakes.push(nothing_named(key, name, over.place, base));
        }
        base.push(Tree {
            item: Item::Table(new),
            place: over.place,
        });
        return;
    };
    found.place = over.place;
    if let Item::Table(old) = &mut found.item {
        match (old.text("type"), new.text("type")) {
            (Some(was), Some(is)) if was != is => *old = new,
            _ => lay_over(old, new, mistakes),
        }
    }
}

fn is_disabled(table: &Table) -> bool {
    matches!(
        table.get("enabled"),
        Some(Tree {
            item: Item::Bool(false),
            ..
        })
    )
}

fn nothing_named(key: &str, name: &str, place: Place, elements: &[Tree]) -> Diagnostic {
    let names = names(key, elements);
    let diagnostic = Diagnostic::error(format!("there is no {key} `{name}`"))
        .at(place)
        .label("nothing below has this name");
    let diagnostic = match names.as_slice() {
        [] => diagnostic,
        names => diagnostic.note(format!("there are {}", listed(names.iter().copied()))),
    };
    match near(name, names) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

fn names<'a>(key: &str, elements: &'a [Tree]) -> Vec<&'a str> {
    let name = |tree: &'a Tree| match &tree.item {
        Item::Table(table) => identity(key, table),
        _ => None,
    };
    let mut names: Vec<&str> = elements.iter().filter_map(name).collect();
    names.dedup();
    names
}

/// Reports every name that two tables of one array have.
pub(crate) fn report_duplicates(root: &Table, mistakes: &mut Vec<Diagnostic>) {
    for entry in &root.entries {
        let (Item::Tables(elements) | Item::Array(elements)) = &entry.tree.item else {
            continue;
        };
        let mut seen: Vec<(&str, Place)> = Vec::with_capacity(elements.len());
        for element in elements {
            let Item::Table(table) = &element.item else {
                continue;
            };
            let Some(name) = identity(&entry.key, table) else {
                continue;
            };
            let place = table
                .get("name")
                .or(table.get("type"))
                .map_or(element.place, |tree| tree.place);
            match seen.iter().find(|(other, _)| *other == name) {
                Some((_, first)) => mistakes.push(
                    Diagnostic::error(format!("two `[[{}]]` are named `{name}`", entry.key))
                        .at(place)
                        .label("the second one")
                        .related(*first, "the first one")
                        .help(match table.get("name") {
                            Some(_) => "give each its own name".to_owned(),
                            None => format!(
                                "without a `name` its type is its name: give this {} one",
                                entry.key
                            ),
                        }),
                ),
                None => seen.push((name, place)),
            }
        }
    }
}

/// Takes out every table of the root's arrays that says `enabled = false`, and the key itself.
pub(crate) fn drop_disabled(root: &mut Table, mistakes: &mut Vec<Diagnostic>) {
    for entry in &mut root.entries {
        let (Item::Tables(elements) | Item::Array(elements)) = &mut entry.tree.item else {
            continue;
        };
        elements.retain_mut(|element| {
            let Item::Table(table) = &mut element.item else {
                return true;
            };
            match table.remove("enabled").map(|enabled| enabled.tree) {
                None
                | Some(Tree {
                    item: Item::Bool(true) | Item::Broken,
                    ..
                }) => true,
                Some(Tree {
                    item: Item::Bool(false),
                    ..
                }) => false,
                Some(other) => {
                    mistakes.push(
                        Diagnostic::error("wrong value of `enabled`")
                            .at(other.place)
                            .label(format!("this is {}", other.item.type_name()))
                            .note("allowed is `true` or `false`"),
                    );
                    true
                }
            }
        });
    }
}

/// One part of the key of a `--set`.
pub(crate) struct Step {
    pub(crate) key: String,
    pub(crate) place: Place,
}

/// Puts a value where `steps` lead to. Tables that are missing on the way are made; a table of an array is found
/// by its name and never made.
pub(crate) fn assign(
    table: &mut Table,
    steps: &[Step],
    value: Tree,
    mistakes: &mut Vec<Diagnostic>,
) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    let (key, key_place) = (step.key.clone(), step.place);
    if rest.is_empty() {
        table.set(Entry {
            key,
            key_place,
            tree: value,
        });
        return;
    }
    let Some(tree) = table.get_mut(&key) else {
        let mut made = Table::default();
        assign(&mut made, rest, value, mistakes);
        let tree = Tree {
            item: Item::Table(made),
            place: key_place,
        };
        table.set(Entry {
            key,
            key_place,
            tree,
        });
        return;
    };
    let is_table = |tree: &Tree| matches!(tree.item, Item::Table(_));
    match &mut tree.item {
        Item::Table(below) => assign(below, rest, value, mistakes),
        Item::Tables(elements) => assign_element(&key, elements, rest, value, mistakes),
        Item::Array(elements) if !elements.is_empty() && elements.iter().all(is_table) => {
            assign_element(&key, elements, rest, value, mistakes);
        }
        Item::Broken => {}
        other => mistakes.push(
            Diagnostic::error(format!("`{key}` has no keys"))
                .at(key_place)
                .label(format!("this is {}", other.type_name())),
        ),
    }
}

fn assign_element(
    key: &str,
    elements: &mut [Tree],
    steps: &[Step],
    value: Tree,
    mistakes: &mut Vec<Diagnostic>,
) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    let found = elements.iter_mut().find_map(|tree| match &mut tree.item {
        Item::Table(table) if identity(key, table) == Some(&step.key) => Some(table),
        _ => None,
    });
    let Some(table) = found else {
        mistakes.push(nothing_named(key, &step.key, step.place, elements));
        return;
    };
    match (rest, &value.item) {
        ([], _) => {
            mistakes.push(
                Diagnostic::error(format!("`{key}.{}` is a whole table", step.key))
                    .at(step.place)
                    .label("one of its keys must follow")
                    .help(format!("write `{key}.{}.KEY=VALUE`", step.key)),
            );
            return;
        }
        // A changed type replaces: the other keys belong to the old one.
        ([last], Item::Text(text))
            if last.key == "type" && table.text("type").is_some_and(|was| was != text.value) =>
        {
            table.entries.retain(|entry| entry.key == "name");
        }
        _ => {}
    }
    assign(table, rest, value, mistakes);
}
