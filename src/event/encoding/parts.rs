//! Numbers, texts and fixed arrays as bytes: the parts that every encoding in `encoding` is made of.
//!
//! Invariant: each value has one form only; a reader refuses every other, so that what was decoded encodes to the same
//! bytes again.

use super::{DecodeError, VERSION};

/// Appends parts to a buffer.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn time(&mut self, time_us: i64) {
        self.bytes(&time_us.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }
}

/// Takes parts off the front of some bytes.
pub(super) struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Reader { what, left: bytes }
    }

    /// A reader behind the version byte.
    pub(super) fn versioned(what: &'static str, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(what, bytes);
        if reader.byte()? != VERSION {
            return Err(reader.error("unknown version"));
        }
        Ok(reader)
    }

    pub(super) fn error(&self, problem: &'static str) -> DecodeError {
        DecodeError {
            what: self.what,
            problem,
        }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, left)) = self.left.split_at_checked(length) else {
            return Err(self.error("cut short"));
        };
        self.left = left;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A byte in which no other bit than those of `known` is set.
    pub(super) fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.byte()?;
        if flags & !known != 0 {
            return Err(self.error("unknown flag"));
        }
        Ok(flags)
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let digit = u64::from(byte & 0x7f);
            if shift == 63 && digit > 1 {
                return Err(self.error("number over 64 bits"));
            }
            number |= digit << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.error("number not in its shortest form"));
                }
                return Ok(number);
            }
        }
        Err(self.error("number over 64 bits"))
    }

    pub(super) fn time(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let length = usize::try_from(self.number()?).map_err(|_| self.error("cut short"))?;
        match std::str::from_utf8(self.bytes(length)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error("text is not UTF-8")),
        }
    }

    /// Everything that is left, at least one byte.
    pub(super) fn rest(&mut self) -> Result<Vec<u8>, DecodeError> {
        let rest = std::mem::take(&mut self.left);
        if rest.is_empty() {
            return Err(self.error("cut short"));
        }
        Ok(rest.to_vec())
    }

    /// The part that `flag` (a masked flags byte) says is there.
    pub(super) fn option<T>(
        &mut self,
        flag: u8,
        part: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if flag == 0 {
            Ok(None)
        } else {
            part(self).map(Some)
        }
    }

    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(self.error("bytes left over"))
        }
    }
}
