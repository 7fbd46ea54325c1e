//! Names of objects: a prefix made of the origin and the time of the first event, then
//! `<node>-<spool>-<first>-<last>.jsonl.zst`. Pure.
//!
//! Invariants: a key is at most [`KEY_BYTES_MAX`] bytes, no part of it is longer than [`PART_BYTES_MAX`], empty, `.` or
//! `..`, and it holds only bytes that every server takes as they are; a key always names the same records, since
//! neither a spool's id nor a record's number is ever used again.

use sha2::{Digest, Sha256};

use super::settings::{Compression, sample_origin};
use crate::event::template::{NameKind, Template};
use crate::event::{Origin, hex};

/// Longest key (S3's own limit).
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// Longest part between slashes: where objects are files, a file name has no more.
pub(super) const PART_BYTES_MAX: usize = 255;

/// Longest node that stands in a key as it is. Longer ones end in a hash instead.
const NODE_BYTES_MAX: usize = 160;

/// Longest name behind a prefix: the node, 10 bytes of the spool, 41 of records, `-c19`, `.jsonl.zst`; and some room.
const NAME_BYTES_MAX: usize = NODE_BYTES_MAX + 75;

/// Longest prefix.
const PREFIX_BYTES_MAX: usize = KEY_BYTES_MAX - NAME_BYTES_MAX;

/// Longest part behind the last slash of a prefix: the name goes on there.
const LAST_BYTES_MAX: usize = PART_BYTES_MAX - NAME_BYTES_MAX;

/// Default of `key_prefix`, as TOML.
pub(super) const PREFIX_DEFAULT: &str = "\"audit/{origin.cluster}/{event:%Y/%m/%d}/\"";

/// What a `key_prefix` may be.
pub(super) const PREFIXES: &str = "a prefix such as `audit/{origin.cluster}/{event:%Y/%m/%d}/`, which begins with a \
                                   literal and is made of letters, digits and ! - _ . * ' ( ) = /";

/// `key_prefix`.
#[derive(Clone, Debug)]
pub(super) struct Prefix(Template);

impl Prefix {
    /// Reads a template; the error says what is wrong with it, all at once.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let template = Template::parse(text, NameKind::Path)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let prefix = Prefix(template);
        if prefix.0.literal_prefix().is_empty() {
            return Err(vec![
                "must begin with a literal prefix, such as `audit/`".to_owned(),
            ]);
        }
        // Every month and weekday, two ways of writing an hour.
        let times = (0..400).map(|day| day * 86_400_000_000 + day * 3_600_000_000 + 1);
        match times
            .filter_map(|time_us| problem(&prefix.render(&sample_origin(), time_us)))
            .next()
        {
            Some(problem) => Err(vec![problem]),
            None => Ok(prefix),
        }
    }

    /// The prefix of an object whose first event has this time.
    pub(super) fn render(&self, origin: &Origin, time_us: i64) -> String {
        self.0.render(origin, time_us, b"").name
    }

    /// What all keys of an agent begin with.
    pub(super) fn of_agent(&self, agent: &Origin) -> String {
        self.0.prefix_of_agent(&agent.cluster, &agent.node)
    }
}

/// What is wrong with a rendered prefix.
fn problem(prefix: &str) -> Option<String> {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "!-_.*'()=/".contains(*c);
    if let Some(bad) = prefix.chars().find(|c| !plain(c)) {
        return Some(format!("{bad:?} cannot be in the key of an object"));
    }
    if prefix.starts_with('/') || prefix.contains("//") {
        return Some(
            "a key has no empty part: `/` stands neither at its start nor twice".to_owned(),
        );
    }
    if prefix.split('/').any(|part| matches!(part, "." | "..")) {
        return Some("`.` and `..` are no parts of a key".to_owned());
    }
    if prefix.len() > PREFIX_BYTES_MAX {
        return Some(format!("longer than {PREFIX_BYTES_MAX} bytes"));
    }
    let (parts, last) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    if parts.split('/').any(|part| part.len() > PART_BYTES_MAX) || last.len() > LAST_BYTES_MAX {
        return Some(format!(
            "a part between slashes is longer than {PART_BYTES_MAX} bytes, or what stands behind the last one longer than {LAST_BYTES_MAX}"
        ));
    }
    None
}

/// What the names of an agent's objects begin with behind their prefix: `<node>-<spool>-`.
pub(super) fn stem(node: &str, spool: &str) -> String {
    if node.len() <= NODE_BYTES_MAX {
        return format!("{node}-{spool}-");
    }
    // Names of nodes are ASCII.
    let cut: String = node.chars().take(NODE_BYTES_MAX - 9).collect();
    let hash = hex(&Sha256::digest(node)[..4]);
    format!("{cut}-{hash}-{spool}-")
}

/// The key of an object, and of those that hold the same records beside a stranger's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Up to the extension.
    before: String,
    /// `.jsonl.zst`.
    extension: &'static str,
}

