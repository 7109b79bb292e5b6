//! Rows of `audit_chain`: the links that hold the audit log together.
//!
//! The catalog makes them as entries are written (`V31__audit_chain.sql`). Here they are made once more, from what
//! the entries say now, so that whoever altered the log, or the functions that chain it, is found out.

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::super::{Catalog, CatalogError, execute, maybe, one, rows};
use super::{Event, record};

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the first link follows.
pub const BEGINNING: Hash = [0; 32];

/// What an entry's digest begins with, and its version.
const ENTRY: &str = "tenantry audit entry 1";
/// How many links are looked at with one statement.
const PAGE: i64 = 5_000;
/// How many entries without a link are told.
const MOST: i64 = 1_000;

/// A link as it stands in the catalog, and what its entry says now.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its number; there is one for each.
    pub number: i64,
    /// The id of its entry.
    pub entry: i64,
    /// The digest of what the entry said; of any length, if somebody else wrote it.
    pub content: Vec<u8>,
    /// The digest of the link before, and of these three.
    pub hash: Vec<u8>,
    /// The entry, if it is there.
    pub found: Option<Found>,
}

/// What an entry says now.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// When.
    pub at: Timestamp,
    /// The rest.
    pub detail: Value,
    /// The digest of all of it.
    pub content: Hash,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    /// The number of the last link; zero where there is none.
    pub number: i64,
    /// Its digest.
    pub hash: Hash,
}

/// An entry that no link holds.
#[derive(Clone, Debug)]
pub struct Loose {
    /// Its id.
    pub entry: i64,
    /// Who, as it says.
    pub actor: String,
    /// What, as it says.
    pub action: String,
    /// When, as it says.
    pub at: Timestamp,
}

impl Link {
    /// The digest that it must have after this one, under a number.
    #[must_use]
    pub fn after(&self, before: &[u8], number: i64) -> Hash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(before);
        context.update(&number.to_be_bytes());
        context.update(&self.entry.to_be_bytes());
        context.update(&self.content);
        finished(context)
    }
}

impl Catalog {
    /// Looks at every link, in order, as all of it is at one moment. Returns the entries that no link holds.
    pub async fn walk_audit_chain(
        &self,
        mut look: impl FnMut(Link) + Send,
    ) -> Result<Vec<Loose>, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let mut after = i64::MIN;
        loop {
            let page = rows(
                &transaction,
                "-- audit_chain::page
                 select c.number, c.entry, c.content, c.hash, l.id is not null as is_there, l.at,
                        (extract(epoch from l.at) * 1000000)::bigint as micros, l.actor, l.action, l.tenant_slug,
                        l.tenant_id, l.request_id, l.detail, l.detail::text as detail_text
                 from audit_chain c left join audit_log l on l.id = c.entry
                 where c.number > $1 order by c.number limit $2",
                &[&after, &PAGE],
            )
            .await?;
            let Some(last) = page.last() else { break };
            after = last.get("number");
            for row in &page {
                look(link(row));
            }
        }
        let loose = rows(
            &transaction,
            "-- audit_chain::loose
             select id, actor, action, at from audit_log l
             where not exists (select from audit_chain c where c.entry = l.id) order by id limit $1",
            &[&MOST],
        )
        .await?;
        transaction.commit().await?;
        let of = |row: &Row| Loose {
            entry: row.get("id"),
            actor: row.get("actor"),
            action: row.get("action"),
            at: row.get("at"),
        };
        Ok(loose.iter().map(of).collect())
    }

    /// The end of the chain, if a checkpoint is due there: something was written since the last one, and that is
    /// older than this, or did not reach the bucket. What is returned stays, whatever crashes.
    pub async fn checkpoint_due(&self, seconds: f64) -> Result<Option<ChainEnd>, CatalogError> {
        let found = maybe(
            &self.client().await?,
            "-- audit_chain::checkpoint_due
             with last as (
                 select number, hash from audit_chain order by number desc limit 1
             ), noted as (
                 insert into audit_checkpoint as known (number) select number from last
                 on conflict (is_only) do update set number = excluded.number, stored = false, at = now()
                 where not known.stored
                    or known.number <> excluded.number and known.at <= now() - $1::float8 * interval '1 second'
                 returning number
             )
             select number, hash from last join noted using (number)",
            &[&seconds],
        )
        .await?;
        found.map(|row| end(&row)).transpose()
    }

    /// Writes down that the checkpoint up to this number lies in the bucket.
    pub async fn checkpoint_stored(&self, number: i64) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- audit_chain::checkpoint_stored
             update audit_checkpoint set stored = true where number = $1",
            &[&number],
        )
        .await
        .map(drop)
    }

    /// The first number that is there, and the last one up to which everything is older than this moment.
    pub async fn audit_chain_before(
        &self,
        moment: Timestamp,
    ) -> Result<Option<(i64, i64)>, CatalogError> {
        let row = one(
            &self.client().await?,
            "-- audit_chain::before
             select (select min(number) from audit_chain) as first,
                    coalesce((select min(c.number) from audit_chain c join audit_log l on l.id = c.entry
                              where l.at >= $1) - 1,
                             (select max(number) from audit_chain)) as newest",
            &[&moment],
        )
        .await?;
        let (first, newest): (Option<i64>, Option<i64>) = (row.get("first"), row.get("newest"));
        Ok(first.zip(newest))
    }

    /// The digest of one link.
    pub async fn audit_chain_hash(&self, number: i64) -> Result<Option<Hash>, CatalogError> {
        let found = maybe(
            &self.client().await?,
            "-- audit_chain::hash\nselect number, hash from audit_chain where number = $1",
            &[&number],
        )
        .await?;
        Ok(found.map(|row| end(&row)).transpose()?.map(|end| end.hash))
    }

    /// Removes every entry up to this number, and writes an entry that says so, in one transaction. The last of
    /// their links stays: what comes after it follows it. Returns how many entries that were.
    pub async fn remove_audit_entries(
        &self,
        through: i64,
        note: &Event<'_>,
    ) -> Result<u64, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        execute(
            &transaction,
            "-- audit_chain::may_remove\nselect set_config('tenantry.audit_retention', 'on', true)",
            &[],
        )
        .await?;
        let removed = execute(
            &transaction,
            "-- audit_chain::remove_entries
             delete from audit_log l using audit_chain c where c.entry = l.id and c.number <= $1",
            &[&through],
        )
        .await?;
        execute(
            &transaction,
            "-- audit_chain::remove_links\ndelete from audit_chain where number < $1",
            &[&through],
        )
        .await?;
        record(&transaction, note).await?;
        transaction.commit().await?;
        Ok(removed)
    }
}

