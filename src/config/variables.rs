//! `${VAR}` and `${VAR:-default}` inside strings, filled in after parsing, so that a value can never become another
//! key or table. `$$` is `$`; any other `$` stands for itself.

use std::ffi::OsString;
use std::sync::Arc;

use super::diagnostics::Diagnostic;
use super::tree::{Item, Table, Text, Tree};

/// Where variables come from: the process, or a test.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<OsString> + Send + Sync;

impl Environment {
    /// The process's own.
    pub fn process() -> Self {
        Environment(Arc::new(|name| std::env::var_os(name)))
    }

    /// Made by hand.
    pub fn new(lookup: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static) -> Self {
        Environment(Arc::new(lookup))
    }

    /// A variable's value; the error says why there is none.
    pub fn get(&self, name: &str) -> Result<String, String> {
        let value = (self.0)(name)
            .ok_or_else(|| format!("the environment variable `{name}` is not set"))?;
        value
            .into_string()
            .map_err(|_| format!("the environment variable `{name}` is not UTF-8"))
    }
}

/// Shows nothing: variables may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment(…)")
    }
}

/// Fills in the variables of every string below a table.
pub(crate) fn fill(table: &mut Table, environment: &Environment, mistakes: &mut Vec<Diagnostic>) {
    for entry in &mut table.entries {
        fill_tree(&mut entry.tree, environment, mistakes);
    }
}

/// Fills in the variables of every string of a value.
pub(crate) fn fill_tree(
    tree: &mut Tree,
    environment: &Environment,
    mistakes: &mut Vec<Diagnostic>,
) {
    match &mut tree.item {
        Item::Text(text) => match expand(&text.value, environment) {
            Ok(expanded) => *text = expanded,
            Err(Mistake { label, help }) => {
                mistakes.push(
                    Diagnostic::error("a variable cannot be filled in")
                        .at(tree.place)
                        .label(label)
                        .help(help),
                );
                tree.item = Item::Broken;
            }
        },
        Item::Array(elements) | Item::Tables(elements) => {
            for element in elements {
                fill_tree(element, environment, mistakes);
            }
        }
        Item::Table(table) => fill(table, environment, mistakes),
        Item::Integer(_) | Item::Float(_) | Item::Bool(_) | Item::Datetime | Item::Broken => {}
    }
}

#[derive(Debug, PartialEq)]
struct Mistake {
    label: String,
    help: String,
}

fn expand(raw: &str, environment: &Environment) -> Result<Text, Mistake> {
    let mut value = String::with_capacity(raw.len());
    let mut from_environment = false;
    let mut rest = raw;
    while let Some(dollar) = rest.find('$') {
        value.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(behind) = rest.strip_prefix('$') {
            value.push('$');
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix('{') {
            let (inside, behind) = behind.split_once('}').ok_or_else(|| Mistake {
                label: "`${` has no `}`".into(),
                help: "write `$$` for a dollar sign".into(),
            })?;
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            check_name(name)?;
            match (environment.get(name), default) {
                (Ok(found), None) => {
                    from_environment = raw.len() == inside.len() + "${}".len();
                    value.push_str(&found);
                }
                // As in a shell, `:-` also stands in for an empty variable.
                (Ok(found), Some(_)) if !found.is_empty() => value.push_str(&found),
                (_, Some(default)) => value.push_str(default),
                (Err(label), None) => {
                    return Err(Mistake {
                        label,
                        help: format!("set it, or give a default: `${{{name}:-…}}`"),
                    });
                }
            }
            rest = behind;
        } else {
            value.push('$');
        }
    }
    value.push_str(rest);
    Ok(Text {
        value,
        from_environment,
    })
}

fn check_name(name: &str) -> Result<(), Mistake> {
    let mut bytes = name.bytes();
    let starts = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if starts && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(Mistake {
        label: format!("`{name}` is not the name of a variable"),
        help: "write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, &str>) {
        let environment = Environment::new(|name| match name {
            "HOST" => Some("node-1".into()),
            "EMPTY" => Some("".into()),
            "QUOTE" => Some("\"]\n[agent]".into()),
            _ => None,
        });
        let expanded = expand(raw, &environment);
        assert_eq!(
            expanded
                .as_ref()
                .map(|text| text.value.as_str())
                .map_err(|mistake| mistake.label.as_str()),
            expected,
            "{raw}"
        );
    }

    #[test]
    fn variables_are_filled_in_and_a_doubled_dollar_is_one() {
        check("${HOST}", Ok("node-1"));
        check("a-${HOST}-${HOST}", Ok("a-node-1-node-1"));
        check("$${HOST}", Ok("${HOST}"));
        check("100$", Ok("100$"));
        check("$HOST", Ok("$HOST"));
        check("${QUOTE}", Ok("\"]\n[agent]"));
    }

    #[test]
    fn a_default_stands_in_for_what_is_unset_or_empty() {
        check("${NONE:-x}", Ok("x"));
        check("${NONE:-}", Ok(""));
        check("${EMPTY:-x}", Ok("x"));
        check("${EMPTY}", Ok(""));
        check("${HOST:-x}", Ok("node-1"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_a_mistake() {
        check("${NONE}", Err("the environment variable `NONE` is not set"));
        check("${HOST", Err("`${` has no `}`"));
        check("${}", Err("`` is not the name of a variable"));
        check("${A-B}", Err("`A-B` is not the name of a variable"));
    }
}
