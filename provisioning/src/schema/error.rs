//! [`SchemaError`]: what keeps migrations from being applied, in which file and in which line.

use std::borrow::Cow;
use std::path::PathBuf;

use thiserror::Error;
use tokio_postgres::error::SqlState;

use super::blockers::Blocker;
use crate::error::{Cause, Error};

/// Why migrations could not be loaded or applied.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// The directory of the migration files cannot be read.
    #[error("the migrations in {} cannot be read", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what a migration must be.
    #[error("the migration file {file} {problem}")]
    File {
        /// The file's name.
        file: String,
        /// What is wrong, as the end of a sentence.
        problem: String,
    },
    /// A file was changed after it had been applied.
    #[error("the migration file {file} was changed after it had been applied")]
    Edited {
        /// The file's name.
        file: String,
    },
    /// A migration was applied that the set does not have.
    #[error(
        "the database has version {version} ({name}){}, but there is no such migration file",
        of_track(track.as_deref())
    )]
    MissingFile {
        /// The version that was applied.
        version: i64,
        /// Its name.
        name: String,
        /// The track that it is a version of; none where every database gets it.
        track: Option<String>,
    },
    /// There are no files of a track.
    #[error("there is no track {track}; there {}", listed_tracks(known))]
    NoTrack {
        /// The track.
        track: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The files of a track are not what migrations must be.
    #[error("the track {track} cannot be used: {problem}")]
    BrokenTrack {
        /// The track.
        track: String,
        /// What is wrong.
        problem: String,
    },
    /// A database has files of one track, and should get those of another one, or of none.
    #[error("the database has files of track {held}, and its tenant is in {}", named_track(wanted.as_deref()))]
    OtherTrack {
        /// The track that it has files of.
        held: String,
        /// The track that it should be in.
        wanted: Option<String>,
    },
    /// A file was added below the newest one applied.
    #[error("the migration file {file} is new, but the database is at version {newest} already")]
    OutOfOrder {
        /// The file's name.
        file: String,
        /// The newest version applied.
        newest: i64,
    },
    /// The history of the database cannot be understood.
    #[error("the migration history of the database is damaged: {0}")]
    History(String),
    /// A database that was to be adopted has a history.
    #[error("the database has a migration history already: it is at version {version}")]
    HasHistory {
        /// Its newest version.
        version: i64,
    },
    /// Another run holds the database's migration lock.
    #[error("another migration of this database is running")]
    Busy,
    /// A file did not get its locks in time, however often it tried; it left no trace.
    #[error(
        "the migration {} was refused a lock {tries} times: {source}{}",
        place(file, *line),
        listed(blockers)
    )]
    Blocked {
        /// The file's name.
        file: String,
        /// The line in it, counted from 1, where PostgreSQL names one.
        line: Option<usize>,
        /// How often it was tried.
        tries: u32,
        /// Who held the lock at the end; may be empty if that could not be seen.
        blockers: Vec<Blocker>,
        /// What PostgreSQL said.
        source: Cause,
    },
    /// An earlier run was cut while this statement ran, and it leaves nothing to look for.
    #[error(
        "statement {number} of the migration {file}:{line} was running when an earlier run was cut, and \
         nobody can tell whether it was done: `{statement}`"
    )]
    InDoubt {
        /// The file's name.
        file: String,
        /// The line in it, counted from 1.
        line: usize,
        /// Which statement of the file, counted from 1.
        number: i32,
        /// Its beginning.
        statement: String,
    },
    /// A file ended its transaction by itself, and an earlier run came no further than somewhere after that.
    #[error(
        "the migration {file} ends its transaction by itself, and an earlier run stopped after that: \
         nobody can tell how much of it was done"
    )]
    HalfDone {
        /// The file's name.
        file: String,
    },
    /// A statement failed; its file left no trace, the files before it are applied.
    #[error("the migration {} failed: {source}", place(file, *line))]
    Failed {
        /// The file's name.
        file: String,
        /// The line in it, counted from 1, where PostgreSQL names one.
        line: Option<usize>,
        /// What PostgreSQL said.
        source: Cause,
    },
    /// The run was ended from inside: a defect, or the end of the process.
    #[error("the migration run was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
    /// The server did not let us get so far.
    #[error(transparent)]
    Server(#[from] Error),
}

