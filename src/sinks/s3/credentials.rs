//! Credentials from the configuration, and the clock that requests are signed with.
//!
//! Invariants: secrets are read anew for every request, so that a rotated file is in use at once, and never shown; the
//! signing clock only ever follows the server's `Date`, and nothing but signatures and retention reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_smithy_async::time::TimeSource;

use super::settings::Keys;
use crate::clock::{Clock, Micros};

/// Gives what stands under `access_key`, `secret_key` and `session_token`.
#[derive(Debug)]
pub(super) struct FromSecrets(pub(super) Arc<Keys>);

impl FromSecrets {
    fn reveal(&self) -> provider::Result {
        let reveal = |secret: &crate::config::Secret| {
            let text = secret
                .reveal()
                .map_err(CredentialsError::invalid_configuration)?;
            Ok::<_, CredentialsError>(text.trim().to_owned())
        };
        let keys = &self.0;
        let token = keys.session_token.as_ref().map(reveal).transpose()?;
        Ok(Credentials::new(
            reveal(&keys.access_key)?,
            reveal(&keys.secret_key)?,
            token,
            None,
            "auditship",
        ))
    }
}

impl ProvideCredentials for FromSecrets {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.reveal())
    }
}

/// The machine's clock, set right by what the server says.
#[derive(Clone)]
pub(super) struct SigningClock {
    clock: Arc<dyn Clock>,
    offset_us: Arc<AtomicI64>,
}

impl SigningClock {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        SigningClock {
            clock,
            offset_us: Arc::default(),
        }
    }

    /// The time as the server has it, as far as we know.
    pub(super) fn micros(&self) -> Micros {
        let offset = self.offset_us.load(Ordering::SeqCst);
        Micros(self.clock.now().0.saturating_add(offset))
    }

    /// Follows the server; gives by how many seconds our own clock is ahead of it.
    pub(super) fn follow(&self, server: Micros) -> i64 {
        let offset = server.0.saturating_sub(self.clock.now().0);
        self.offset_us.store(offset, Ordering::SeqCst);
        -offset / 1_000_000
    }
}

impl std::fmt::Debug for SigningClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningClock")
    }
}

impl TimeSource for SigningClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(u64::try_from(self.micros().0).unwrap_or(0))
    }
}
