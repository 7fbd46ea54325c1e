//! RFC 8259's grammar over borrowed bytes: where a value ends, or where it stops being one. Knows nothing of audit
//! events.
//!
//! Invariants: never recurses; needs one bit of memory for each open bracket; every byte is looked at once; inside
//! strings any byte from 0x20 on is allowed, UTF-8 or not.

/// Why a value is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What stands at this index cannot stand there. Everything before it can be the beginning of a value (but in a
    /// literal such as `true`, of which this is the first byte).
    Bad(usize),
    /// The bytes end inside the value.
    Torn,
}

/// A member's name as it stands between its quotes.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Key<'a> {
    /// Whether it is `name`, escapes resolved: `"\u0076erb"` is `verb`.
    #[inline]
    pub fn is(&self, name: &str) -> bool {
        if self.escaped {
            super::text::unescape(self.raw) == name
        } else {
            self.raw == name.as_bytes()
        }
    }

    /// Its bytes between the quotes, escapes and all.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub key: Key<'a>,
    /// Its value's bytes, without white space around it.
    pub value: &'a [u8],
}

/// The members of one object in the order in which they stand; the whole object is validated by walking them to the
/// end.
#[derive(Debug)]
pub struct Members<'a> {
    bytes: &'a [u8],
    /// Behind what was walked so far.
    at: usize,
    first: bool,
    /// The member whose value was begun last.
    begun: Option<(Key<'a>, usize)>,
}

impl<'a> Members<'a> {
    /// The members of the object that `bytes` begin with, white space before it allowed.
    #[inline]
    pub fn of(bytes: &'a [u8]) -> Result<Self, Stop> {
        let at = blanks(bytes, 0);
        match bytes.get(at) {
            Some(b'{') => Ok(Members {
                bytes,
                at: at + 1,
                first: true,
                begun: None,
            }),
            Some(_) => Err(Stop::Bad(at)),
            None => Err(Stop::Torn),
        }
    }

    /// The next member; `None` behind the closing bracket.
    #[inline]
    #[allow(clippy::should_implement_trait)] // The order of `Result` and `Option` is the one that `?` wants.
    pub fn next(&mut self) -> Result<Option<Member<'a>>, Stop> {
        let bytes = self.bytes;
        let mut at = blanks(bytes, self.at);
        match bytes.get(at) {
            Some(b'}') => {
                self.at = at + 1;
                return Ok(None);
            }
            Some(b',') if !self.first => at = blanks(bytes, at + 1),
            Some(_) if self.first => {}
            Some(_) => return Err(Stop::Bad(at)),
            None => return Err(Stop::Torn),
        }
        self.first = false;
        let (key, value_at) = key(bytes, at)?;
        self.begun = Some((key, value_at));
        self.at = value(bytes, value_at)?;
        Ok(Some(Member {
            key,
            value: &bytes[value_at..self.at],
        }))
    }

    /// After the last member: nothing but white space may follow.
    #[inline]
    pub fn end(self) -> Result<(), Stop> {
        let at = blanks(self.bytes, self.at);
        if at == self.bytes.len() {
            Ok(())
        } else {
            Err(Stop::Bad(at))
        }
    }

    /// After an error in a member's value: its name, and its value as far as the bytes go.
    pub fn broken(self) -> Option<Member<'a>> {
        let (key, value_at) = self.begun?;
        (value_at >= self.at).then(|| Member {
            key,
            value: &self.bytes[value_at..],
        })
    }
}

/// The index behind the value at `at`.
#[inline]
pub(super) fn value(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match bytes.get(at) {
        Some(b'"') => Ok(string(bytes, at + 1)?.end + 1),
        Some(b'{' | b'[') => container(bytes, at),
        _ => scalar(bytes, at),
    }
}

/// Which brackets are open, one bit each: set for an object. The first 64 levels need no memory from the heap, and a
/// line of nothing but brackets an eighth of its own length.
#[derive(Default)]
struct Nesting {
    /// The innermost levels, the innermost one in the lowest bit.
    top: u64,
    depth: usize,
    /// Full words of outer levels.
    outer: Vec<u64>,
}

impl Nesting {
    #[inline]
    fn open(&mut self, object: bool) {
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.outer.push(self.top);
            self.top = 0;
        }
        self.top = self.top << 1 | u64::from(object);
        self.depth += 1;
    }

    #[inline]
    fn in_object(&self) -> bool {
        self.top & 1 == 1
    }

    /// Returns whether that was the outermost level.
    #[inline]
    fn close(&mut self) -> bool {
        self.depth -= 1;
        self.top >>= 1;
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.top = self.outer.pop().unwrap_or_default();
        }
        self.depth == 0
    }
}

