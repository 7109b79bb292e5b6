//! The *online* way of a relocation: a database on the other server follows the tenant's by logical replication while
//! the tenant is served, and takes its place when it holds the same.
//!
//! Rows come along by themselves. What replication leaves out is either carried when nobody writes any more (how far
//! each sequence has come), or makes the database one that cannot be followed (`unfollowable.sql`): that is looked at
//! before anything is made, and again before the switch, together with the schema, which must be what it was.
//!
//! Until the catalog's word the tenant's own database is the truth. Whatever fails before it, all that was made is
//! removed on both servers, the slot above all: it keeps the log of a whole server.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tenantry_backup::{CopyEnd, copy_definitions};
use tenantry_provisioning::{
    Connection, DatabaseName, Link, Lsn, Offered, Owner, Problem, Schema, Server, SlotFacts,
    drop_publication, offered, random_password, unfollowable,
};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::arrival::STALLED;
use super::back;
use crate::catalog::lock::ChoreLock;
use crate::operations::transfer::watched;
use crate::operations::{StepContext, StepError, provision, restore, way_back};

/// The schema that was copied, once it has been; its rows follow.
pub(super) const FOLLOWED: &str = "followed";
/// Whether the rows were compared since then.
const VERIFIED: &str = "verified";

/// How long what is left may take to come across while the tenant is served.
const CATCH_UP: Duration = Duration::from_secs(30);
/// The same while its requests wait.
const DRAIN: Duration = Duration::from_secs(8);
/// How often to look whether there is room.
const REST: Duration = Duration::from_millis(500);
/// How often to look whether it has.
const GLANCE: Duration = Duration::from_millis(3);

pub(super) const SERVED_ON: &str = "the tenant is served where it was";

/// The two sides of a relocation.
pub(super) struct Ends {
    pub source: Server,
    pub target: Server,
    /// The database that follows.
    pub follower: DatabaseName,
    /// The tenant's database.
    pub live: DatabaseName,
    /// What joins the two.
    pub link: Link,
    pub owner: Owner,
}

/// Lets the build follow the tenant's database, and waits until it has nearly everything. One that follows already
/// is left as it is.
pub(super) async fn follow(cx: &StepContext<'_>, target: Uuid) -> Result<(), StepError> {
    let ends = Ends::of(cx, target).await?;
    if !ends.is_following(cx).await? {
        ends.begin(cx).await?;
    }
    let size = super::size(&ends.source, &ends.live).await?;
    watched(cx, size, |progress| ends.await_copy(progress)).await?;
    let mark = ends.source.mark_log().await?;
    if ends.await_followed(mark, CATCH_UP).await? {
        return Ok(());
    }
    ends.require_sender(cx).await?;
    Err(StepError::fail(
        format!("the copy does not keep up with what is written; {SERVED_ON}"),
        "look at the load of both servers, then retry; or cancel, and relocate with `--offline`",
    ))
}

/// The same, and sees that the rows have been compared since.
pub(super) async fn follow_verified(cx: &StepContext<'_>, target: Uuid) -> Result<(), StepError> {
    follow(cx, target).await?;
    if cx.recall(VERIFIED)?.unwrap_or(false) {
        return Ok(());
    }
    let ratio = cx.environment.limits.nice_ratio;
    super::verify::verify(&Ends::of(cx, target).await?, ratio).await?;
    cx.remember(VERIFIED, &true).await
}

/// Removes what joins the two databases, and the one that follows. Both sides are seen to, whichever fails.
pub(super) async fn clear(cx: &StepContext<'_>, target: Uuid) -> Result<(), StepError> {
    Ends::of(cx, target).await?.clear(cx).await
}

/// After the tenant is served elsewhere: nobody follows what it left.
pub(super) async fn leave(cx: &StepContext<'_>, source: &Server) -> Result<(), StepError> {
    let old = DatabaseName::old(cx.operation.id);
    Ok(source.unpublish(&[&old], super::link(cx)?, cx.tenant.id).await?)
}