fn link(row: &Row) -> Link {
    let is_there: bool = row.get("is_there");
    Link {
        number: row.get("number"),
        entry: row.get("entry"),
        content: row.get("content"),
        hash: row.get("hash"),
        found: is_there.then(|| found(row)),
    }
}

fn found(row: &Row) -> Found {
    let (actor, action): (String, String) = (row.get("actor"), row.get("action"));
    let (slug, request): (Option<&str>, Option<&str>) =
        (row.get("tenant_slug"), row.get("request_id"));
    let micros = row.get::<_, i64>("micros").to_string();
    let tenant = row.get::<_, Option<Uuid>>("tenant_id").map(|id| id.to_string());
    let content = content(&[
        Some(&micros),
        Some(&actor),
        Some(&action),
        slug,
        tenant.as_deref(),
        request,
        Some(row.get("detail_text")),
    ]);
    Found { actor, action, at: row.get("at"), detail: row.get("detail"), content }
}

/// The digest of an entry: each field with its length before it, so that no two entries have the same text.
fn content(fields: &[Option<&str>]) -> Hash {
    let mut text = ENTRY.to_owned();
    for field in fields {
        match field {
            Some(field) => {
                text += &field.len().to_string();
                text.push(':');
                text += field;
            }
            None => text.push('-'),
        }
    }
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(text.as_bytes());
    finished(context)
}

fn finished(context: digest::Context) -> Hash {
    let digest = context.finish();
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

fn end(row: &Row) -> Result<ChainEnd, CatalogError> {
    Ok(ChainEnd { number: row.get("number"), hash: hash(row.get("hash"))? })
}

fn hash(bytes: &[u8]) -> Result<Hash, CatalogError> {
    let corrupt = |_| CatalogError::Corrupt("a digest of the audit log's chain".to_owned());
    bytes.try_into().map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_entries_have_the_same_text() {
        let one = content(&[Some("a"), Some("b:c"), None]);

        for other in [
            [Some("a"), Some("b"), None],
            [Some("a1"), Some("b:c"), None],
            [Some("a"), None, Some("b:c")],
            [Some("a"), Some("b:c"), Some("")],
            [Some("a"), Some("b:c"), Some("-")],
        ] {
            assert_ne!(one, content(&other), "{other:?}");
        }
    }

    #[test]
    fn a_link_holds_its_number_its_entry_and_what_was_before() {
        let link =
            Link { number: 2, entry: 7, content: vec![1; 32], hash: Vec::new(), found: None };
        let hash = link.after(&BEGINNING, 2);

        assert_eq!(hash, link.after(&BEGINNING, 2));
        assert_ne!(hash, link.after(&[1; 32], 2));
        assert_ne!(hash, link.after(&BEGINNING, 3));
        assert_ne!(hash, Link { entry: 8, ..link.clone() }.after(&BEGINNING, 2));
        assert_ne!(hash, Link { content: vec![2; 32], ..link }.after(&BEGINNING, 2));
    }
}
