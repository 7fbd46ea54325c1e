//! Whether a server takes a document for JSON: the grammar, strict UTF-8, no duplicate keys, and 1,000 levels at most, as
//! OpenSearch 3.7.0 answered. Lone surrogates and numbers of any size pass there, and so they do here.

use std::collections::HashSet;

/// Deepest nesting (`StreamReadConstraints`).
const DEPTH_MAX: usize = 1000;

/// Error type and reason in the server's words.
pub(super) type Refusal = (&'static str, String);

/// Whether `document` is one JSON object that a server would parse.
pub(super) fn check(document: &[u8]) -> Result<(), Refusal> {
    if let Err(error) = std::str::from_utf8(document) {
        let byte = document[error.valid_up_to()];
        return Err((
            "json_parse_exception",
            format!("Invalid UTF-8 start byte 0x{byte:02x}"),
        ));
    }
    let mut reader = Reader {
        bytes: document,
        at: 0,
    };
    reader.spaces();
    if reader.peek() != Some(b'{') {
        return Err(("not_x_content_exception", "not x-content".to_owned()));
    }
    reader.value()
}

/// Where an open container stands.
enum Open {
    Object(HashSet<Vec<u8>>),
    Array,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<(), Refusal> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            self.spaces();
            if open.len() >= DEPTH_MAX && matches!(self.peek(), Some(b'{' | b'[')) {
                return Err(("stream_constraints_exception", too_deep()));
            }
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    open.push(Open::Object(HashSet::new()));
                    self.spaces();
                    if self.peek() != Some(b'}') {
                        self.key(&mut open)?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    open.push(Open::Array);
                    self.spaces();
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => self.word()?,
            }
            // A value has ended: close what closes, then go on behind a comma.
            loop {
                self.spaces();
                match (self.peek(), open.last()) {
                    (_, None) => return Ok(()),
                    (Some(b'}'), Some(Open::Object(_))) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(b']'), Some(Open::Array)) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(b','), Some(Open::Array)) => {
                        self.at += 1;
                        break;
                    }
                    (Some(b','), Some(Open::Object(_))) => {
                        self.at += 1;
                        self.key(&mut open)?;
                        break;
                    }
                    _ => return Err(self.unexpected()),
                }
            }
        }
    }

    fn key(&mut self, open: &mut [Open]) -> Result<(), Refusal> {
        self.spaces();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let key = self.string()?;
        if let Some(Open::Object(keys)) = open.last_mut()
            && !keys.insert(key.clone())
        {
            let key = String::from_utf8_lossy(&key).into_owned();
            let reason = format!("Duplicate Object property \"{key}\"");
            return Err(("json_parse_exception", reason));
        }
        self.spaces();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// A string; gives it with the escapes of ASCII characters undone, so that equal keys are found equal.
    fn string(&mut self) -> Result<Vec<u8>, Refusal> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.unexpected());
            };
            self.at += 1;
            match byte {
                b'"' => return Ok(text),
                0..0x20 => return Err(self.unexpected()),
                b'\\' => {
                    let escape = self.peek().ok_or_else(|| self.unexpected())?;
                    self.at += 1;
                    if escape == b'u' {
                        let digits = self
                            .bytes
                            .get(self.at..self.at + 4)
                            .and_then(|four| std::str::from_utf8(four).ok());
                        let code = digits.and_then(|four| u32::from_str_radix(four, 16).ok());
                        let code = code.ok_or_else(|| self.unexpected())?;
                        self.at += 4;
                        match u8::try_from(code) {
                            Ok(ascii) if ascii < 0x80 => text.push(ascii),
                            _ => text.extend_from_slice(format!("\\u{code:04x}").as_bytes()),
                        }
                    } else if b"\"\\/bfnrt".contains(&escape) {
                        text.push(if escape == b'/' || escape == b'"' {
                            escape
                        } else {
                            escape | 0x80
                        });
                    } else {
                        return Err(self.unexpected());
                    }
                }
                _ => text.push(byte),
            }
        }
    }

    fn number(&mut self) -> Result<(), Refusal> {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
        {
            self.at += 1;
        }
        // `RawValue` checks the grammar and keeps any size.
        match serde_json::from_slice::<&serde_json::value::RawValue>(&self.bytes[start..self.at]) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.unexpected()),
        }
    }

    fn word(&mut self) -> Result<(), Refusal> {
        for word in [&b"true"[..], b"false", b"null"] {
            if self.bytes[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.unexpected())
    }

    fn spaces(&mut self) {
        while self
            .peek()
            .is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn unexpected(&self) -> Refusal {
        match self.peek() {
            None => (
                "unexpected_end_of_input_exception",
                "Unexpected end-of-input within/between Object entries".to_owned(),
            ),
            Some(byte) => (
                "json_parse_exception",
                format!(
                    "Unexpected character (code {byte}) at byte offset: #{}",
                    self.at
                ),
            ),
        }
    }
}

fn too_deep() -> String {
    format!(
        "Document nesting depth ({}) exceeds the maximum allowed ({DEPTH_MAX})",
        DEPTH_MAX + 1
    )
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn takes_and_refuses_what_the_real_server_did() {
        let nested = |depth: usize| {
            format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
        };
        for good in [
            &b"{}"[..],
            br#"{"a":"\ud800","n":1e999,"o":{"x":[1,true,null]}}"#,
            &nested(999),
        ] {
            assert_eq!(check(good), Ok(()), "{}", String::from_utf8_lossy(good));
        }
        for (bad, kind) in [
            (&br#"{"b":1,"b":2}"#[..], "json_parse_exception"),
            (br#"{"b":1,"\u0062":2}"#, "json_parse_exception"),
            (b"{\"b\":\"\xff\"}", "json_parse_exception"),
            (br#"{"b""#, "unexpected_end_of_input_exception"),
            (br#"{"b":01}"#, "json_parse_exception"),
            (b"[]", "not_x_content_exception"),
            (&nested(1000), "stream_constraints_exception"),
        ] {
            assert_eq!(
                check(bad).map_err(|(found, _)| found),
                Err(kind),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
