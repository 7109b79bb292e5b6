//! Gathers what was set, from the settings file, the environment and the flags, the later winning;
//! refuses names that no setting has. What comes out is text with its origin, not yet read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::config::{FileFormat, Source as _, ValueKind};
use secrecy::SecretString;

use super::error::Problem;
use super::key::{self, CONFIG_VARIABLE, Key, PREFIX};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The settings file.
    File(PathBuf),
    /// The environment.
    Environment,
    /// A flag of the command.
    Flag,
}

/// A value as it was written.
pub(super) struct Given {
    /// Kept as a secret until the table of settings says that it is none.
    pub text: SecretString,
    pub origin: Origin,
    /// The file that holds it, of a secret that is given as one.
    pub file: Option<PathBuf>,
}

/// Everything that was set.
#[derive(Default)]
pub(super) struct Gathered {
    pub values: BTreeMap<&'static str, Given>,
    /// The tables `[[auth.provider]]` of the settings file; lists are joined by commas.
    pub providers: Vec<BTreeMap<String, SecretString>>,
    pub problems: Vec<Problem>,
}

impl Origin {
    /// The setting as somebody who wants to change it must write it.
    pub(super) fn place(&self, name: &str) -> String {
        match self {
            Self::File(path) => format!("`{name}` in {}", path.display()),
            Self::Flag => format!("--{}", name.replace('_', "-")),
            Self::Environment | Self::Default => key::variable(name),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

impl Gathered {
    /// Takes in the settings file.
    pub fn file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => {
                return self.problems.push(Problem::Unreadable { path: path.to_owned(), source });
            }
        };
        let table = match ::config::File::from_str(&text, FileFormat::Toml).collect() {
            Ok(table) => table,
            Err(error) => {
                let reason = syntax_reason(&error);
                return self.problems.push(Problem::Syntax { path: path.to_owned(), reason });
            }
        };
        let origin = Origin::File(path.to_owned());
        let mut written = Vec::new();
        for (name, value) in table {
            let place = origin.place(&name);
            if name == PROVIDERS.0 {
                self.providers(place, value.kind);
                continue;
            }
            let text = match single(value.kind) {
                Some(text) => text,
                None if known(&name).is_none() => String::new(),
                None => {
                    let (value, expected) =
                        (Some("a table or list".to_owned()), "single value".to_owned());
                    self.problems.push(Problem::Value { place, value, expected });
                    continue;
                }
            };
            written.push(Written { place, name, text });
        }
        self.take(written, &origin);
    }

    /// Takes in the identity providers of the settings file.
    fn providers(&mut self, place: String, kind: ValueKind) {
        let read = || {
            let ValueKind::Table(mut auth) = kind else { return None };
            let ValueKind::Array(list) = auth.remove(PROVIDERS.1)?.kind else { return None };
            let tables: Option<Vec<_>> = list.into_iter().map(|one| texts(one.kind)).collect();
            tables.filter(|_| auth.is_empty())
        };
        match read() {
            Some(tables) => self.providers = tables,
            None => self.problems.push(Problem::Value {
                place,
                value: None,
                expected: "list of tables [[auth.provider]] with texts and lists of texts"
                    .to_owned(),
            }),
        }
    }

    /// Takes in the environment: every variable that begins with `TENANTRY_`.
    pub fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let ours: Vec<(&str, String)> = variables
            .iter()
            .filter_map(|(name, value)| {
                Some((name.to_str()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
            .collect();
        let in_kubernetes = ours.iter().any(|(name, _)| *name == "TENANTRY_SERVICE_HOST");
        let written = ours
            .into_iter()
            .filter(|(name, _)| {
                *name != CONFIG_VARIABLE && !(in_kubernetes && is_service_link(name))
            })
            .map(|(place, text)| Written { place: place.to_owned(), name: name_of(place), text })
            .collect();
        self.take(written, &Origin::Environment);
    }

    /// Takes in what flags say.
    pub fn flags(&mut self, flags: &[(&'static str, String)]) {
        let written = flags.iter().map(|(name, text)| Written {
            place: Origin::Flag.place(name),
            name: (*name).to_owned(),
            text: text.clone(),
        });
        self.take(written.collect(), &Origin::Flag);
    }

    /// Takes in one origin; its values replace those of earlier origins.
    fn take(&mut self, mut written: Vec<Written>, origin: &Origin) {
        written.sort_by(|one, other| one.name.cmp(&other.name));
        let mut seen: Vec<&'static str> = Vec::new();
        for Written { place, name, text } in written {
            let Some((key, from_file)) = known(&name) else {
                let nearest = key::nearest(&name).map(|key| match origin {
                    Origin::File(_) => format!("`{}`", key.name),
                    _ => key::variable(key.name),
                });
                self.problems.push(Problem::Unknown { place, nearest });
                continue;
            };
            if seen.contains(&key.name) {
                self.problems.push(Problem::Twice(key::variable(key.name)));
                continue;
            }
            seen.push(key.name);
            let file = from_file.then(|| PathBuf::from(&text));
            let text = if from_file { self.secret_file(place, text) } else { Some(text.into()) };
            if let Some(text) = text {
                self.values.insert(key.name, Given { text, origin: origin.clone(), file });
            }
        }
    }

    fn secret_file(&mut self, place: String, path: String) -> Option<SecretString> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).into()),
            Err(source) => {
                self.problems.push(Problem::SecretFile { place, path: path.into(), source });
                None
            }
        }
    }
}

/// Where the settings file has identity providers: `[[auth.provider]]`.
const PROVIDERS: (&str, &str) = ("auth", "provider");

fn single(kind: ValueKind) -> Option<String> {
    match kind {
        ValueKind::String(text) => Some(text),
        ValueKind::Boolean(value) => Some(value.to_string()),
        ValueKind::I64(value) => Some(value.to_string()),
        ValueKind::Float(value) => Some(value.to_string()),
        _ => None,
    }
}

/// A table of texts, and of lists of texts.
fn texts(kind: ValueKind) -> Option<BTreeMap<String, SecretString>> {
    let ValueKind::Table(table) = kind else { return None };
    let text = |kind| match kind {
        ValueKind::Array(list) => {
            let parts: Option<Vec<_>> = list.into_iter().map(|part| single(part.kind)).collect();
            parts.map(|parts| parts.join(","))
        }
        other => single(other),
    };
    table.into_iter().map(|(name, value)| Some((name, text(value.kind)?.into()))).collect()
}

/// A setting as it stands in one origin.
struct Written {
    /// How it is spelled there.
    place: String,
    name: String,
    text: String,
}

fn name_of(variable: &str) -> String {
    variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase()
}

/// The setting that a name stands for, and whether it names a file with the value.
fn known(name: &str) -> Option<(&'static Key, bool)> {
    if let Some(key) = key::find(name) {
        return Some((key, false));
    }
    let key = key::find(name.strip_suffix("_file")?)?;
    key.secret.then_some((key, true))
}

/// Whether Kubernetes made this variable, for a Service that is called `tenantry`.
fn is_service_link(name: &str) -> bool {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    name == "PORT" || name.starts_with("PORT_") || name.starts_with("SERVICE_")
}

/// Line, column and message of a syntax error. The parser would quote the line, which may be the one
/// with the password.
fn syntax_reason(error: &::config::ConfigError) -> String {
    let ::config::ConfigError::FileParse { cause, .. } = error else {
        return "it cannot be read".to_owned();
    };
    let text = cause.to_string();
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let place = lines.next().and_then(|line| line.strip_prefix("TOML parse error at "));
    match (place, lines.next_back()) {
        (Some(place), Some(message)) if !message.contains(" | ") => format!("{place}: {message}"),
        (Some(place), _) => place.to_owned(),
        (None, _) => "it cannot be parsed".to_owned(),
    }
}