/// The index behind the object or array at `at`.
fn container(bytes: &[u8], mut at: usize) -> Result<usize, Stop> {
    let mut nesting = Nesting::default();
    // Each turn opens the bracket at `at` and goes on to the next one that opens, or to the end.
    'open: loop {
        let object = bytes[at] == b'{';
        nesting.open(object);
        at = blanks(bytes, at + 1);
        let mut before_value = match bytes.get(at) {
            None => return Err(Stop::Torn),
            Some(b'}') if object => false,
            Some(b']') if !object => false,
            Some(_) => true,
        };
        loop {
            if before_value {
                if nesting.in_object() {
                    at = key(bytes, at)?.1;
                }
                at = match bytes.get(at) {
                    Some(b'{' | b'[') => continue 'open,
                    Some(b'"') => string(bytes, at + 1)?.end + 1,
                    _ => scalar(bytes, at)?,
                };
                at = blanks(bytes, at);
            }
            before_value = match bytes.get(at) {
                Some(b',') => {
                    at = blanks(bytes, at + 1);
                    true
                }
                Some(b'}') if nesting.in_object() => false,
                Some(b']') if !nesting.in_object() => false,
                Some(_) => return Err(Stop::Bad(at)),
                None => return Err(Stop::Torn),
            };
            if !before_value {
                at += 1;
                if nesting.close() {
                    return Ok(at);
                }
                at = blanks(bytes, at);
            }
        }
    }
}

/// The name that begins at `at`, and the index of its value.
#[inline]
fn key(bytes: &[u8], at: usize) -> Result<(Key<'_>, usize), Stop> {
    match bytes.get(at) {
        Some(b'"') => {}
        Some(_) => return Err(Stop::Bad(at)),
        None => return Err(Stop::Torn),
    }
    let name = string(bytes, at + 1)?;
    let key = Key {
        raw: &bytes[at + 1..name.end],
        escaped: name.escaped,
    };
    let at = blanks(bytes, name.end + 1);
    match bytes.get(at) {
        Some(b':') => Ok((key, blanks(bytes, at + 1))),
        Some(_) => Err(Stop::Bad(at)),
        None => Err(Stop::Torn),
    }
}

/// The index of the first byte from `at` on that is not white space.
#[inline]
fn blanks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Where a string ends.
struct StringEnd {
    /// Index of the closing quote.
    end: usize,
    /// Whether there is a backslash in it.
    escaped: bool,
}

const LOW_BITS: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

/// For eight bytes at once (little-endian): the index of the first that is a quote, a backslash or below 0x20.
#[inline]
fn first_special(eight: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(eight);
    let quote = word ^ (LOW_BITS * u64::from(b'"'));
    let backslash = word ^ (LOW_BITS * u64::from(b'\\'));
    // Borrows run upwards only, so that the lowest bit set is right, whatever stands above it.
    let found = (quote.wrapping_sub(LOW_BITS) & !quote
        | backslash.wrapping_sub(LOW_BITS) & !backslash
        | word.wrapping_sub(LOW_BITS * 0x20) & !word)
        & HIGH_BITS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// `at` is behind the opening quote.
#[inline]
fn string(bytes: &[u8], mut at: usize) -> Result<StringEnd, Stop> {
    let mut escaped = false;
    loop {
        at += plain(&bytes[at..]);
        match bytes.get(at) {
            Some(b'"') => return Ok(StringEnd { end: at, escaped }),
            Some(b'\\') => {
                escaped = true;
                at = escape(bytes, at)?;
            }
            Some(_) => return Err(Stop::Bad(at)),
            None => return Err(Stop::Torn),
        }
    }
}

/// The number of bytes before the first quote, backslash or control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        match first_special(*eight) {
            Some(index) => return at + index,
            None => at += 8,
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    at + bytes[at..]
        .iter()
        .position(special)
        .unwrap_or(bytes.len() - at)
}

/// The index behind the escape at `at`.
#[inline]
fn escape(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => {
            for at in at + 2..at + 6 {
                match bytes.get(at) {
                    Some(digit) if digit.is_ascii_hexdigit() => {}
                    Some(_) => return Err(Stop::Bad(at)),
                    None => return Err(Stop::Torn),
                }
            }
            Ok(at + 6)
        }
        Some(_) => Err(Stop::Bad(at + 1)),
        None => Err(Stop::Torn),
    }
}

/// The index behind the number, `true`, `false` or `null` at `at`.
#[inline]
fn scalar(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match bytes.get(at) {
        Some(b'-' | b'0'..=b'9') => number(bytes, at),
        Some(b't') => literal(bytes, at, b"true"),
        Some(b'f') => literal(bytes, at, b"false"),
        Some(b'n') => literal(bytes, at, b"null"),
        Some(_) => Err(Stop::Bad(at)),
        None => Err(Stop::Torn),
    }
}

fn literal(bytes: &[u8], at: usize, literal: &[u8]) -> Result<usize, Stop> {
    let rest = &bytes[at..];
    if rest.starts_with(literal) {
        Ok(at + literal.len())
    } else if literal.starts_with(rest) {
        Err(Stop::Torn)
    } else {
        Err(Stop::Bad(at))
    }
}

fn number(bytes: &[u8], mut at: usize) -> Result<usize, Stop> {
    if bytes[at] == b'-' {
        at += 1;
    }
    match bytes.get(at) {
        Some(b'0') => at += 1,
        _ => at = digits(bytes, at)?,
    }
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    Ok(at)
}

/// The index behind one or more digits.
fn digits(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let count = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    match bytes.get(at + count) {
        _ if count > 0 => Ok(at + count),
        Some(_) => Err(Stop::Bad(at)),
        None => Err(Stop::Torn),
    }
}
