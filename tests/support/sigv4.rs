//! AWS Signature Version 4 for S3, written from its description and not with the SDK that the sink uses: to sign what
//! tests read and write, and to check in the fake what the sink sends.

use sha2::{Digest, Sha256};

use super::oracle::hex;

/// What is signed of a request.
pub(crate) struct ToSign<'a> {
    /// `GET`.
    pub(crate) method: &'a str,
    /// As it goes over the wire, percent-encoded.
    pub(crate) path: &'a str,
    /// The same, without the question mark.
    pub(crate) query: &'a str,
    /// Names in lower case; those that are signed.
    pub(crate) headers: Vec<(String, String)>,
    /// `x-amz-content-sha256`.
    pub(crate) payload: &'a str,
    /// `20260101T000000Z`.
    pub(crate) time: &'a str,
    /// `us-east-1`.
    pub(crate) region: &'a str,
}

impl ToSign<'_> {
    /// Hex, 64 digits.
    pub(crate) fn signature(&self, secret: &str) -> String {
        let day = &self.time[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let request = hex(&Sha256::digest(self.canonical()));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{request}", self.time);
        let key = [day, self.region, "s3", "aws4_request"]
            .iter()
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| {
                hmac(&key, part.as_bytes()).to_vec()
            });
        hex(&hmac(&key, text.as_bytes()))
    }

    /// The value of `Authorization`.
    pub(crate) fn authorization(&self, access_key: &str, secret: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{}/{}/s3/aws4_request, SignedHeaders={}, Signature={}",
            &self.time[..8],
            self.region,
            self.signed(),
            self.signature(secret)
        )
    }

    fn sorted(&self) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        headers.sort();
        headers
    }

    fn signed(&self) -> String {
        let names: Vec<String> = self.sorted().into_iter().map(|(name, _)| name).collect();
        names.join(";")
    }

    fn canonical(&self) -> String {
        let mut query: Vec<String> = self
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                if pair.contains('=') {
                    pair.to_owned()
                } else {
                    format!("{pair}=")
                }
            })
            .collect();
        query.sort();
        let headers: String = self
            .sorted()
            .iter()
            .map(|(name, value)| {
                let words: Vec<&str> = value.split_whitespace().collect();
                format!("{name}:{}\n", words.join(" "))
            })
            .collect();
        let query = query.join("&");
        format!(
            "{}\n{}\n{query}\n{headers}\n{}\n{}",
            self.method,
            self.path,
            self.signed(),
            self.payload
        )
    }
}

/// RFC 2104 with SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

/// All but letters, digits and `-._~` (and `/`, in a path) as `%XX`.
pub(crate) fn encoded(text: &str, path: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if path => out.push('/'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The text that was encoded.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match (
            byte,
            digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()),
        ) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_description_has_its_signature() {
        // "GET Object" in "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
        let nothing = hex(&Sha256::digest(b""));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let request = ToSign {
            method: "GET",
            path: "/test.txt",
            query: "",
            headers: vec![
                header("host", "examplebucket.s3.amazonaws.com"),
                header("range", "bytes=0-9"),
                header("x-amz-content-sha256", &nothing),
                header("x-amz-date", "20130524T000000Z"),
            ],
            payload: &nothing,
            time: "20130524T000000Z",
            region: "us-east-1",
        };
        assert_eq!(
            request.signature("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }
}
