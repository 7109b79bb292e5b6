//! Reads gathered texts as typed values, and remembers what could not be read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::Settings;
use super::error::{ConfigError, Problem};
use super::key::{self, KEYS};
use super::source::{Gathered, Origin};
use super::value::Value;

/// One setting with its value and where that comes from.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The setting.
    pub key: &'static key::Key,
    /// Its value; of a secret, whether it is set.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
    /// The file that holds it, of a secret that is given as one.
    pub file: Option<PathBuf>,
}

pub(super) struct Reader {
    gathered: Gathered,
}

impl Reader {
    pub fn new(gathered: Gathered) -> Self {
        Self { gathered }
    }

    /// The value of a setting; `None` when nobody set it, or when it cannot be read.
    pub fn get<T: Value>(&mut self, name: &'static str) -> Option<T> {
        let key = key::find(name).expect("only names of the table are asked for");
        let given = self.gathered.values.get(name)?;
        let text = given.text.expose_secret();
        match T::read(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.gathered.problems.push(Problem::Value {
                    place: given.origin.place(name),
                    value: (!key.secret).then(|| text.to_owned()),
                    expected: expected.unwrap_or_else(|| T::EXPECTED.to_owned()),
                });
                None
            }
        }
    }

    /// Whether anybody set it.
    pub fn is_set(&self, name: &'static str) -> bool {
        self.gathered.values.contains_key(name)
    }

    /// The value of a setting that another one needs.
    pub fn require<T: Value>(&mut self, name: &'static str, remedy: &'static str) -> Option<T> {
        if !self.is_set(name) {
            let place = key::variable(name);
            self.problem(Problem::Missing { place, remedy });
        }
        self.get(name)
    }

    /// The identity providers of the settings file.
    pub fn take_providers(&mut self) -> Vec<BTreeMap<String, SecretString>> {
        std::mem::take(&mut self.gathered.providers)
    }

    /// Adds to what is wrong.
    pub fn problem(&mut self, problem: Problem) {
        self.gathered.problems.push(problem);
    }

    /// Every setting as it was given.
    pub fn explain(&self) -> Vec<Explained> {
        let explain = |key: &'static key::Key| {
            let given = self.gathered.values.get(key.name);
            let value = match given {
                Some(_) if key.secret => "set".to_owned(),
                Some(given) => given.text.expose_secret().to_owned(),
                None if key.default.is_empty() => "not set".to_owned(),
                None => key.default.to_owned(),
            };
            let origin = given.map_or(Origin::Default, |given| given.origin.clone());
            let file = given.and_then(|given| given.file.clone());
            Explained { key, value, origin, file }
        };
        KEYS.iter().map(explain).collect()
    }

    /// The settings, unless anything is wrong with them.
    pub fn finish(mut self, settings: Settings) -> Result<Settings, ConfigError> {
        if !settings.multi_tenant_mode && settings.tenant_slug.is_none() {
            self.gathered.problems.push(Problem::Missing {
                place: key::variable("tenant_slug"),
                remedy: "with TENANTRY_MULTI_TENANT_MODE=false, it names the one tenant",
            });
        }
        if settings.s3_access_key_id.is_some() != settings.s3_secret_access_key.is_some() {
            self.gathered.problems.push(Problem::Contradiction {
                message:
                    "of TENANTRY_S3_ACCESS_KEY_ID and TENANTRY_S3_SECRET_ACCESS_KEY only one is set"
                        .to_owned(),
                remedy: "set both, or neither to use the AWS chain".to_owned(),
            });
        }
        if settings.listen == settings.admin_listen && settings.listen.port() != 0 {
            self.gathered.problems.push(Problem::Contradiction {
                message: format!(
                    "the data plane and the admin API cannot both listen on {}",
                    settings.listen
                ),
                remedy: "give TENANTRY_LISTEN or TENANTRY_ADMIN_LISTEN another port".to_owned(),
            });
        }
        if self.gathered.problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError { problems: self.gathered.problems })
        }
    }
}
