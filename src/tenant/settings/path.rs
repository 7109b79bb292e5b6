//! [`SettingsPath`]: where one setting stands, as `sso.issuer`; and reading and changing settings there.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use thiserror::Error;

use super::SettingsError;

/// Every place that a section knows. Under `compliance` and `application` there may be any other.
const PLACES: [&str; 27] = [
    "branding",
    "branding.logo_url",
    "branding.primary_color",
    "branding.secondary_color",
    "branding.display_name",
    "compliance",
    "sso",
    "sso.issuer",
    "sso.audience",
    "limits",
    "limits.connections",
    "limits.statement_timeout",
    "limits.idle_in_transaction_timeout",
    "limits.queries_per_second",
    "backup",
    "backup.schedule",
    "backup.retention",
    "backup.goal_rpo",
    "backup.legal_hold",
    "encryption",
    "encryption.recipient",
    "fleet",
    "fleet.region",
    "fleet.tags",
    "fleet.server_tags",
    "fleet.apart_from",
    "application",
];

/// The place of one setting: names with dots between them, none of them empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsPath(String);

/// A path that no section has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no setting is at `{0}`")]
pub struct PathError(String);

impl SettingsPath {
    /// Every place with a name of its own, for those who look for the right one.
    pub const PLACES: &'static [&'static str] = &PLACES;

    /// The value there, if there is one.
    #[must_use]
    pub fn get<'a>(&self, settings: &'a Value) -> Option<&'a Value> {
        self.0.split('.').try_fold(settings, |value, name| value.get(name))
    }

    /// Puts a value there, and makes the objects on the way.
    pub fn set(&self, settings: &mut Value, new: Value) -> Result<(), SettingsError> {
        let (parent, name) = self.parent();
        let mut place = settings;
        for (end, step) in parent {
            let inner = place
                .as_object_mut()
                .map(|fields| fields.entry(step).or_insert_with(|| Value::Object(Map::new())));
            place = inner.filter(|inner| inner.is_object()).ok_or_else(|| {
                let reason = "is no JSON object, so nothing can be set in it; set it as a whole";
                SettingsError::wrong(&self.0[..end], reason)
            })?;
        }
        place.as_object_mut().ok_or(SettingsError::NoObject)?.insert(name.to_owned(), new);
        Ok(())
    }

    /// Takes away what is there, if anything is.
    pub fn unset(&self, settings: &mut Value) {
        let (mut parent, name) = self.parent();
        let place = parent.try_fold(settings, |value, (_, step)| value.get_mut(step));
        if let Some(Value::Object(fields)) = place {
            fields.remove(name);
        }
    }

    /// The names on the way, each with where it ends, and the last name.
    fn parent(&self) -> (impl Iterator<Item = (usize, &str)>, &str) {
        let (parent, name) = self.0.rsplit_once('.').unwrap_or(("", &self.0));
        let steps = parent.split('.').filter(|step| !step.is_empty());
        let mut end = 0;
        let steps = steps.map(move |step| {
            end += step.len() + usize::from(end > 0);
            (end, step)
        });
        (steps, name)
    }
}

impl FromStr for SettingsPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let section = text.split('.').next().unwrap_or_default();
        let known = PLACES.contains(&text) || matches!(section, "compliance" | "application");
        if known && text.split('.').all(|name| !name.is_empty()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PathError(text.to_owned()))
        }
    }
}

impl fmt::Display for SettingsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> SettingsPath {
        text.parse().unwrap()
    }

    #[test]
    fn only_known_places_and_free_sections_are_paths() {
        for good in ["sso", "sso.issuer", "limits.connections", "application.a.b", "compliance.x"] {
            assert!(good.parse::<SettingsPath>().is_ok(), "{good}");
        }
        for bad in
            ["", "colour", "sso.isuer", "branding.logo_url.x", "application.", ".sso", "a..b"]
        {
            assert!(bad.parse::<SettingsPath>().is_err(), "{bad}");
        }
        assert!("application..x".parse::<SettingsPath>().is_err());
    }

    #[test]
    fn a_value_is_put_read_and_taken_away() {
        let mut settings = json!({ "application": { "a": 1 } });

        path("application.deep.er").set(&mut settings, json!([2])).unwrap();
        path("sso").set(&mut settings, json!({ "issuer": "x" })).unwrap();

        assert_eq!(
            settings,
            json!({ "application": { "a": 1, "deep": { "er": [2] } }, "sso": { "issuer": "x" } })
        );
        assert_eq!(path("application.deep.er").get(&settings), Some(&json!([2])));
        assert_eq!(path("limits.connections").get(&settings), None);
        path("application.deep").unset(&mut settings);
        path("limits.connections").unset(&mut settings);
        path("sso").unset(&mut settings);
        assert_eq!(settings, json!({ "application": { "a": 1 } }));
    }

    #[test]
    fn nothing_is_put_into_what_is_no_object() {
        let mut settings = json!({ "application": { "theme": { "dark": true } } });

        let refused = path("application.theme.dark.er").set(&mut settings, json!(1)).unwrap_err();

        assert!(refused.to_string().starts_with("`application.theme.dark`: is no"), "{refused}");
    }
}
