//! What can be wrong with settings. No message ever holds the value of a secret.

use std::path::PathBuf;

use thiserror::Error;

/// Why the settings cannot be used: everything that is wrong with them, at least one thing.
#[derive(Debug, Error)]
#[error("{}", list(.problems))]
pub struct ConfigError {
    /// What is wrong, each with what to do about it.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Error)]
pub enum Problem {
    /// No setting has this name.
    #[error("unknown setting {place}")]
    Unknown {
        /// The name as it was written, and where.
        place: String,
        /// The known name that comes nearest, written the same way.
        nearest: Option<String>,
    },
    /// A value that its setting cannot have.
    #[error("{place}: {} is no {expected}", shown(.value.as_deref()))]
    Value {
        /// The setting, and where it was set.
        place: String,
        /// The value; none for a secret.
        value: Option<String>,
        /// What it should be.
        expected: String,
    },
    /// A secret given in two ways at once.
    #[error("both {0} and {0}_FILE are set")]
    Twice(String),
    /// The file that should hold a secret.
    #[error("{place}: {} cannot be read", path.display())]
    SecretFile {
        /// The setting, and where it was set.
        place: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings file.
    #[error("the settings file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings file is not TOML.
    #[error("the settings file {} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what the parser says; never the line itself, it may hold a secret.
        reason: String,
    },
    /// A setting without which the command cannot work.
    #[error("{place} is not set")]
    Missing {
        /// The setting.
        place: String,
        /// How to come by a value.
        remedy: &'static str,
    },
    /// Settings that contradict each other.
    #[error("{message}")]
    Contradiction {
        /// What contradicts what.
        message: String,
        /// Which of them to change.
        remedy: String,
    },
}

impl ConfigError {
    pub(super) fn one(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }

    /// What to do first.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self.problems.as_slice() {
            [only] => only.remedy(),
            _ => "`tenantry config check` says what to do about each".to_owned(),
        }
    }
}

impl Problem {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unknown { nearest: Some(nearest), .. } => format!("did you mean {nearest}?"),
            Self::Unknown { nearest: None, .. } => {
                "remove it; `tenantry config show` lists every setting".to_owned()
            }
            Self::Value { value: Some(_), .. } => {
                "correct it, or remove it to have the default".to_owned()
            }
            Self::Value { value: None, .. } => "correct it".to_owned(),
            Self::Twice(_) => "keep one of the two".to_owned(),
            Self::SecretFile { .. } | Self::Unreadable { .. } => {
                "correct the path, or make the file readable for this user".to_owned()
            }
            Self::Syntax { .. } => {
                "a line reads `key = \"value\"`, `key = 5` or `key = true`".to_owned()
            }
            Self::Missing { remedy, .. } => (*remedy).to_owned(),
            Self::Contradiction { remedy, .. } => remedy.clone(),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> =
        problems.iter().map(|problem| crate::operations::chain(problem)).collect();
    match texts.as_slice() {
        [only] => only.clone(),
        several => format!("{} settings are wrong:\n  {}", several.len(), several.join("\n  ")),
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "the value (not shown)".to_owned(), |value| format!("`{value}`"))
}
