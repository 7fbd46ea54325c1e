//! Credentials of a sink that speaks HTTP, as the `Authorization` that they make.
//!
//! Invariants: a secret is read anew for each [`Auth::authorization`], and neither shown nor kept in the clear
//! outside of the header, which is marked sensitive.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::config::{Field, Secret, Section, TableDoc};
use crate::net::http_client::HeaderValue;

/// `auth.basic`.
pub(in crate::sinks) static BASIC: TableDoc = TableDoc {
    name: "basic",
    doc: "User and password.",
    fields: &[&USER, &PASSWORD],
};

static USER: Field<Secret> = Field::new("user", "The user's name.").required();

static PASSWORD: Field<Secret> = Field::new("password", "The user's password.").required();

/// `None`: absent. `Some(None)`: a mistake, reported.
pub(in crate::sinks) fn basic(auth: &mut Section<'_>) -> Option<Option<Auth>> {
    if !auth.has(BASIC.name) {
        return None;
    }
    let mut basic = auth.table(&BASIC)?;
    let (user, password) = (basic.get(&USER), basic.get(&PASSWORD));
    Some(
        user.zip(password)
            .map(|(user, password)| Auth::Basic { user, password }),
    )
}

/// Credentials; which of them there are is the kind's to say.
#[derive(Clone, Debug)]
pub(in crate::sinks) enum Auth {
    /// Elasticsearch's key.
    #[cfg_attr(
        not(feature = "elasticsearch"),
        expect(dead_code, reason = "Elasticsearch alone has it")
    )]
    ApiKey(Secret),
    /// User and password.
    Basic { user: Secret, password: Secret },
    /// A bearer token.
    #[cfg_attr(not(feature = "loki"), expect(dead_code, reason = "Loki alone has it"))]
    Bearer(Secret),
}

impl Auth {
    /// The header's value. The error says what cannot be read or sent, and never what it holds.
    pub(super) fn authorization(&self) -> Result<HeaderValue, String> {
        let (text, place) = match self {
            Auth::ApiKey(secret) => {
                let key = secret.reveal()?;
                let key = key.trim();
                // The key as the API gives it apart (`id:api_key`) or, encoded, together.
                let encoded = if key.contains(':') {
                    BASE64.encode(key)
                } else {
                    key.to_owned()
                };
                (Zeroizing::new(format!("ApiKey {encoded}")), "auth.api_key")
            }
            Auth::Basic { user, password } => {
                let pair = Zeroizing::new(format!(
                    "{}:{}",
                    user.reveal()?.as_str(),
                    password.reveal()?.as_str()
                ));
                let text = format!("Basic {}", BASE64.encode(pair.as_bytes()));
                (Zeroizing::new(text), "auth.basic")
            }
            Auth::Bearer(token) => {
                let text = format!("Bearer {}", token.reveal()?.trim());
                (Zeroizing::new(text), "auth.bearer")
            }
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| format!("the secret under `{place}` holds characters that none has"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// A value that changes whenever a secret does.
    pub(super) fn fingerprint(&self) -> u64 {
        match self {
            Auth::ApiKey(secret) | Auth::Bearer(secret) => secret.fingerprint(),
            Auth::Basic { user, password } => {
                user.fingerprint().rotate_left(1) ^ password.fingerprint()
            }
        }
    }

    /// Secrets that a person wrote into the file as bare strings.
    pub(in crate::sinks) fn bare_secrets(&self) -> usize {
        match self {
            Auth::ApiKey(secret) | Auth::Bearer(secret) => usize::from(secret.is_bare()),
            // A user's name is no secret, wherever it stands.
            Auth::Basic { password, .. } => usize::from(password.is_bare()),
        }
    }
}
