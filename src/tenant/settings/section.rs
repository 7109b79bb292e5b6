//! A section that stands by itself, as a tier has it.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::SettingsError;

/// Reads what somebody sends; what is wrong is named as in the settings of a tenant.
pub(super) fn parse<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, SettingsError> {
    if !value.is_object() {
        return Err(SettingsError::wrong(name, "expected a JSON object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            top if top == "." => name.to_owned(),
            inside => format!("{name}.{inside}"),
        };
        SettingsError::wrong(path, error.inner().to_string())
    })
}

/// Reads what some version of this program has stored, field by field: what this one does not know, or would
/// not take, is passed over.
pub(super) fn stored<T: DeserializeOwned + Default>(name: &str, value: Value) -> T {
    let Value::Object(fields) = value else { return T::default() };
    let known = fields.into_iter().filter(|(field, value)| {
        let alone = Map::from_iter([(field.clone(), value.clone())]);
        parse::<T>(name, Value::Object(alone)).is_ok()
    });
    parse(name, Value::Object(known.collect())).expect("each field was read alone")
}
