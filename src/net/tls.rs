//! TLS of a client: whom it trusts, and who it is. Verification is always whole: there is no key that turns off the
//! certificate's or the name's check (design: it cannot be half off).
//!
//! Invariants: with `ca`, only that authority is trusted, never the system's beside it; files are read when a client
//! is built and their [`TlsFiles::fingerprint`] tells when to build it anew; private keys are never shown.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;

/// No certificate or key file is larger; a path that points at something else is told so instead of read whole.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The `tls` table of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM with the client certificate and what stands between it and its authority. Always with `key`.
    pub cert: Option<PathBuf>,
    /// PEM with the client certificate's private key. Always with `cert`.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must be for, instead of the endpoint's host.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// Reads the files and makes a configuration. The error says which file and what is wrong with it.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("set up tls: {error}"))?
            .dangerous() // Names the call, not what is done: the verifier below checks all that the default one does.
            .with_custom_certificate_verifier(verifier);
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                builder
                    .with_client_auth_cert(chain, private_key(key)?)
                    .map_err(|error| {
                        format!(
                            "use client certificate {} with key {}: {error}",
                            cert.display(),
                            key.display()
                        )
                    })
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    /// What is wrong with each of the files by itself, all of them at once, beside the name of its key; whether they go
    /// together only [`TlsFiles::client_config`] tells.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, path) in [("ca", &self.ca), ("cert", &self.cert)] {
            if let Some(Err(problem)) = path.as_deref().map(certificates) {
                problems.push((key, problem));
            }
        }
        if let Some(Err(problem)) = self.key.as_deref().map(private_key) {
            problems.push(("key", problem));
        }
        problems
    }

    /// When the first of the certificates in the files expires, in seconds since the Unix epoch.
    pub fn expiry(&self) -> Option<i64> {
        [&self.ca, &self.cert]
            .into_iter()
            .flatten()
            .filter_map(|path| certificates(path).ok())
            .flatten()
            .filter_map(|certificate| super::certificate::not_after(&certificate))
            .min()
    }

    /// A value that changes whenever one of the files does. An unreadable file counts as one state.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for path in [&self.ca, &self.cert, &self.key].into_iter().flatten() {
            read(path).ok().hash(&mut hasher);
        }
        hasher.finish()
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let verifier: Arc<dyn ServerCertVerifier> = match &self.ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(ca)? {
                    roots
                        .add(certificate)
                        .map_err(|error| format!("trust {}: {error}", ca.display()))?;
                }
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|error| format!("trust {}: {error}", ca.display()))?
            }
            None => Arc::new(
                rustls_platform_verifier::Verifier::new(provider.clone()).map_err(|error| {
                    format!("read the system's certificate authorities: {error}")
                })?,
            ),
        };
        let Some(name) = &self.server_name else {
            return Ok(verifier);
        };
        let name = ServerName::try_from(name.clone())
            .map_err(|_| format!("{name:?} is no host name or address"))?;
        Ok(Arc::new(Named { name, verifier }))
    }
}

/// Whether `name` can stand in a certificate: a host name or an address.
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Checks what the verifier inside checks, for another name than the endpoint's host.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier
            .verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        found.push(certificate.map_err(|error| {
            format!(
                "read certificate {}: {}",
                path.display(),
                pem_problem(&error)
            )
        })?);
    }
    if found.is_empty() {
        return Err(format!(
            "read certificate {}: no PEM certificate in it",
            path.display()
        ));
    }
    Ok(found)
}

/// The private key of a PEM file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        format!(
            "read private key {}: {}",
            path.display(),
            pem_problem(&error)
        )
    })
}

/// What is wrong with a PEM file, without any of its bytes.
fn pem_problem(error: &rustls_pki_types::pem::Error) -> &'static str {
    use rustls_pki_types::pem::Error;
    match error {
        Error::NoItemsFound => "nothing of the kind in it",
        Error::MissingSectionEnd { .. } => "a section has no end",
        _ => "not PEM",
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let problem = |error: std::io::Error| format!("read {}: {error}", path.display());
    let file = File::open(path).map_err(problem)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(problem)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "read {}: larger than 1 MiB, which no certificate is",
            path.display()
        ));
    }
    Ok(bytes)
}