/// Stops the tenant's database from being written to, and brings over what the follower does not have yet. After it
/// the two hold the same, and the tenant's takes no connection.
pub(in crate::operations) async fn drain(
    cx: &StepContext<'_>,
    source: &Server,
    target: &Server,
) -> Result<(), StepError> {
    let ends = Ends::between(cx, source.clone(), target.clone())?;
    let Ends { live, follower, owner, link, .. } = &ends;
    let Some(facts) = source.database(live).await? else {
        // An attempt that was cut off has come further than this.
        return Ok(());
    };
    if !facts.allow_connections {
        // Such an attempt may also have shut it, and what is written from now on may not come across any more: it is
        // opened for us alone. Whoever puts the tenant back lets its role in again.
        source.disable_login(&cx.tenant.role, owner.tenant).await?;
        source.unfence(live, owner.tenant).await?;
    }
    let here = source.connect(live).await?;
    require_published(&here, *link).await?;
    let there = target.connect(follower).await?;
    // Who sends has to be there already: once the door is shut, nobody comes in any more.
    ends.require_followed().await?;
    let sender = ends.slot().await?.sender;
    let spared: Vec<i32> = sender.into_iter().chain([pid_of(&here).await?]).collect();
    source.quiesce(live, owner.tenant, &spared).await?;

    require_unchanged(cx, &here, *link).await?;
    ends.require_followed().await?;
    carry_sequences(&here, &there).await?;
    back::mark(cx, target).await?;
    Ok(drop_publication(&here, *link).await?)
}

impl Ends {
    pub(super) async fn of(cx: &StepContext<'_>, target: Uuid) -> Result<Self, StepError> {
        let source = cx.server().await?;
        Self::between(cx, source, cx.environment.server(target).await?)
    }

    fn between(cx: &StepContext<'_>, source: Server, target: Server) -> Result<Self, StepError> {
        let owner = cx.owner();
        let (follower, live) = (super::incoming(cx)?, cx.tenant.database.clone());
        Ok(Self { source, target, follower, live, link: super::link(cx)?, owner })
    }

    /// Whether the follower was made in full, and nothing that it needs is gone.
    async fn is_following(&self, cx: &StepContext<'_>) -> Result<bool, StepError> {
        Ok(followed(cx)?.is_some()
            && self.source.slot(self.link).await?.is_some_and(|slot| !slot.is_lost)
            && self.target.database(&self.follower).await?.is_some()
            && self.target.is_subscribed(self.link).await?)
    }

    /// Makes everything anew.
    async fn begin(&self, cx: &StepContext<'_>) -> Result<(), StepError> {
        self.clear(cx).await?;
        if let Link::Back(_) = self.link {
            let lost = format!("what the tenant left there follows no more; {SERVED_ON}");
            return Err(StepError::fail(lost, "retry; it is copied again then"));
        }
        let turns = self.await_room(cx).await?;
        let password = random_password();
        let published = self.source.publish(&self.live, self.link, self.owner, &password).await;
        published.map_err(open_transaction)?;
        let schema = fingerprint(&self.source.connect(&self.live).await?).await?;
        let fill = || self.copy_schema(cx).boxed();
        restore::with_lent_roles(cx, &self.target, fill).await?;
        let carrier = self.link.name();
        let from = self
            .source
            .url()
            .with_database(self.live.as_str())
            .with_user(carrier.as_str(), &password);
        let (target, follower) = (&self.target, &self.follower);
        let rests = cx.environment.limits.nice_ratio > 0;
        let subscribed = if rests {
            target.subscribe_idly(follower, self.link, &from).await
        } else {
            target.subscribe(follower, self.link, &from).await
        };
        subscribed.map_err(|error| self.out_of_reach(error))?;
        if rests {
            for turn in turns {
                turn.end().await;
            }
            let mark = self.carry_rows(cx).await?;
            target.follow_since(follower, self.link, mark).await?;
        }
        cx.remember(FOLLOWED, &schema).await
    }

