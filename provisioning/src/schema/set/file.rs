//! One migration file, read: what its name says, and whether it can be run at all.

use aws_lc_rs::digest::{SHA256, digest};

use super::super::SchemaError;
use super::super::statement::{Manner, copy_by_client, is_directive, split};
use super::{MigrationFile, RepeatableFile};

/// In the first line of a file: its statements run one by one, each by itself.
const NO_TRANSACTION: &str = "no-transaction";

/// What some editors put in front of a file; to PostgreSQL it is a word.
const BOM: char = '\u{feff}';

pub(super) fn parse(file: &str, sql: &str) -> Result<MigrationFile, SchemaError> {
    let refused =
        |problem: &str| SchemaError::File { file: file.to_owned(), problem: problem.to_owned() };
    let misnamed =
        || refused("is not named V<number>__<name>.sql, with a-z, 0-9 and _ in the name");

    let stem = bare(file).strip_suffix(".sql").and_then(|stem| stem.strip_prefix('V'));
    let stem = stem.ok_or_else(misnamed)?;
    let (version, name) = stem.split_once("__").ok_or_else(misnamed)?;
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) || !is_word(name) {
        return Err(misnamed());
    }
    let version = version.parse().map_err(|_| refused("has a version that is too large"))?;
    if version == 0 {
        return Err(refused("has version 0, which stands for a database without any"));
    }
    let in_transaction = check_content(file, sql)?;
    let sha256 = hex::encode(digest(&SHA256, sql.as_bytes()));
    Ok(MigrationFile {
        version,
        name: name.to_owned(),
        file: file.to_owned(),
        sha256,
        in_transaction,
    })
}

pub(super) fn parse_repeatable(file: String, sql: String) -> Result<RepeatableFile, SchemaError> {
    let name = bare(&file).strip_prefix("R__").and_then(|stem| stem.strip_suffix(".sql"));
    let Some(name) = name.filter(|name| is_word(name)).map(str::to_owned) else {
        let problem = "is not named R__<name>.sql, with a-z, 0-9 and _ in the name".to_owned();
        return Err(SchemaError::File { file, problem });
    };
    let in_transaction = check_content(&file, &sql)?;
    let sha256 = hex::encode(digest(&SHA256, sql.as_bytes()));
    Ok(RepeatableFile { name, file, sha256, in_transaction, sql })
}

/// The name of a file without the folder of its track.
pub(super) fn bare(file: &str) -> &str {
    file.rsplit_once('/').map_or(file, |(_, name)| name)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a file that can be run at all is to run in one transaction.
fn check_content(file: &str, sql: &str) -> Result<bool, SchemaError> {
    let refused = |problem: String| SchemaError::File { file: file.to_owned(), problem };
    if sql.trim().is_empty() {
        return Err(refused("is empty".to_owned()));
    }
    if sql.starts_with(BOM) {
        return Err(refused("begins with a byte order mark, which is no SQL".to_owned()));
    }
    if sql.contains('\0') {
        return Err(refused("holds a NUL byte".to_owned()));
    }
    if let Some(line) = copy_by_client(sql) {
        let problem =
            "copies rows from stdin or to stdout, where nobody is: write them as `insert`";
        return Err(refused(format!("{problem} (line {line})")));
    }
    if !sql.lines().next().is_some_and(|line| is_directive(line, NO_TRANSACTION)) {
        return Ok(true);
    }
    for statement in split(sql) {
        let problem = match statement.manner() {
            Manner::Transaction => "begins or ends a transaction, and it says that it has none",
            Manner::Nameless => {
                "makes an index without a name, which could not be found again if that is cut short"
            }
            _ => continue,
        };
        return Err(refused(format!("{problem} (line {})", statement.line)));
    }
    Ok(false)
}