impl SchemaError {
    /// The migration lock could not be had.
    pub(super) fn not_locked(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            Self::Busy
        } else {
            Error::from(error).into()
        }
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy | Self::Blocked { .. } => true,
            Self::Failed { source, .. } => source.is_transient(),
            Self::Server(error) => error.is_transient(),
            Self::Interrupted(cause) => cause.is_cancelled(),
            Self::Directory { .. }
            | Self::File { .. }
            | Self::Edited { .. }
            | Self::MissingFile { .. }
            | Self::NoTrack { .. }
            | Self::BrokenTrack { .. }
            | Self::OtherTrack { .. }
            | Self::OutOfOrder { .. }
            | Self::InDoubt { .. }
            | Self::HalfDone { .. }
            | Self::HasHistory { .. }
            | Self::History(_) => false,
        }
    }

    /// What the operator should do.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'static, str>> {
        let text = match self {
            Self::Directory { .. } => "check TENANTRY_TENANT_MIGRATIONS_DIR",
            Self::File { .. } => "fix the file or move it out of the directory",
            Self::Edited { .. } => {
                "put the file back as it was (mind line ends), and what is new into a file with the next number"
            }
            Self::MissingFile { .. } => {
                "put the file back; if a newer release applied it, use that release's migrations"
            }
            Self::NoTrack { track, .. } => {
                return Some(
                    format!("put the folder tracks/{track} into TENANTRY_TENANT_MIGRATIONS_DIR")
                        .into(),
                );
            }
            Self::BrokenTrack { track, .. } => {
                return Some(
                    format!("fix tracks/{track} in TENANTRY_TENANT_MIGRATIONS_DIR").into(),
                );
            }
            Self::OtherTrack { held, .. } => {
                return Some(
                    format!("`tenantry tenant set-track SLUG {held}` puts it there").into(),
                );
            }
            Self::OutOfOrder { newest, .. } => {
                return Some(format!("give the file a number above {newest}").into());
            }
            Self::History(_) => {
                "compare tenantry.schema_history with a healthy tenant's, and fix it by hand"
            }
            Self::HasHistory { .. } => {
                "there is nothing to adopt: `tenantry migrate verify` compares it with the files"
            }
            Self::Busy => "wait for the other run to end",
            Self::Blocked { .. } => {
                "let that transaction end, or end it with pg_terminate_backend; the migration is tried again"
            }
            Self::InDoubt { file, number, .. } => {
                return Some(in_doubt_remedy(file, *number).into());
            }
            Self::HalfDone { file } => return Some(half_done_remedy(file).into()),
            Self::Failed { source, .. } => failed_remedy(source),
            Self::Interrupted(_) => "run it again; if it ends in the same way, report it",
            Self::Server(error) => return error.remedy(),
        };
        Some(text.into())
    }
}

fn in_doubt_remedy(file: &str, number: i32) -> String {
    let row = format!("where file = '{file}' and number = {number}");
    format!(
        "look in the tenant's database. If it was done, run `update tenantry.schema_statements set \
         ended_at = now() {row}`; if not, `delete from tenantry.schema_statements {row}`. Then retry. A \
         comment `-- tenantry: may-repeat` above a statement says that it may be run again"
    )
}

fn half_done_remedy(file: &str) -> String {
    let row = format!("where file = '{file}' and number = 0");
    format!(
        "look in the tenant's database, and finish the file by hand; then run `update \
         tenantry.schema_statements set ended_at = now() {row}`. Or undo what was done of it, and `delete \
         from tenantry.schema_statements {row}`. Then retry. Without `commit` in it a file is done or not"
    )
}

/// The class of errors about rows that a constraint forbids.
const INTEGRITY: &str = "23";

fn failed_remedy(cause: &Cause) -> &'static str {
    match cause.sql_state().map(SqlState::code) {
        Some("57014") => {
            "the statement ran into the statement timeout: raise it, or do less in one file"
        }
        Some("53100") => "free disk space on the server, then run it again",
        Some("25001") => {
            "a migration file runs in a transaction, and this statement cannot: give it a file with \
             `-- tenantry: no-transaction` in its first line"
        }
        Some("42501") => {
            "migrations run as tenantry_owner, which may not do this: a superuser has to"
        }
        Some(code) if code.starts_with(INTEGRITY) => {
            "rows are in the way: fix them, then run it again; or fix the file, if no tenant has it yet"
        }
        _ => "fix the file, if no tenant has it yet, then run it again",
    }
}

fn listed(blockers: &[Blocker]) -> String {
    blockers.iter().fold(String::new(), |text, blocker| format!("{text}. In the way: {blocker}"))
}

fn of_track(track: Option<&str>) -> String {
    track.map_or_else(String::new, |track| format!(" of track {track}"))
}

fn named_track(track: Option<&str>) -> String {
    track.map_or_else(|| "no track".to_owned(), |track| format!("track {track}"))
}

fn listed_tracks(known: &[String]) -> String {
    match known {
        [] => "are no tracks at all".to_owned(),
        [one] => format!("is {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

fn place(file: &str, line: Option<usize>) -> String {
    line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"))
}
