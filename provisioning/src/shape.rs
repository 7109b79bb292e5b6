//! [`Shape`]: everything that a dump of a database carries but the rows; and carrying the rows of one database into
//! another one of the same shape.
//!
//! Most of the work of dumping and restoring a small database is about what it is made of. Where the same template has
//! made both, that is there already: the other server clones it, and only the rows are missing. Whether it is so is
//! looked at, not believed. What two shapes are compared in is everything that can be compared; whatever else there
//! is in a database makes it odd, and a dump has to carry it.
//!
//! Must never: take two databases for alike that would differ in what a dump carries.

use std::collections::BTreeMap;

use futures_util::future;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::types::Type;

use crate::carry::{IN_FULL, SAME_TEXT, carry_table};
use crate::error::Error;
use crate::pace::Pace;
use crate::schema::Schema;
use crate::server::Connection;

const SHAPE: &str = include_str!("../sql/shape.sql");
/// What makes the table that notes who has loaded the sample rows.
pub const SAMPLE_DATA: &str = include_str!("../sql/sample_data.sql");
const SAMPLE_TABLE: &str = "tenantry.sample_data";

/// Larger databases are nothing for this: making their indexes anew is faster than filling them row by row.
const FEW_BYTES: i64 = 64 << 20;

/// What a database is made of.
#[derive(Debug)]
pub struct Shape {
    schema: Schema,
    /// What the schema does not say.
    same: BTreeMap<String, String>,
    /// What it has that is odd.
    odd: Option<String>,
    tables: Vec<String>,
    sequences: Vec<String>,
}

/// A clone of a template, before anybody has written to it.
#[derive(Debug)]
pub struct Blank {
    shape: Shape,
    /// The tables that have rows already: migrations write some.
    filled: Vec<String>,
}

impl Shape {
    /// Reads the shape of the database that a session is in. Leaves the session with settings of its own, and in a
    /// transaction that reads all of the database as it is at this moment.
    pub async fn read(session: &Connection) -> Result<Self, Error> {
        session.batch_execute("begin isolation level repeatable read read only").await?;
        let (schema, rows) = future::join(
            Schema::read(session),
            session.query_typed(SHAPE, &[(&FEW_BYTES, Type::INT8)]),
        )
        .await;
        let (tables, sequences) = (Vec::new(), Vec::new());
        let mut shape =
            Self { schema: schema?, same: BTreeMap::new(), odd: None, tables, sequences };
        for row in rows? {
            let (kind, object): (&str, String) = (row.get("kind"), row.get("object"));
            match kind {
                "rows" => shape.tables.push(object),
                "sequence" => shape.sequences.push(object),
                "same" => drop(shape.same.insert(object, row.get("detail"))),
                _ => shape.odd = Some(object),
            }
        }
        Ok(shape)
    }

    /// Says of something in the database that rows alone do not bring it across, or that nobody here can compare it.
    #[must_use]
    pub fn odd(&self) -> Option<&str> {
        self.odd.as_deref()
    }

    /// Something that the other one has otherwise.
    fn difference(&self, other: &Self) -> Option<String> {
        if let Some(difference) = self.schema.differences(&other.schema).into_iter().next() {
            return Some(difference.object);
        }
        let differs = |(what, how): &(&String, &String)| other.same.get(*what) != Some(how);
        let only_there = || other.same.keys().find(|what| !self.same.contains_key(*what));
        let here = self.same.iter().find(differs).map(|(what, _)| what);
        here.or_else(only_there).cloned()
    }
}

impl Blank {
    /// Looks at a clone that nobody has written to.
    pub async fn read(session: &Connection) -> Result<Self, Error> {
        let shape = Shape::read(session).await?;
        let asked = |table: &String| {
            format!("select {} where exists (select from only {table})", escape_literal(table))
        };
        let asked: Vec<String> = shape.tables.iter().map(asked).collect();
        let mut filled = Vec::new();
        if !asked.is_empty() {
            let sql = format!("-- shape::filled\n{}", asked.join(" union all "));
            filled.extend(session.query_typed(&sql, &[]).await?.iter().map(|row| row.get(0)));
        }
        session.batch_execute("rollback").await?;
        Ok(Self { shape, filled })
    }

