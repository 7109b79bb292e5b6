//! Signed documents, certificates among them: plain JSON, with the public key and the signature in it.
//!
//! What is signed begins with the document's purpose, so that one kind never passes for another.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;

use crate::certificate::{CERTIFICATE_FORMAT, CertificateKey};
use crate::manifest::write_canonical;

/// Why a signed document is refused, or a key is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The bytes are no such document.
    #[error("the document cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// Written by a newer version.
    #[error("the document has format {found}; this version reads up to {CERTIFICATE_FORMAT}")]
    UnsupportedFormat {
        /// The format of the document.
        found: u32,
    },
    /// Signed by somebody else.
    #[error("the document was signed with another key than {expected}")]
    OtherKey {
        /// The public key that should have signed.
        expected: String,
    },
    /// Not what was signed.
    #[error("the document was altered after it was signed")]
    Altered,
    /// Not 32 bytes in hex.
    #[error("the key is not 32 bytes in hex")]
    NotAKey,
}

/// Signs a JSON object as it stands now; any later change makes it invalid.
pub fn sign_document(purpose: &str, document: &mut Value, key: &CertificateKey) {
    document["public_key"] = key.public().into();
    document["signature"] = signature(purpose, document, key).into();
}

/// The signature of a document that has the public key in it already, in hex.
pub(crate) fn signature(purpose: &str, document: &Value, key: &CertificateKey) -> String {
    hex::encode(key.sign_bytes(&signed_bytes(purpose, document)))
}

/// Checks that the holder of this public key signed the document as it is, for this purpose.
pub fn verify_document(
    purpose: &str,
    document: &Value,
    public_key: &str,
) -> Result<(), DocumentError> {
    let expected = public_key.trim().to_ascii_lowercase();
    let bytes = hex::decode(&expected).map_err(|_| DocumentError::NotAKey)?;
    if bytes.len() != 32 {
        return Err(DocumentError::NotAKey);
    }
    if document["public_key"] != expected.as_str() {
        return Err(DocumentError::OtherKey { expected });
    }
    let signature = document["signature"].as_str().and_then(|text| hex::decode(text).ok());
    let signature = signature.ok_or(DocumentError::Altered)?;
    UnparsedPublicKey::new(&ED25519, bytes)
        .verify(&signed_bytes(purpose, document), &signature)
        .map_err(|_| DocumentError::Altered)
}

fn signed_bytes(purpose: &str, document: &Value) -> Vec<u8> {
    let mut document = document.clone();
    if let Value::Object(fields) = &mut document {
        fields.remove("signature");
    }
    let mut bytes = format!("tenantry {purpose}\n").into_bytes();
    write_canonical(&document, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_signed_document_is_good_as_it_is_and_for_its_purpose_only() {
        let key = CertificateKey::generate();
        let mut document = json!({ "b": [1, 2], "a": { "text": "x" } });
        sign_document("report", &mut document, &key);

        let again: Value = serde_json::from_str(&document.to_string()).unwrap();

        verify_document("report", &again, &key.public()).unwrap();
        let refused = |document: &Value, purpose: &str| {
            matches!(verify_document(purpose, document, &key.public()), Err(DocumentError::Altered))
        };
        assert!(refused(&again, "erasure certificate"));
        for (field, value) in [("b", json!([1])), ("more", json!(1)), ("signature", json!("00"))] {
            let mut altered = again.clone();
            altered[field] = value;
            assert!(refused(&altered, "report"), "{field}");
        }
        let other = CertificateKey::generate().public();
        let error = verify_document("report", &again, &other).unwrap_err();
        assert!(matches!(error, DocumentError::OtherKey { .. }));
    }
}
