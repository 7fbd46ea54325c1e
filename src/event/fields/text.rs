//! A JSON string's text: escapes resolved, what is no Unicode text replaced by U+FFFD.

use std::borrow::Cow;

/// The text of what stands between the quotes of a valid string.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(backslash) = memchr::memchr(b'\\', rest) {
        text.push_str(&String::from_utf8_lossy(&rest[..backslash]));
        let (char, length) = escaped(&rest[backslash..]);
        text.push(char);
        rest = &rest[(backslash + length).min(rest.len())..];
    }
    text.push_str(&String::from_utf8_lossy(rest));
    Cow::Owned(text)
}

/// The character of the escape that `raw` begins with, and how many bytes stand for it.
fn escaped(raw: &[u8]) -> (char, usize) {
    let char = match raw.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(raw),
        Some(&byte) if byte.is_ascii() => char::from(byte),
        _ => char::REPLACEMENT_CHARACTER,
    };
    (char, 2)
}

/// `\uXXXX`, or two of them that are a surrogate pair; a surrogate alone is U+FFFD.
fn unicode(raw: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let digits = std::str::from_utf8(raw.get(at..at + 4)?).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(2) else {
        return (char::REPLACEMENT_CHARACTER, 2);
    };
    if let 0xd800..0xdc00 = first
        && raw.get(6..8) == Some(b"\\u")
        && let Some(second @ 0xdc00..0xe000) = unit(8)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
            12,
        );
    }
    (
        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER),
        6,
    )
}

/// Appends `char` as it stands inside a JSON string.
pub(super) fn escape(out: &mut Vec<u8>, char: char) {
    match char {
        '"' => out.extend_from_slice(br#"\""#),
        '\\' => out.extend_from_slice(br"\\"),
        '\0'..' ' => out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes()),
        _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}
