//! [`TenantSettings`]: what is kept about one tenant, in sections that somebody reads and one that is the
//! application's own. Pure.
//!
//! Invariants: the sections are read, checked and named in one way wherever they come from; what
//! [`TenantSettings::parse`] takes can be stored by PostgreSQL and reads back as the same settings. A row
//! that an older version wrote is never refused: what has no place in it any more moves under
//! `application`, where the application finds it.
//!
//! Must never: hold a secret. Whoever may see the tenant may see its settings.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use utoipa::ToSchema;

mod backup;
mod field;
mod fleet;
mod limits;
mod path;
mod rules;
mod section;

pub use backup::{BackupPolicy, Goal};
pub use fleet::FleetSettings;
use limits::Timeout;
pub use limits::{EffectiveLimits, InForce, LimitSource, Limits};
pub use path::SettingsPath;
pub use rules::{SchemaError, SettingsRules};

/// The names of the sections.
const SECTIONS: [&str; 8] =
    ["branding", "compliance", "sso", "limits", "backup", "encryption", "fleet", APPLICATION];
const APPLICATION: &str = "application";

/// Most bytes of all settings of one tenant, as JSON.
const MAX_BYTES: usize = 64 * 1024;
/// How deep values may lie in each other: far less than what any reader of JSON takes.
const MAX_DEPTH: usize = 32;
/// Most characters of a text of others that an error repeats.
const MAX_SHOWN: usize = 200;

/// The settings of one tenant. Every section may be missing; large ones are boxed, for a router holds the
/// settings of thousands, and most of them are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSettings {
    /// How the tenant looks; public.
    #[serde(skip_serializing_if = "Option::is_none")]
    branding: Option<Box<Branding>>,
    /// What the tenant is bound to, in the form that the operator's JSON Schema gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    compliance: Option<Map<String, Value>>,
    /// The tenant's own identity provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    sso: Option<Box<Sso>>,
    /// What keeps this tenant from hurting its neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    /// How it is backed up, where its tier and the fleet are not to decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<Box<BackupPolicy>>,
    /// To which keys of its own its backups are encrypted too.
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<EncryptionSettings>,
    /// Where it belongs in the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<Box<FleetSettings>>,
    /// What the application itself keeps, in any form.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    application: Option<Map<String, Value>>,
}

/// How a tenant looks. Anybody who may name the tenant may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Branding {
    /// An https address, at most 2000 bytes.
    #[serde(
        default,
        deserialize_with = "field::logo_url",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(format = "uri", max_length = 2000, example = "https://acme.com/logo.svg")]
    logo_url: Option<String>,
    /// `#rrggbb`.
    #[serde(default, deserialize_with = "field::color", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^#[0-9a-fA-F]{6}$", example = "#1a2b3c")]
    primary_color: Option<String>,
    /// `#rrggbb`.
    #[serde(default, deserialize_with = "field::color", skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^#[0-9a-fA-F]{6}$", example = "#1a2b3c")]
    secondary_color: Option<String>,
    /// 1 to 200 characters, no control characters.
    #[serde(
        default,
        deserialize_with = "field::display_name",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(min_length = 1, max_length = 200, example = "Acme Corporation")]
    display_name: Option<String>,
}

/// A tenant's own identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sso {
    /// The `iss` of its tokens, byte by byte: https, or http on this machine.
    #[serde(deserialize_with = "field::issuer")]
    #[schema(format = "uri", max_length = 2000, example = "https://sso.acme.com")]
    issuer: String,
    /// Whom its tokens must be meant for: a list, or one text.
    #[serde(default, deserialize_with = "field::audience", skip_serializing_if = "Vec::is_empty")]
    audience: Vec<String>,
}

/// To which keys of its own a tenant's backups are encrypted too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptionSettings {
    /// The tenant's own public key, in age's form: its backups are encrypted to it too.
    #[serde(
        default,
        deserialize_with = "field::recipient",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(example = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")]
    recipient: Option<String>,
}

/// Why settings cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// Something else than an object.
    #[error("settings are a JSON object, with {}", SECTIONS.join(", "))]
    NoObject,
    /// One value is not what it must be.
    #[error("`{path}`: {reason}")]
    Wrong {
        /// Where it stands, as `branding.primary_color`.
        path: String,
        /// What it must be.
        reason: String,
    },
    /// All of it together.
    #[error("settings have at most {MAX_BYTES} bytes of JSON, these have {0}")]
    TooLong(usize),
}

impl TenantSettings {
    /// Reads settings that somebody sends.
    pub fn parse(value: Value) -> Result<Self, SettingsError> {
        check_storable(&value, &mut Vec::new())?;
        let length = value.to_string().len();
        if length > MAX_BYTES {
            return Err(SettingsError::TooLong(length));
        }
        read(value)
    }

    /// Reads settings that some version of this program has stored. What this one does not know, or
    /// would not take, is found under `application`; the next change writes it back there.
    #[must_use]
    pub fn stored(value: Value) -> Self {
        read(value.clone()).unwrap_or_else(|_| salvage(value))
    }

