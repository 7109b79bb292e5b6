//! What ties a log-in to the TLS session that it runs in (`tls-server-end-point`, RFC 5929): a digest of
//! the server's certificate, made as the certificate itself was signed.

use aws_lc_rs::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The digest of a certificate; none where its signature has no digest of its own, as with Ed25519.
pub(super) fn of_certificate(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let algorithm = digest_of(&certificate.signature_algorithm.oid.to_string())?;
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

/// SHA-256 stands in for the digests that are weaker.
fn digest_of(signature: &str) -> Option<&'static Algorithm> {
    match signature {
        // RSA with MD5, SHA-1 and SHA-256; ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        _ => None,
    }
}