    /// Waits until both servers have room for one more move. They begin one at a time, so that none takes the other's.
    async fn await_room(&self, cx: &StepContext<'_>) -> Result<[ChoreLock; 2], StepError> {
        let began = Instant::now();
        let catalog = &cx.environment.catalog;
        let [here, there] = [&self.source, &self.target]
            .map(|server| format!("moves of {}", server.url().host_label()));
        loop {
            if let Some(here) = catalog.try_chore(&here).await?
                && let Some(there) = catalog.try_chore(&there).await?
                && self.source.may_be_followed().await?
                && self.target.may_follow().await?
            {
                return Ok([here, there]);
            }
            if began.elapsed() > STALLED {
                let remedy = "it is tried again; raise max_replication_slots and max_wal_senders on the tenant's \
                              server, and max_logical_replication_workers on the other, to move more at a time";
                let busy = format!(
                    "other moves take all that the servers have for replication; {SERVED_ON}"
                );
                return Err(StepError::Retry(busy.into(), Some(remedy.to_owned())));
            }
            sleep(REST).await;
        }
    }

    async fn copy_schema(&self, cx: &StepContext<'_>) -> Result<(), StepError> {
        let to_env = restore::empty_build(cx, &self.target).await?;
        let (from_tools, _) = cx.environment.tools(&self.source).await?;
        let (to_tools, _) = cx.environment.tools(&self.target).await?;
        let from_env = self.source.url().with_database(self.live.as_str()).libpq_env();
        let from = CopyEnd { tools: &from_tools, libpq_env: &from_env };
        let to = CopyEnd { tools: &to_tools, libpq_env: &to_env };
        let _turn = cx.environment.turn().await;
        Ok(copy_definitions(from, to).await?)
    }

    pub(super) async fn slot(&self) -> Result<SlotFacts, StepError> {
        self.source.slot(self.link).await?.ok_or_else(|| {
            StepError::fail(
                format!(
                    "somebody has dropped the replication slot of this relocation; {SERVED_ON}"
                ),
                "retry; it begins anew",
            )
        })
    }

    /// Whether the follower comes to hold everything before a mark within `patience`.
    pub(super) async fn await_followed(
        &self,
        mark: Lsn,
        patience: Duration,
    ) -> Result<bool, StepError> {
        let deadline = Instant::now() + patience;
        loop {
            let reached = self.target.followed_to(self.link).await?;
            if reached.is_some_and(|reached| reached >= mark) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(GLANCE).await;
        }
    }

    /// Sees that everything comes across that was written until now, while requests wait.
    async fn require_followed(&self) -> Result<(), StepError> {
        let mark = self.source.mark_log().await?;
        if self.await_followed(mark, DRAIN).await? {
            return Ok(());
        }
        Err(StepError::fail(
            format!("the last changes took too long to come across; {SERVED_ON}"),
            "look at the network between the servers and at their load, then retry",
        ))
    }

    async fn clear(&self, cx: &StepContext<'_>) -> Result<(), StepError> {
        cx.remember(FOLLOWED, &None::<String>).await?;
        cx.remember(VERIFIED, &false).await?;
        let withdrawn = back::withdraw(self).await;
        if let Link::Back(_) = self.link {
            // What the tenant left goes on following.
            return withdrawn;
        }
        let dropped = provision::drop_build(&self.target, self.owner.operation).await;
        self.source.unpublish(&[&self.live], self.link, self.owner.tenant).await?;
        dropped.and(withdrawn)
    }

    /// Sees that what follows has a way to the tenant's server. It is copied anew otherwise.
    async fn require_sender(&self, cx: &StepContext<'_>) -> Result<(), StepError> {
        if self.slot().await?.sender.is_some() {
            return Ok(());
        }
        let why = "its server does not reach the tenant's";
        let retry = match self.link {
            Link::Move(_) => {
                self.require_progress().await?;
                format!("what was copied is of no use, as {why}; {SERVED_ON}")
            }
            Link::Back(_) => {
                way_back::close(cx, None, why).await?;
                format!("what the tenant left is of no use, as {why}; it is copied anew")
            }
        };
        Err(StepError::Retry(retry.into(), None))
    }

    fn out_of_reach(&self, error: tenantry_provisioning::Error) -> StepError {
        if error.sql_state() != Some(&SqlState::CONNECTION_FAILURE) {
            return error.into();
        }
        let (from, to) = (self.source.url().host_label(), self.target.url().host_label());
        let remedy = format!(
            "let {to} reach {from}, for every user and with a password (firewall, listen_addresses, pg_hba.conf), \
             then retry; or cancel, and relocate with `--offline`"
        );
        StepError::Fail(Box::new(error), Some(remedy))
    }
}

