//! Certificates of the tests' own: authorities, what they sign, and the files that a server reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::install_crypto;

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate for `localhost` and its key; for servers and clients alike.
pub struct Leaf {
    pub certificate: Certificate,
    pub key: KeyPair,
}

/// The files that settings name, as Kubernetes mounts a secret: links to a folder that is swapped.
pub struct Mount {
    folder: TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn issue(&self) -> Leaf {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Leaf { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client that believes this authority, and shows a certificate if it has one.
    pub async fn connect(
        &self,
        address: &str,
        own: Option<&Leaf>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        install_crypto();
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match own {
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![leaf.certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The same over HTTP of either version.
    pub fn client(&self) -> reqwest::ClientBuilder {
        install_crypto();
        let root = reqwest::Certificate::from_pem(self.pem().as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only([root])
    }
}

impl Mount {
    /// The files of a server with this certificate, and of an authority for its clients.
    pub fn new(leaf: &Leaf, clients: &Authority) -> Self {
        let mount = Self { folder: TempDir::new().unwrap() };
        let key = leaf.key.serialize_pem();
        mount.swap(&leaf.certificate.pem(), &key, &clients.pem());
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let target = Path::new("..data").join(name);
            std::os::unix::fs::symlink(target, mount.path(name)).unwrap();
        }
        mount
    }

    /// Other contents for all of them, at one blow.
    pub fn swap(&self, certificate: &str, key: &str, clients: &str) {
        let version = TempDir::new_in(self.folder.path()).unwrap().keep();
        for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", clients)] {
            std::fs::write(version.join(name), text).unwrap();
        }
        let link = self.path("..new");
        std::os::unix::fs::symlink(version, &link).unwrap();
        std::fs::rename(link, self.path("..data")).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