    /// As JSON, in the form that [`TenantSettings::parse`] reads.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("settings are plain data")
    }

    /// How the tenant looks.
    #[must_use]
    pub fn branding(&self) -> Option<&Branding> {
        self.branding.as_deref()
    }

    /// What the tenant is bound to.
    #[must_use]
    pub fn compliance(&self) -> Option<&Map<String, Value>> {
        self.compliance.as_ref()
    }

    /// The tenant's own identity provider.
    #[must_use]
    pub fn sso(&self) -> Option<&Sso> {
        self.sso.as_deref()
    }

    /// What the tenant may use.
    #[must_use]
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// How it is backed up.
    #[must_use]
    pub fn backup(&self) -> Option<&BackupPolicy> {
        self.backup.as_deref()
    }

    /// To which keys of its own its backups are encrypted too.
    #[must_use]
    pub fn encryption(&self) -> Option<&EncryptionSettings> {
        self.encryption.as_ref()
    }

    /// Where it belongs in the fleet.
    #[must_use]
    pub fn fleet(&self) -> Option<&FleetSettings> {
        self.fleet.as_deref()
    }

    /// Where it belongs in the fleet, where that is said apart from the rest.
    pub fn set_fleet(&mut self, fleet: FleetSettings) {
        self.fleet = (fleet != FleetSettings::default()).then(|| Box::new(fleet));
    }

    /// What a clone of the tenant has of them: neither its identity provider, as whoever may enter the one may not
    /// enter the other, nor its legal hold.
    #[must_use]
    pub fn for_clone(&self) -> Self {
        let mut settings = Self { sso: None, ..self.clone() };
        if let Some(backup) = &mut settings.backup {
            backup.legal_hold = None;
        }
        settings
    }

    /// What the application itself keeps.
    #[must_use]
    pub fn application(&self) -> Option<&Map<String, Value>> {
        self.application.as_ref()
    }
}

impl Branding {
    /// An https address.
    #[must_use]
    pub fn logo_url(&self) -> Option<&str> {
        self.logo_url.as_deref()
    }

    /// `#rrggbb`.
    #[must_use]
    pub fn primary_color(&self) -> Option<&str> {
        self.primary_color.as_deref()
    }

    /// `#rrggbb`.
    #[must_use]
    pub fn secondary_color(&self) -> Option<&str> {
        self.secondary_color.as_deref()
    }

    /// The name that people see.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.display_name.as_deref()
    }
}

impl Sso {
    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom its tokens must be meant for; empty when nobody said.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }
}

impl EncryptionSettings {
    /// The tenant's own public key.
    #[must_use]
    pub fn recipient(&self) -> Option<&str> {
        self.recipient.as_deref()
    }
}

impl SettingsError {
    fn wrong(path: impl AsRef<str>, reason: impl AsRef<str>) -> Self {
        Self::Wrong { path: shown(path.as_ref()), reason: shown(reason.as_ref()) }
    }
}

/// Reads the sections, each of which is an object; serde would also take a list of its fields.
fn read(value: Value) -> Result<TenantSettings, SettingsError> {
    let sections = value.as_object().ok_or(SettingsError::NoObject)?;
    for name in SECTIONS {
        if sections.get(name).is_some_and(|section| !section.is_object() && !section.is_null()) {
            return Err(SettingsError::wrong(name, "expected a JSON object"));
        }
    }
    serde_path_to_error::deserialize(value)
        .map_err(|error| SettingsError::wrong(error.path().to_string(), error.inner().to_string()))
}

/// Keeps each section that can be read, and moves everything else under `application`.
fn salvage(value: Value) -> TenantSettings {
    let Value::Object(stored) = value else {
        return salvage(Value::Object(Map::from_iter([("settings".to_owned(), value)])));
    };
    let (mut kept, mut moved) = (Map::new(), Map::new());
    for (name, value) in stored {
        let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
        let place = if read(alone).is_ok() { &mut kept } else { &mut moved };
        place.insert(name, value);
    }
    let application = kept.entry(APPLICATION).or_insert(Value::Null);
    if application.is_null() {
        *application = Value::Object(Map::new());
    }
    let application = application.as_object_mut().expect("it was read, or is new");
    for (mut name, value) in moved {
        while application.contains_key(&name) {
            name.push('_');
        }
        application.insert(name, value);
    }
    read(Value::Object(kept)).expect("each section was read alone")
}

/// Refuses what PostgreSQL cannot store, or what another reader of JSON would not take.
fn check_storable<'a>(value: &'a Value, path: &mut Vec<&'a str>) -> Result<(), SettingsError> {
    let refused = |path: &[&str], reason: &str| {
        let path = if path.is_empty() { "settings".to_owned() } else { path.join(".") };
        Err(SettingsError::wrong(path, reason))
    };
    let nul = "expected text without a NUL character, which PostgreSQL cannot store";
    if path.len() > MAX_DEPTH {
        let reason = format!("expected at most {MAX_DEPTH} levels of objects and lists");
        return refused(&path[..1], &reason);
    }
    match value {
        Value::String(text) if text.contains('\0') => refused(path, nul),
        Value::Array(list) => list.iter().try_for_each(|inner| {
            path.push("[]");
            check_storable(inner, path)?;
            path.pop();
            Ok(())
        }),
        Value::Object(fields) => fields.iter().try_for_each(|(name, inner)| {
            if name.contains('\0') {
                return refused(path, nul);
            }
            path.push(name);
            check_storable(inner, path)?;
            path.pop();
            Ok(())
        }),
        _ => Ok(()),
    }
}

/// A text of somebody else's, short enough for an error.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