/// What cannot be followed, as a list for people, and what to do about it.
pub(in crate::operations) fn refusal(problems: &[Problem]) -> (String, String) {
    let what: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    let remedies: Vec<&str> = problems.iter().map(|problem| problem.remedy.as_str()).collect();
    (what.join("; "), remedies.join("; "))
}

/// A slot waits for every transaction of its server to end.
fn open_transaction(error: tenantry_provisioning::Error) -> StepError {
    if error.sql_state() != Some(&SqlState::QUERY_CANCELED) {
        return error.into();
    }
    let remedy = "end the transaction that has been open on the tenant's server for the longest time \
                  (pg_stat_activity shows it), then retry";
    StepError::Fail(Box::new(error), Some(remedy.to_owned()))
}

/// Refuses to leave a database that an attempt which was cut off offers no more. Servers from version 18 on pass over
/// what is written then, and say nothing.
async fn require_published(here: &Connection, link: Link) -> Result<(), StepError> {
    if offered(here, link).await? != Offered::Nothing {
        return Ok(());
    }
    let lost = format!("the tenant's database is not followed any more; {SERVED_ON}");
    Err(StepError::Retry(lost.into(), Some("it begins anew".to_owned())))
}

/// Refuses to leave a database whose schema is not the one that was copied, or that has got something which does not
/// come along.
async fn require_unchanged(
    cx: &StepContext<'_>,
    here: &Connection,
    link: Link,
) -> Result<(), StepError> {
    let problems = unfollowable(here).await?;
    if !problems.is_empty() {
        let (what, remedies) = refusal(&problems);
        return Err(StepError::fail(
            format!("since it was copied, {what}; {SERVED_ON}"),
            format!("{remedies}; then retry; or cancel, and relocate with `--offline`"),
        ));
    }
    // A table that was dropped and made again looks as before, and what is written to it stays behind.
    if offered(here, link).await? == Offered::All && followed(cx)? == Some(fingerprint(here).await?)
    {
        return Ok(());
    }
    Err(StepError::fail(
        format!("the tenant's schema was changed while it was copied; {SERVED_ON}"),
        "retry when nobody changes it, which begins anew; or cancel, and relocate with `--offline`",
    ))
}

/// The schema that follows, once it was made in full.
fn followed(cx: &StepContext<'_>) -> Result<Option<String>, StepError> {
    Ok(cx.recall::<Option<String>>(FOLLOWED)?.flatten())
}

async fn fingerprint(session: &Connection) -> Result<String, StepError> {
    Ok(Schema::read(session).await?.fingerprint())
}

async fn pid_of(session: &Connection) -> Result<i32, StepError> {
    let row = session.query_one("select pg_backend_pid()", &[]).await;
    Ok(row.map_err(tenantry_provisioning::Error::from)?.get(0))
}

/// Sets each sequence to where it is in the tenant's database.
pub(in crate::operations) async fn carry_sequences(
    here: &Connection,
    there: &Connection,
) -> Result<(), StepError> {
    let failed = tenantry_provisioning::Error::from;
    let found = here
        .query_one(
            "-- online::list_sequences
             select string_agg(format('select %L, last_value, is_called from %I.%I',
                                      quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                                      n.nspname, c.relname), ' union all ')
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'S' and c.relpersistence <> 't'
               and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'",
            &[],
        )
        .await
        .map_err(failed)?;
    let Some(sql) = found.get::<_, Option<&str>>(0) else { return Ok(()) };
    let rows =
        here.query(&format!("-- online::read_sequences\n{sql}"), &[]).await.map_err(failed)?;
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let values: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    let called: Vec<bool> = rows.iter().map(|row| row.get(2)).collect();
    there
        .execute(
            "-- online::carry_sequences
             select setval(to_regclass(s.name), s.value, s.is_called)
             from unnest($1::text[], $2::int8[], $3::bool[]) s(name, value, is_called)
             where to_regclass(s.name) is not null",
            &[&names, &values, &called],
        )
        .await
        .map_err(failed)?;
    Ok(())
}