    /// What keeps a database of this shape from being carried into a clone by its rows alone.
    #[must_use]
    pub fn obstacle(&self, shape: &Shape) -> Option<String> {
        let odd = shape.odd().map(|odd| format!("it has {odd}"));
        let ours = || Some(format!("the template has {}", self.shape.odd()?));
        let differs =
            || Some(format!("{} is not as in the template", self.shape.difference(shape)?));
        odd.or_else(ours).or_else(differs)
    }

    /// Carries all rows and the values of all sequences from a session that has read this shape into one in a clone,
    /// in one transaction there. No trigger fires, and no foreign key is looked at again: rows come across as they
    /// are. Ends the transaction that the shape was read in. Returns what is in the way, if there is something, with
    /// nothing carried.
    pub async fn fill(
        &self,
        shape: &Shape,
        from: &Connection,
        to: &Connection,
    ) -> Result<Option<String>, Error> {
        let begin = self.begin(shape);
        let alike = format!("{SAME_TEXT}; {IN_FULL}");
        future::try_join(from.batch_execute(&alike), to.batch_execute(&begin)).await?;
        let (here, there) = future::try_join(sample_table(from), sample_table(to)).await?;
        if here != there {
            return Ok(Some(format!("{SAMPLE_TABLE} is not as we make it")));
        }
        // Somebody waits for this.
        let mut pace = Pace::full();
        for table in &shape.tables {
            carry_table(table, from, to, &mut pace).await?;
        }
        let values = sequence_values(shape, from).await?;
        to.batch_execute(&format!("{values}; commit")).await?;
        from.batch_execute("commit").await?;
        Ok(None)
    }

    /// What comes before the rows.
    fn begin(&self, shape: &Shape) -> String {
        let has_sample_data =
            |shape: &Shape| shape.tables.iter().any(|table| table == SAMPLE_TABLE);
        let sample_data = if has_sample_data(shape) && !has_sample_data(&self.shape) {
            format!("set local role tenantry_owner; {SAMPLE_DATA} reset role;")
        } else {
            String::new()
        };
        let empty = |table: &String| format!("delete from only {table};");
        let empty = self.filled.iter().map(empty).collect::<Vec<_>>().concat();
        format!(
            "{SAME_TEXT}; {IN_FULL}; begin; set local session_replication_role = replica; {sample_data} {empty}"
        )
    }
}

/// What the table that notes who has loaded the sample rows is like, if there is one. It is made when it is first
/// needed, so that a template lacks it.
async fn sample_table(session: &Connection) -> Result<Option<String>, Error> {
    let sql = "-- shape::sample_table
        select concat_ws('; ', pg_get_userbyid(c.relowner), coalesce(c.relacl, acldefault('r', c.relowner)),
            (select string_agg(format('%s %s %s', attname, format_type(atttypid, atttypmod), attnotnull), ', '
                               order by attnum)
             from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
            (select string_agg(pg_get_indexdef(indexrelid), ', ' order by indexrelid::regclass::text)
             from pg_index where indrelid = c.oid),
            (select string_agg(pg_get_constraintdef(oid), ', ' order by conname)
             from pg_constraint where conrelid = c.oid))
        from pg_class c where c.oid = to_regclass('tenantry.sample_data')";
    Ok(session.query_typed(sql, &[]).await?.first().map(|row| row.get(0)))
}

/// The statement that sets every sequence to where it is.
async fn sequence_values(shape: &Shape, from: &Connection) -> Result<String, Error> {
    let asked = |sequence: &String| {
        format!(
            "select {} as sequence, last_value, is_called from {sequence}",
            escape_literal(sequence)
        )
    };
    let asked: Vec<String> = shape.sequences.iter().map(asked).collect();
    if asked.is_empty() {
        return Ok("select".to_owned());
    }
    let sql = format!("-- shape::sequence_values\n{}", asked.join(" union all "));
    let values: Vec<String> = from
        .query_typed(&sql, &[])
        .await?
        .iter()
        .map(|row| {
            let (sequence, last, called): (&str, i64, bool) = (row.get(0), row.get(1), row.get(2));
            format!("({}, {last}::bigint, {called})", escape_literal(sequence))
        })
        .collect();
    Ok(format!("select setval(s, v, c) from (values {}) as x (s, v, c)", values.join(", ")))
}
