//! [`Unverified`]: what a token says before anything of it is proven. Only good for choosing the key to
//! prove it with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::TokenError;

/// Header fields that bring a key or its address; following one is how tokens are forged.
const BRINGS_KEYS: [&str; 3] = ["jku", "jwk", "x5u"];
/// The types of token that a bearer may present.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// A token, parsed.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
}

/// The parts of a header that count.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
}

impl Unverified {
    pub(super) fn parse(token: &str) -> Result<Self, TokenError> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("it has not three parts"));
        };
        Ok(Self { header: Header::of(&object(header)?)?, claims: object(claims)? })
    }
}

impl Header {
    fn of(fields: &Map<String, Value>) -> Result<Self, TokenError> {
        if fields.contains_key("crit") {
            return Err(TokenError::Malformed("it needs an extension that is not known here"));
        }
        if BRINGS_KEYS.iter().any(|field| fields.contains_key(*field)) {
            return Err(TokenError::Malformed("it brings its own key"));
        }
        let text = |name| match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenError::Malformed("its header holds a value that is no text")),
        };
        if text("typ")?.is_some_and(|typ| !TYPES.contains(&typ.to_ascii_lowercase().as_str())) {
            return Err(TokenError::Malformed("it is a token of another type"));
        }
        let alg = text("alg")?.ok_or(TokenError::Malformed("it names no algorithm"))?;
        Ok(Self { alg, kid: text("kid")? })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("a part is not base64url"))?;
    match serde_json::from_slice(&bytes) {
        Ok(Unique(Value::Object(object))) => Ok(object),
        Ok(_) => Err(TokenError::Malformed("a part is no JSON object")),
        Err(_) => Err(TokenError::Malformed("a part is not JSON, or says a thing twice")),
    }
}

/// JSON in which no object has a name twice: parsers differ in which of two they believe.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a repeated name")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = fields.next_entry::<String, Unique>()? {
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("a name is there twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn what_it_says_is_read() {
        let parsed =
            Unverified::parse(&token(r#"{"alg":"RS256","kid":"1"}"#, r#"{"iss":"i","n":[1,{}]}"#));

        let Unverified { header, claims } = parsed.unwrap();
        assert_eq!((header.alg.as_str(), header.kid.as_deref()), ("RS256", Some("1")));
        assert_eq!(Value::Object(claims), serde_json::json!({"iss": "i", "n": [1, {}]}));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused_at_any_depth() {
        let header = r#"{"alg":"RS256"}"#;
        for claims in [r#"{"a":1,"a":1}"#, r#"{"o":{"a":1,"a":2}}"#, r#"{"l":[{"a":1,"a":2}]}"#] {
            assert!(Unverified::parse(&token(header, claims)).is_err(), "{claims}");
        }
        assert!(Unverified::parse(&token(r#"{"alg":"RS256","alg":"none"}"#, "{}")).is_err());
    }

    #[test]
    fn a_header_that_brings_a_key_or_an_extension_is_refused() {
        for field in [
            r#""jku":"https://evil/keys""#,
            r#""x5u":"https://evil/cert""#,
            r#""jwk":{"kty":"oct","k":"eA"}"#,
            r#""crit":["b64"],"b64":false"#,
            r#""typ":"logout+jwt""#,
            r#""kid":7"#,
        ] {
            let header = format!(r#"{{"alg":"RS256",{field}}}"#);
            assert!(Unverified::parse(&token(&header, "{}")).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", header in ".{0,80}", claims in ".{0,80}") {
            _ = Unverified::parse(&text);
            _ = Unverified::parse(&token(&header, &claims));
        }
    }
}
