//! SCRAM-SHA-256 as a client, with the costly part remembered.
//!
//! What a password comes to with a server's salt takes 4096 hashes and more, some milliseconds; the driver
//! makes them anew for every session. They depend on nothing but password, salt and number, so whoever opens
//! a session for each of a thousand databases makes them once. The server proves that it knows them too.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The name of the mechanism.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// No channel to bind to: the session is not encrypted.
const UNBOUND: &str = "n,,";
const NONCE_BYTES: usize = 18;
const KEY_BYTES: usize = 32;
/// The driver's own bound on the hashes that a server may ask for.
const MOST_ITERATIONS: u32 = 100_000;

/// What the last password came to.
#[derive(Default)]
pub(super) struct Keys(Mutex<Option<Remembered>>);

struct Remembered {
    password: Vec<u8>,
    salt: Vec<u8>,
    iterations: u32,
    pair: Pair,
}

#[derive(Clone, Copy)]
struct Pair {
    client: [u8; KEY_BYTES],
    server: [u8; KEY_BYTES],
}

/// One log-in.
pub(super) struct Exchange<'a> {
    password: &'a [u8],
    keys: &'a Keys,
    nonce: String,
    expected: Vec<u8>,
}

impl Keys {
    fn pair(&self, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Pair {
        let fits = |known: &&Remembered| {
            known.password == password && known.salt == salt && known.iterations == iterations.get()
        };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(fits) {
            return known.pair;
        }
        drop(known);
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let pair =
            Pair { client: sign(&salted, b"Client Key"), server: sign(&salted, b"Server Key") };
        let (password, salt) = (password.to_vec(), salt.to_vec());
        let made = Remembered { password, salt, iterations: iterations.get(), pair };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        pair
    }
}

impl<'a> Exchange<'a> {
    /// Begins a log-in. `None` for a password that would have to be normalised first.
    pub(super) fn begin(password: &'a [u8], keys: &'a Keys) -> Option<Self> {
        if !password.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return None;
        }
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).ok()?;
        Some(Self { password, keys, nonce: STANDARD.encode(nonce), expected: Vec::new() })
    }

    /// What the client says first.
    pub(super) fn first(&self) -> String {
        format!("{UNBOUND}{}", self.bare())
    }

    /// The proof, for the server's salt and number.
    pub(super) fn prove(&mut self, challenge: &[u8]) -> io::Result<String> {
        let challenge = std::str::from_utf8(challenge).map_err(io::Error::other)?;
        let mut parts = challenge.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        let (nonce, salt, iterations) = (part("r="), part("s="), part("i="));
        let nonce = nonce.filter(|nonce| nonce.starts_with(&self.nonce) && *nonce != self.nonce);
        let salt = salt.and_then(|salt| STANDARD.decode(salt).ok());
        let iterations = iterations.and_then(|number| number.parse::<NonZeroU32>().ok());
        let iterations = iterations.filter(|number| number.get() <= MOST_ITERATIONS);
        let (Some(nonce), Some(salt), Some(iterations)) = (nonce, salt, iterations) else {
            return Err(io::Error::other("the server's challenge makes no sense"));
        };
        let Pair { client, server } = self.keys.pair(self.password, &salt, iterations);
        let unproven = format!("c={},r={nonce}", STANDARD.encode(UNBOUND));
        let told = format!("{},{challenge},{unproven}", self.bare());
        let stored = digest::digest(&digest::SHA256, &client);
        let mut proof = sign(stored.as_ref(), told.as_bytes());
        proof.iter_mut().zip(client).for_each(|(byte, key)| *byte ^= key);
        self.expected = sign(&server, told.as_bytes()).to_vec();
        Ok(format!("{unproven},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server knows the password too.
    pub(super) fn verify(&self, answer: &[u8]) -> io::Result<()> {
        let shown = answer.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
        let is_shown = |shown: &Vec<u8>| {
            !self.expected.is_empty()
                && constant_time::verify_slices_are_equal(shown, &self.expected).is_ok()
        };
        if shown.as_ref().is_some_and(is_shown) {
            Ok(())
        } else {
            Err(io::Error::other("the server cannot prove that it knows the password"))
        }
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }
}

fn sign(key: &[u8], text: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, whose user has a name; PostgreSQL takes the one of the session.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    #[test]
    fn keys_are_those_of_the_standard_and_remembered_by_all_that_they_depend_on() {
        let keys = Keys::default();
        let salt = STANDARD.decode(SALT).unwrap();
        let number = |number| NonZeroU32::new(number).unwrap();

        let pair = keys.pair(b"pencil", &salt, number(4096));

        let told = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,\
                    r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signed = STANDARD.encode(sign(&pair.server, told.as_bytes()));
        assert_eq!(signed, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        for other in [
            keys.pair(b"pencils", &salt, number(4096)),
            keys.pair(b"pencil", &salt[1..], number(4096)),
            keys.pair(b"pencil", &salt, number(4097)),
        ] {
            assert_ne!(other.client, pair.client);
        }
        assert_eq!(keys.pair(b"pencil", &salt, number(4096)).client, pair.client);
    }

    #[test]
    fn a_server_that_makes_no_sense_or_knows_nothing_is_refused() {
        let keys = Keys::default();
        let mut exchange = Exchange::begin(b"pencil", &keys).unwrap();
        let nonce = exchange.nonce.clone();

        for challenge in [
            String::new(),
            format!("r={nonce},s={SALT},i=4096"),
            format!("r=another,s={SALT},i=4096"),
            format!("r={nonce}more,s={SALT},i=0"),
            format!("r={nonce}more,s={SALT},i=100001"),
            format!("r={nonce}more,s=*,i=4096"),
        ] {
            assert!(exchange.prove(challenge.as_bytes()).is_err(), "{challenge}");
            assert!(exchange.verify(b"v=").is_err(), "{challenge}");
        }
        exchange.prove(format!("r={nonce}more,s={SALT},i=4096").as_bytes()).unwrap();
        for answer in ["", "v=", "v=AAAA", "e=other-error"] {
            assert!(exchange.verify(answer.as_bytes()).is_err(), "{answer}");
        }
        assert!(Exchange::begin("pässword".as_bytes(), &keys).is_none());
    }
}
