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
    server: CertificateDer<'static>,
    server_key: Vec<u8>,
}

impl Certificates {
    /// Makes an authority named `name` and what it signs: `ca.crt`, `client.crt`, `client.key`.
    pub(crate) fn make(dir: &Path, name: &str) -> Self {
        fs::create_dir_all(dir).expect("create");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
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
            server: server.der().clone(),
            server_key: server_key.serialize_der(),
        }
    }

    /// One of the files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// For a server that shows this authority's server certificate.
    pub(crate) fn server_config(&self, client: ClientCertificate) -> Arc<ServerConfig> {
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
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.server_key.clone()));
        Arc::new(
            builder
                .with_single_cert(vec![self.server.clone()], key)
                .expect("a valid pair"),
        )
    }
}
