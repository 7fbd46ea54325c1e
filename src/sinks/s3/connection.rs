//! The AWS SDK's client over our transport: made when first used, and anew when secrets or certificates change or the
//! sink is opened again.
//!
//! Invariants: the SDK retries nothing and adds no checksum of its own; a request that fails only because our clock is
//! wrong is signed once more by the server's; what cannot be made anew (a half-written certificate) leaves what was
//! before in use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::credentials::{FromSecrets, SigningClock};
use super::settings::Settings;
use super::transport::Transport;
use super::verdict::Trouble;
use crate::clock::{Clock, Micros};
use crate::sinks::{Alarm, BuildError, SinkContext};

/// Certificate files are looked at this often at most; a change is then in use within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Servers take signatures up to 15 minutes old.
const SKEW_US_MAX: u64 = 14 * 60 * 1_000_000;

/// Where an S3-compatible server takes any region, this is the one it most often has.
const REGION_OF_ENDPOINTS: &str = "us-east-1";

/// What the sink talks through.
pub(super) struct Connection {
    settings: Arc<Settings>,
    proxy: Option<String>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    pub(super) signing_clock: SigningClock,
    live: tokio::sync::Mutex<Option<Live>>,
    /// Of the secrets and files in use.
    fingerprint: Mutex<u64>,
    /// To be told with the next outcome that can carry them.
    alarms: Mutex<Vec<Alarm>>,
}

struct Live {
    client: Client,
    looked: Duration,
}

impl Connection {
    /// Reads certificate files; touches no network.
    pub(super) fn new(settings: Arc<Settings>, context: &SinkContext) -> Result<Self, BuildError> {
        let connection = Connection {
            proxy: context.proxy.clone(),
            timeout: context.timeout,
            signing_clock: SigningClock::new(context.clock.clone()),
            clock: context.clock.clone(),
            live: tokio::sync::Mutex::new(None),
            fingerprint: Mutex::new(fingerprint(&settings)),
            alarms: Mutex::default(),
            settings,
        };
        connection.transport().map_err(BuildError)?;
        Ok(connection)
    }

    /// Whether secrets or certificate files are other than those in use.
    pub(super) fn changed(&self) -> bool {
        fingerprint(&self.settings) != *lock(&self.fingerprint)
    }

    /// Forgets the client, and with it every credential that it keeps.
    pub(super) async fn renew(&self) {
        *self.live.lock().await = None;
    }

    /// What came up since it was last asked.
    pub(super) fn take_alarms(&self) -> Vec<Alarm> {
        std::mem::take(&mut *lock(&self.alarms))
    }

    /// One request, made by `make`; once more where our clock was wrong.
    pub(super) async fn call<T, E, F, R>(&self, make: F) -> Result<T, Trouble>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let client = self.client().await?;
        let trouble = match make(client.clone()).await {
            Ok(done) => return Ok(done),
            Err(error) => Trouble::of(&error, self.clock.now()),
        };
        if !self.set_clock_right(&trouble) {
            return Err(trouble);
        }
        make(client)
            .await
            .map_err(|error| Trouble::of(&error, self.clock.now()))
    }

    /// Follows the server's clock where it refused ours.
    fn set_clock_right(&self, trouble: &Trouble) -> bool {
        let ours = self.signing_clock.micros();
        let Some(date) = trouble
            .refusal()
            .filter(|refusal| {
                let far = |date: Micros| date.0.abs_diff(ours.0) > SKEW_US_MAX;
                // The refusal of a `HEAD` has no code.
                refusal.code == "RequestTimeTooSkewed"
                    || refusal.status == 403
                        && refusal.code.is_empty()
                        && refusal.date.is_some_and(far)
            })
            .and_then(|refusal| refusal.date)
        else {
            return false;
        };
        let ahead = self.signing_clock.follow(date);
        let direction = if ahead > 0 { "ahead of" } else { "behind" };
        lock(&self.alarms).push(Alarm {
            reason: "clock_skew",
            message: format!(
                "this machine's clock is {} s {direction} that of the server, whose time signs requests from now on; set it right",
                ahead.abs()
            ),
        });
        true
    }

    async fn client(&self) -> Result<Client, Trouble> {
        let now = self.clock.monotonic();
        let mut slot = self.live.lock().await;
        if let Some(live) = &mut *slot {
            if now.saturating_sub(live.looked) < LOOK_EVERY {
                return Ok(live.client.clone());
            }
            live.looked = now;
            if !self.changed() {
                return Ok(live.client.clone());
            }
        }
        let present = fingerprint(&self.settings);
        let client = match (self.load().await, &*slot) {
            (Ok(client), _) => client,
            (Err(problem), Some(live)) => {
                tracing::warn!(
                    "changed secrets or certificates cannot be used, those before stay in use: {problem}"
                );
                return Ok(live.client.clone());
            }
            (Err(problem), None) => return Err(Trouble::Unusable(problem)),
        };
        *lock(&self.fingerprint) = present;
        *slot = Some(Live {
            client: client.clone(),
            looked: now,
        });
        Ok(client)
    }

    fn transport(&self) -> Result<Transport, String> {
        let settings = &self.settings;
        let transport =
            Transport::to_bucket(settings.tls.clone(), self.proxy.clone(), self.timeout);
        let plain = settings
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.starts_with("http:"));
        transport.try_files(!plain)?;
        Ok(transport)
    }

    async fn load(&self) -> Result<Client, String> {
        let settings = &self.settings;
        let transport = self.transport()?;
        let chain = Transport::to_credentials(self.proxy.clone(), self.timeout);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(chain)
            .time_source(self.signing_clock.clone());
        let region = settings
            .region
            .as_deref()
            .or_else(|| settings.endpoint.is_some().then_some(REGION_OF_ENDPOINTS));
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some(keys) = &settings.keys {
            loader = loader
                .credentials_provider(FromSecrets(keys.clone()))
                .identity_cache(IdentityCache::no_cache());
        }
        let shared = loader.load().await;
        if shared.region().is_none() {
            return Err("no region is known: set `region`".to_owned());
        }
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            .http_client(transport)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .disable_clock_skew_correction(true)
            .force_path_style(settings.path_style);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(builder.build()))
    }
}

fn fingerprint(settings: &Settings) -> u64 {
    let secrets = settings.keys.iter().flat_map(|keys| {
        [
            Some(&keys.access_key),
            Some(&keys.secret_key),
            keys.session_token.as_ref(),
        ]
    });
    secrets
        .flatten()
        .fold(settings.tls.fingerprint(), |all, secret| {
            all.rotate_left(1) ^ secret.fingerprint()
        })
}

/// What is behind these locks is whole at every moment, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
