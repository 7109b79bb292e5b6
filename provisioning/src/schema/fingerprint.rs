//! [`Schema`]: everything in a database that a migration can make or change, in a form that two databases
//! can be compared in.
//!
//! One thing is one statement, under a name of its own. What differs between two databases that the same
//! files made (object ids, the order of columns, how far a sequence has come) is not in it, nor are comments,
//! what extensions own, and our own schema `tenantry`. Two databases have the same fingerprint exactly when
//! there is no difference to show.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use futures_util::future;
use tokio_postgres::Client;

use crate::error::Error;

mod canonical;

use canonical::canonical;

const SCHEMA: &str = include_str!("../../sql/schema.sql");

/// PostgreSQL writes a definition according to the session's settings, and these may be set for a database
/// or a role.
const ONE_WAY: &str =
    "set search_path = ''; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
     set timezone = 'UTC'; set extra_float_digits = 1; set bytea_output = 'hex';
     set standard_conforming_strings = on; set quote_all_identifiers = off; set jit = off";

/// What one database has: statements by what they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    objects: BTreeMap<String, String>,
}

/// One thing that a database has otherwise than it should. Its `Display` is the statements, each line behind
/// a `-` (should be there) or a `+` (is there).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is about: `column public.boards.title`.
    pub object: String,
    /// The statement that is expected; none if the thing should not be there.
    pub expected: Option<String>,
    /// The statement that describes what was found; none if there is nothing.
    pub found: Option<String>,
}

impl Schema {
    /// Reads the schema of the database that the client is connected to. Leaves the session with settings of
    /// its own.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let (set, rows) =
            future::join(client.batch_execute(ONE_WAY), client.query_typed(SCHEMA, &[])).await;
        set?;
        let mut objects = BTreeMap::<String, String>::new();
        for row in rows? {
            // What is dropped at this moment has no definition any more.
            let (object, Some(statement)): (String, Option<&str>) = (row.get(0), row.get(1)) else {
                continue;
            };
            // A body is kept as it was written.
            let is_body = object.starts_with("function ") || object.starts_with("procedure ");
            let statement = if is_body { statement.to_owned() } else { canonical(statement) };
            let known = objects.entry(object).or_default();
            if !known.is_empty() {
                known.push('\n');
            }
            known.push_str(statement.trim_end());
        }
        Ok(Self { objects })
    }

    /// SHA-256 over all of it, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut all = Context::new(&SHA256);
        for (object, statement) in &self.objects {
            all.update(format!("{object}\0{statement}\0").as_bytes());
        }
        hex::encode(all.finish())
    }

    /// What `found` has otherwise than this schema, by object.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (object, expected) in &self.objects {
            let there = found.objects.get(object);
            if there != Some(expected) {
                differences.push(Difference {
                    object: object.clone(),
                    expected: Some(expected.clone()),
                    found: there.cloned(),
                });
            }
        }
        for (object, there) in &found.objects {
            if !self.objects.contains_key(object) {
                let (object, found) = (object.clone(), Some(there.clone()));
                differences.push(Difference { object, expected: None, found });
            }
        }
        differences.sort_by(|one, other| one.object.cmp(&other.object));
        differences
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |text: &Option<String>| -> Vec<String> {
            text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
        };
        let (expected, found) = (lines(&self.expected), lines(&self.found));
        // Of two long statements that differ, the head and what is not the same.
        let same = |pair: &(&String, &String)| pair.0 == pair.1;
        let head = expected.iter().zip(&found).take_while(same).count();
        let rest = (&expected[head..], &found[head..]);
        let tail = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(same).count();
        let mut written = Vec::new();
        if head > 0 {
            written.push(format!("  {}", expected[0]));
        }
        if head > 1 {
            written.push("  ...".to_owned());
        }
        written.extend(rest.0[..rest.0.len() - tail].iter().map(|line| format!("- {line}")));
        written.extend(rest.1[..rest.1.len() - tail].iter().map(|line| format!("+ {line}")));
        if tail > 0 {
            written.push("  ...".to_owned());
        }
        f.write_str(&written.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(objects: &[(&str, &str)]) -> Schema {
        let owned = |(object, statement): &(&str, &str)| ((*object).into(), (*statement).into());
        Schema { objects: objects.iter().map(owned).collect() }
    }

    #[test]
    fn two_schemas_differ_in_what_one_has_otherwise() {
        let expected = schema(&[("a", "create a"), ("b", "create b"), ("c", "create c")]);
        let found = schema(&[("b", "create b"), ("c", "create c slowly"), ("d", "create d")]);

        let differences: Vec<String> =
            expected.differences(&found).iter().map(ToString::to_string).collect();

        assert_eq!(differences, ["- create a", "- create c\n+ create c slowly", "+ create d"]);
        assert_ne!(expected.fingerprint(), found.fingerprint());
        assert_eq!(expected.differences(&expected), []);
    }

    #[test]
    fn of_a_long_statement_only_the_change_is_shown() {
        let body = |line: &str| format!("create function f()\nas $$\nbegin\n{line}\nend\n$$");
        let difference = Difference {
            object: "function f()".to_owned(),
            expected: Some(body("return 1;")),
            found: Some(body("return 2;")),
        };

        assert_eq!(
            difference.to_string(),
            "  create function f()\n  ...\n- return 1;\n+ return 2;\n  ..."
        );
    }

    #[test]
    fn a_fingerprint_tells_names_from_statements() {
        assert_ne!(schema(&[("a", "bc")]).fingerprint(), schema(&[("ab", "c")]).fingerprint());
    }
}
