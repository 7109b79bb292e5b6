//! [`SettingsRules`]: what the operator asks of settings beyond their types. Whatever is written passes
//! here; what is only read does not, so a stricter rule locks nobody out of their settings.

use std::fmt;
use std::sync::Arc;

use jsonschema::{ValidationError, Validator};
use serde_json::Value;
use thiserror::Error;

use super::{SettingsError, TenantSettings};

/// The operator's rules. Cheap to clone.
#[derive(Clone, Default)]
pub struct SettingsRules {
    /// What `compliance` must be, where there is one.
    compliance: Option<Arc<Validator>>,
}

/// Why a text is no JSON Schema.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// It is not even JSON.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// It is JSON, but no schema that stands alone.
    #[error("it is no JSON Schema that stands alone")]
    Schema(#[source] Box<ValidationError<'static>>),
}

impl SettingsRules {
    /// Rules with a JSON Schema for `compliance`. It must stand alone: no file and no address that it
    /// names is read.
    pub fn with_compliance_schema(text: &str) -> Result<Self, SchemaError> {
        let schema: Value = serde_json::from_str(text).map_err(SchemaError::Json)?;
        let validator = jsonschema::options()
            .offline()
            .build(&schema)
            .map_err(|error| SchemaError::Schema(Box::new(error)))?;
        Ok(Self { compliance: Some(Arc::new(validator)) })
    }

    /// Reads settings that somebody sends.
    pub fn parse(&self, value: Value) -> Result<TenantSettings, SettingsError> {
        let settings = TenantSettings::parse(value)?;
        self.check_compliance(&settings)?;
        Ok(settings)
    }

    /// Settings after a change. What was there before the schema, and is left as it was, stays.
    pub fn change(
        &self,
        before: &TenantSettings,
        change: impl FnOnce(&mut Value) -> Result<(), SettingsError>,
    ) -> Result<TenantSettings, SettingsError> {
        let mut value = before.to_value();
        change(&mut value)?;
        let after = TenantSettings::parse(value)?;
        if after.compliance != before.compliance {
            self.check_compliance(&after)?;
        }
        Ok(after)
    }

    fn check_compliance(&self, settings: &TenantSettings) -> Result<(), SettingsError> {
        let (Some(schema), Some(compliance)) = (&self.compliance, &settings.compliance) else {
            return Ok(());
        };
        schema.validate(&Value::Object(compliance.clone())).map_err(|error| {
            let inside = error.instance_path().as_str().replace('/', ".");
            // The value stays out of the error.
            SettingsError::wrong(format!("compliance{inside}"), error.masked().to_string())
        })
    }
}

impl fmt::Debug for SettingsRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsRules").field("compliance", &self.compliance.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SCHEMA: &str = r#"{
        "type": "object",
        "properties": { "region": { "enum": ["eu", "us"] }, "retention_days": { "type": "integer" } },
        "required": ["region"]
    }"#;

    fn rules() -> SettingsRules {
        SettingsRules::with_compliance_schema(SCHEMA).unwrap()
    }

    #[test]
    fn compliance_is_what_the_operator_says() {
        for good in [json!({}), json!({ "compliance": { "region": "eu", "more": 1 } })] {
            assert!(rules().parse(good.clone()).is_ok(), "{good}");
        }
        for (bad, path) in [
            (json!({ "compliance": {} }), "`compliance`"),
            (json!({ "compliance": { "region": "mars" } }), "`compliance.region`"),
            (
                json!({ "compliance": { "region": "eu", "retention_days": "x" } }),
                "`compliance.retention_days`",
            ),
        ] {
            let error = rules().parse(bad.clone()).unwrap_err().to_string();
            assert!(error.starts_with(path) && !error.contains("mars"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_new_schema_locks_nobody_out() {
        let before = TenantSettings::parse(json!({ "compliance": { "region": "mars" } })).unwrap();
        let change = |path: &'static str, new: Value| {
            rules().change(&before, |settings| {
                path.parse::<super::super::SettingsPath>().unwrap().set(settings, new)
            })
        };

        assert!(change("limits.connections", json!(5)).is_ok());
        assert!(change("compliance.region", json!("eu")).is_ok());
        assert!(change("compliance.region", json!("venus")).is_err());
    }

    #[test]
    fn a_schema_stands_alone() {
        for bad in [
            "",
            "{",
            r#"{"type": 5}"#,
            r#"{"$ref": "http://127.0.0.1:1/schema"}"#,
            r#"{"$ref": "file:///etc/passwd"}"#,
            r#"{"pattern": "("}"#,
        ] {
            assert!(SettingsRules::with_compliance_schema(bad).is_err(), "{bad}");
        }
        let inside = r##"{"$ref": "#/$defs/x", "$defs": {"x": {"type": "object"}}}"##;
        assert!(SettingsRules::with_compliance_schema(inside).is_ok());
    }
}