impl Key {
    /// Of records `first` to `last`.
    pub(super) fn new(
        prefix: &str,
        stem: &str,
        first: u64,
        last: u64,
        compression: Compression,
    ) -> Self {
        Key {
            before: format!("{prefix}{stem}{first:020}-{last:020}"),
            extension: extension(compression),
        }
    }

    /// A key as it was written down in a seal; `None` where its extension is another one.
    pub(super) fn sealed(text: &str, compression: Compression) -> Option<Self> {
        let extension = extension(compression);
        Some(Key {
            before: text.strip_suffix(extension)?.to_owned(),
            extension,
        })
    }

    /// A key as it was written down in a seal, whatever its extension.
    pub(super) fn any(text: &str) -> Self {
        let all = [Compression::Zstd, Compression::Gzip];
        all.into_iter()
            .find_map(|compression| Key::sealed(text, compression))
            .or_else(|| Key::sealed(text, Compression::None))
            .unwrap_or_else(|| Key {
                before: text.to_owned(),
                extension: "",
            })
    }

    /// The key at first, and where others are taken by something else: `-c` before the extension, then `-c2`, ….
    pub(super) fn ranked(&self, rank: usize) -> String {
        let Key { before, extension } = self;
        match rank {
            0 => format!("{before}{extension}"),
            1 => format!("{before}-c{extension}"),
            rank => format!("{before}-c{rank}{extension}"),
        }
    }
}

/// What names of objects end in.
fn extension(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => ".jsonl.zst",
        Compression::Gzip => ".jsonl.gz",
        Compression::None => ".jsonl",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(cluster: &str) -> Origin {
        Origin {
            cluster: cluster.into(),
            node: "n1".into(),
            source: "apiserver".into(),
        }
    }

    #[test]
    fn a_key_is_prefix_node_spool_and_records() {
        let prefix = Prefix::parse("audit/{origin.cluster}/{event:%Y/%m/%d}/").unwrap();
        let prefix = prefix.render(&origin("prod"), 1_767_225_600_000_000);
        let key = Key::new(&prefix, &stem("n1", "00c0ffee"), 7, 1207, Compression::Zstd);
        let base = "audit/prod/2026/01/01/n1-00c0ffee-00000000000000000007-00000000000000001207";
        assert_eq!(key.ranked(0), format!("{base}.jsonl.zst"));
        assert_eq!(key.ranked(1), format!("{base}-c.jsonl.zst"));
        assert_eq!(key.ranked(2), format!("{base}-c2.jsonl.zst"));
        assert_eq!(
            Key::sealed(&key.ranked(0), Compression::Zstd),
            Some(key.clone())
        );
        assert_eq!(Key::sealed(&key.ranked(0), Compression::Gzip), None);
    }

    #[test]
    fn no_prefix_makes_a_key_that_a_server_refuses_or_changes() {
        let check = |text: &str, wanted: Option<&str>| match (Prefix::parse(text), wanted) {
            (Ok(_), None) => {}
            (Err(problems), Some(part)) => {
                assert!(
                    problems.iter().any(|problem| problem.contains(part)),
                    "{text}: {problems:?}"
                );
            }
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("audit/dt={event:%Y-%m-%d}/", None);
        check("audit-", None);
        check("", Some("empty"));
        check("{origin.cluster}/", Some("literal prefix"));
        check("/audit/", Some("empty part"));
        check("audit//x/", Some("empty part"));
        check("audit/../x/", Some("`..`"));
        check("audit/{event:%H:%M}/", Some("':'"));
        check("audit log/", Some("' '"));
        check("audit/{audit.verb}/", Some("cannot be in a path"));
        check(&format!("{}/", "a".repeat(256)), Some("255"));
        check(&"a/".repeat(400), Some("789"));
    }

    #[test]
    fn the_longest_names_stay_within_the_limits_of_a_key() {
        let prefix = format!("{}aaaaaaaaaaaaaaaaaaaa", "a/".repeat(384));
        assert!(Prefix::parse(&prefix).is_ok());
        let stem = stem(&"n".repeat(253), "00c0ffee");
        let key = Key::new(&prefix, &stem, u64::MAX, u64::MAX, Compression::Zstd).ranked(99);
        assert!(key.len() <= KEY_BYTES_MAX, "{}", key.len());
        assert!(key.split('/').all(|part| part.len() <= PART_BYTES_MAX));
        assert_ne!(stem, super::stem(&"n".repeat(252), "00c0ffee"));
    }

    #[test]
    fn what_all_keys_of_an_agent_share_ends_before_time_and_source() {
        let of = |text: &str| Prefix::parse(text).unwrap().of_agent(&origin("prod"));
        assert_eq!(of("audit/{origin.cluster}/{event:%Y}/"), "audit/prod/");
        assert_eq!(of("audit/{origin.source}/{origin.cluster}/"), "audit/");
        assert_eq!(of("a/{origin.node}-{origin.cluster}/"), "a/n1-prod/");
    }
}
