//! An authority made for one test, with a server certificate for localhost and 127.0.0.1 and a client certificate, as PEM
//! files and as a TLS server configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Whether a server wants to see a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    /// Not asked for.
    No,
    /// Looked at where shown.
    Optional,
    /// No handshake without.
    Required,
}

/// PEM files below one directory.
pub(crate) struct Certificates {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    server: Pair,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain, the server's own certificate first, and its key.
pub(crate) struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Certificates {
    /// Makes an authority named `name` and what it signs: `ca.crt`, `client.crt`, `client.key`.
    pub(crate) fn make(dir: &Path, name: &str) -> Self {
        fs::create_dir_all(dir).expect("create");
        let params = authority(name);
        let ca_key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&ca_key).expect("a certificate");
        let issuer = Issuer::new(params, ca_key);
        let signed = |names: &[&str], common_name: &str| {
            let names = names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>();
            let mut params = CertificateParams::new(names).expect("valid names");
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &issuer).expect("a certificate"), key)
        };
        let (server, server_key) = signed(&["localhost", "127.0.0.1"], "localhost");
        let (client, client_key) = signed(&["auditship"], "auditship");
        for (file, text) in [
            ("ca.crt", ca.pem()),
            ("client.crt", client.pem()),
            ("client.key", client_key.serialize_pem()),
        ] {
            fs::write(dir.join(file), text).expect("write");
        }
        Certificates {
            dir: dir.to_owned(),
            ca: ca.der().clone(),
            server: Pair {
                chain: vec![server.der().clone()],
                key: server_key.serialize_der(),
            },
            issuer,
        }
    }

    /// Another server certificate of this authority: for localhost and 127.0.0.1, but for what `change` says.
    pub(crate) fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        sign(change, &self.issuer)
    }

    /// As [`Certificates::sign`] by an authority in between, whose certificate the server does not show.
    pub(crate) fn sign_without_link(&self) -> Pair {
        let (params, key) = (authority("in between"), KeyPair::generate().expect("a key"));
        params
            .signed_by(&key, &self.issuer)
            .expect("a certificate that nobody gets to see");
        sign(|_| {}, &Issuer::new(params, key))
    }

    /// The value of the key `tls` of a sink that trusts this authority and shows that client's certificate.
    pub(crate) fn tls_key(&self, client: Option<&Certificates>) -> String {
        let client = client.map_or(String::new(), |pair| {
            format!(
                ", cert = \"{}\", key = \"{}\"",
                pair.file("client.crt").display(),
                pair.file("client.key").display()
            )
        });
        format!("{{ ca = \"{}\"{client} }}", self.file("ca.crt").display())
    }

    /// One of the files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// For a server that shows this authority's server certificate.
    pub(crate) fn server_config(&self, client: ClientCertificate) -> Arc<ServerConfig> {
        self.server_config_with(&self.server, client)
    }

    /// As [`Certificates::server_config`], showing this.
    pub(crate) fn server_config_with(
        &self,
        shown: &Pair,
        client: ClientCertificate,
    ) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("our own authority");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        let builder = ServerConfig::builder();
        let builder = match client {
            ClientCertificate::No => builder.with_no_client_auth(),
            ClientCertificate::Optional => builder.with_client_cert_verifier(
                verifier
                    .allow_unauthenticated()
                    .build()
                    .expect("a verifier"),
            ),
            ClientCertificate::Required => {
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.clone()));
        Arc::new(
            builder
                .with_single_cert(shown.chain.clone(), key)
                .expect("a valid pair"),
        )
    }
}

/// A server certificate that nobody but itself vouches for.
pub(crate) fn self_signed() -> Pair {
    let (params, key) = (server_params(), KeyPair::generate().expect("a key"));
    let certificate = params.self_signed(&key).expect("a certificate");
    Pair {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn server_params() -> CertificateParams {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    CertificateParams::new(names).expect("valid names")
}

fn sign(change: impl FnOnce(&mut CertificateParams), issuer: &Issuer<'_, KeyPair>) -> Pair {
    let (mut params, key) = (server_params(), KeyPair::generate().expect("a key"));
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Pair {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
    }
}
