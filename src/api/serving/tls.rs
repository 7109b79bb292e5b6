//! [`Tls`]: the certificate that a listener shows, and which clients it asks for theirs.
//!
//! The files may change at any time, by renewal or by a swapped link. What they hold is looked at every
//! few seconds; only a pair that fits takes the old one's place, so a half-written file never ends the
//! service. Connections that exist go on as they began. A session cannot be resumed across a change:
//! whoever lost their certificate's CA has to show another one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What we speak, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A listener's side of TLS. Clones share what is in force.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    in_force: watch::Sender<Arc<ServerConfig>>,
    /// What the files held when they were first read.
    loaded: Fingerprint,
}

/// Where it lies, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, followed by those between it and a root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of clients; without it, they need none.
    pub client_ca: Option<PathBuf>,
}

/// Why files make no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that is not there, or not ours to read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No certificate, or half of one.
    #[error("{} holds no whole certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// No key, half of one, or one behind a passphrase.
    #[error("{} holds no private key in PEM", .0.display())]
    NoKey(PathBuf),
    /// The two do not belong together, or are of a kind that we cannot use.
    #[error("the certificate {} cannot be used with the key {}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Tells contents apart without keeping a key in memory.
type Fingerprint = [u8; 32];

/// What the files held at one moment.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files for the first time.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let config = files.configure(&contents)?;
        let (in_force, loaded) = (watch::Sender::new(config), contents.fingerprint());
        Ok(Self { files, in_force, loaded })
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.in_force.borrow());
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Puts what the files hold into force when it changes, until `shutdown`.
    pub(super) async fn watch(self, shutdown: CancellationToken) {
        let mut seen = Some(self.loaded);
        while shutdown.run_until_cancelled(sleep(LOOK)).await.is_some() {
            let files = self.files.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || files.read()).await else {
                continue;
            };
            let fingerprint = found.as_ref().ok().map(Contents::fingerprint);
            if fingerprint == seen {
                continue;
            }
            seen = fingerprint;
            self.replace(found);
        }
    }

    fn replace(&self, found: Result<Contents, TlsError>) {
        let certificate = self.files.certificate.display();
        match found.and_then(|contents| self.files.configure(&contents)) {
            Ok(config) => {
                self.in_force.send_replace(config);
                tracing::info!(%certificate, "a new certificate is in force");
            }
            Err(error) => tracing::warn!(
                %certificate,
                error = &error as &dyn std::error::Error,
                help = error.remedy(),
                "the old certificate stays in force"
            ),
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn configure(&self, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&contents.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| TlsError::NoKey(self.key.clone()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions");
        let builder = match self.client_ca.as_ref().zip(contents.client_ca.as_ref()) {
            Some((path, pem)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem, path)? {
                    roots.add(root).map_err(|_| TlsError::NoCertificate(path.clone()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("there is a root"))
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|source| TlsError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}

impl Contents {
    fn fingerprint(&self) -> Fingerprint {
        let mut all = Context::new(&SHA256);
        let files = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        for file in files.into_iter().flatten() {
            all.update(&file.len().to_be_bytes());
            all.update(file);
        }
        all.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl TlsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "correct the path, or make the file readable for this user",
            Self::NoCertificate(_) => {
                "it must hold whole `-----BEGIN CERTIFICATE-----` blocks; a server's own comes first"
            }
            Self::NoKey(_) => {
                "it must hold one `-----BEGIN PRIVATE KEY-----` block without a passphrase; \
                 `openssl pkey` takes one away"
            }
            Self::Pair { .. } => {
                "give the certificate and the key that were made for each other; RSA, ECDSA and \
                 Ed25519 work"
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

/// All the certificates of a file, and at least one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| TlsError::NoCertificate(path.to_owned()))
}
