//! Replication: a database that follows another one, on another server, until it takes that one's place. Afterwards
//! the other one may follow in its turn, for as long as it is kept.
//!
//! What is followed gets a publication of its tables, a slot, and a role that may log in to it and read; what
//! follows gets a subscription. All four have one name, which only one operation can have given ([`Link`]): whatever a
//! crash leaves is found by that name, and removed without asking who made it. The subscription knows the password of
//! that role alone, which is good for one database and for as long as it is followed; nobody but a superuser reads it,
//! and it is kept out of the server's log.
//!
//! Must never: leave a slot behind. It keeps every byte of WAL that its server writes from then on.

use tokio_postgres::Client;
use uuid::Uuid;

use crate::error::Error;
use crate::name::{DatabaseName, RoleName};
use crate::server::{Problem, Server, rows};

mod back;
mod followed;
mod follower;
mod halt;

pub use followed::{Offered, SlotFacts, drop_link_publications, drop_publication, offered};
pub use follower::{CopyState, FollowerFacts};
pub use halt::Halt;

const UNFOLLOWABLE: &str = include_str!("../sql/unfollowable.sql");

/// Before it there are no counts of what a subscription stumbled over.
const OLDEST_MAJOR: u32 = 15;
/// Since then a subscription runs with its owner's rights only where that is asked for.
const RUNS_AS_TABLE_OWNER: u32 = 16;

/// What joins two databases for a move.
const MOVE: &str = "^tenantry_move_[0-9a-f]{32}$";
/// The same, and what copies their tables.
const OF_MOVES: &str = "^(tenantry_move_[0-9a-f]{32}|pg_[0-9]+_sync_[0-9]+_[0-9]+)$";
/// A move takes so many slots and senders: one for what is written, and two for tables that are being copied.
const SLOTS: i64 = 3;
/// And so many workers: one that writes, and at least one that copies.
const WORKERS: i64 = 2;

/// What a server has for those who follow its databases.
struct Offer {
    wal_level: String,
    slots: i64,
    senders: i64,
    /// How many moves share that.
    moves: i64,
}

/// What joins a database and the one that follows it, and the operation that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// What the operation builds follows the tenant's database.
    Move(Uuid),
    /// What the operation has left follows the database that took its place.
    Back(Uuid),
}

/// A place in the stream of changes of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(i64);

/// Something on a server that joins, or joined, two databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// `replication slot`, `subscription` or `role`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it belongs to.
    pub link: Link,
}

/// What in a database cannot be followed, by a session in it. Leaves the session with an empty `search_path`.
pub async fn unfollowable(session: &Client) -> Result<Vec<Problem>, Error> {
    session.batch_execute("set search_path = ''").await?;
    let rows = session.query(UNFOLLOWABLE, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| Problem::new(row.get::<_, &str>("what"), row.get::<_, &str>("remedy")))
        .collect())
}

impl Link {
    /// The link of this name.
    #[must_use]
    pub fn of(name: &RoleName) -> Option<Self> {
        let operation = name.operation_carried()?;
        let links = [Self::Move(operation), Self::Back(operation)];
        links.into_iter().find(|link| link.name() == *name)
    }

    /// The operation that it was made for.
    #[must_use]
    pub fn operation(self) -> Uuid {
        match self {
            Self::Move(operation) | Self::Back(operation) => operation,
        }
    }

    /// The one name of all that belongs to it, on both servers.
    #[must_use]
    pub fn name(self) -> RoleName {
        match self {
            Self::Move(operation) => RoleName::carrier(operation),
            Self::Back(operation) => RoleName::carrier_back(operation),
        }
    }
}

impl Lsn {
    /// The place so many bytes from the beginning.
    #[must_use]
    pub fn at(bytes: i64) -> Self {
        Self(bytes)
    }

    /// How many bytes from the beginning it is.
    #[must_use]
    pub fn bytes(self) -> i64 {
        self.0
    }
}

impl Leftover {
    /// What drops it.
    #[must_use]
    pub fn mend(&self) -> String {
        let name = &self.name;
        match self.kind.as_str() {
            "replication slot" => format!("`select pg_drop_replication_slot('{name}')`"),
            "subscription" => format!(
                "in the database that pg_subscription names, `alter subscription {name} disable`, \
                 `alter subscription {name} set (slot_name = none)`, `drop subscription {name}`"
            ),
            _ => format!("`drop owned by {name}; drop role {name}`"),
        }
    }
}

impl Server {
    /// What keeps this database from being followed by one on `target`. Empty where nothing does.
    pub async fn obstacles_to_following(
        &self,
        database: &DatabaseName,
        target: &Self,
    ) -> Result<Vec<Problem>, Error> {
        let mut problems = self.obstacles_to_being_followed().await?;
        problems.extend(target.obstacles_there().await?);
        let template = DatabaseName::parse("template0").expect("it is a plain name");
        let (here, there) = (self.locale(database).await?, target.locale(&template).await?);
        if here != there {
            problems.push(Problem::new(
                format!("its database sorts and writes text as {here}, and that server as {there}"),
                "choose a server of the same locale and encoding",
            ));
        }
        problems.extend(unfollowable(&*self.connect(database).await?).await?);
        Ok(problems)
    }

    /// Everything on this server that joins databases, by its name.
    pub async fn list_leftovers(&self) -> Result<Vec<Leftover>, Error> {
        let rows = self
            .client()
            .await?
            .query(
                "-- replication::list_leftovers
                 select kind, name from (
                     select 'replication slot' as kind, slot_name::text as name from pg_replication_slots
                     union all
                     select 'subscription', subname::text from pg_subscription
                     union all
                     select 'role', rolname::text from pg_roles
                 ) named
                 where name ~ '^tenantry_(move|back)_[0-9a-f]{32}$'
                 order by 1, 2",
                &[],
            )
            .await?;
        let leftover = |row: &tokio_postgres::Row| {
            let name: String = row.get("name");
            let link = Link::of(&RoleName::parse(&name).ok()?)?;
            Some(Leftover { kind: row.get("kind"), name, link })
        };
        Ok(rows.iter().filter_map(leftover).collect())
    }

    /// Drops something that joined two databases for an operation of `tenant` which is over. A slot that somebody
    /// reads is an error; that there is nothing any more is fine.
    pub async fn drop_leftover(&self, leftover: &Leftover, tenant: Uuid) -> Result<(), Error> {
        match leftover.kind.as_str() {
            "replication slot" => {
                let sql = "-- replication::drop_leftover
                     select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
                self.client().await?.execute(sql, &[&leftover.name]).await?;
                Ok(())
            }
            "subscription" => {
                let sql = "-- replication::drop_leftover
                     select d.datname::text from pg_subscription s join pg_database d on d.oid = s.subdbid
                     where s.subname = $1";
                let found = rows(&self.client().await?, sql, &[&leftover.name]).await?;
                let Some(row) = found.first() else { return Ok(()) };
                let name: &str = row.get(0);
                let database = DatabaseName::parse(name)
                    .map_err(|_| Error::NotOurs { kind: "database", name: name.to_owned() })?;
                self.unsubscribe(&database, leftover.link).await
            }
            _ => self.drop_role(&leftover.link.name(), tenant).await,
        }
    }

    /// Whether one more of its databases can be followed now, beside those that are.
    pub async fn may_be_followed(&self) -> Result<bool, Error> {
        let offer = self.offer().await?;
        Ok(offer.slots.min(offer.senders) >= SLOTS * (offer.moves + 1))
    }

    /// Whether one more of its databases can follow another now, beside those that do.
    pub async fn may_follow(&self) -> Result<bool, Error> {
        let (workers, moves) = self.workers().await?;
        Ok(workers >= WORKERS * (moves + 1))
    }

    /// What this server lacks to have any of its databases followed.
    pub async fn obstacles_to_being_followed(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = self.obstacles_anywhere("the tenant's server").await?;
        let offer = self.offer().await?;
        if offer.wal_level != "logical" {
            problems.push(Problem::new(
                format!("the tenant's server has wal_level {}", offer.wal_level),
                "set `wal_level = logical` there, and restart it",
            ));
        }
        for (setting, left) in
            [("max_replication_slots", offer.slots), ("max_wal_senders", offer.senders)]
        {
            if left < SLOTS {
                problems.push(Problem::new(
                    format!("the tenant's server has fewer than {SLOTS} left of its {setting}"),
                    format!("raise {setting} there, and restart it"),
                ));
            }
        }
        Ok(problems)
    }

    /// What this server lacks to have one of its databases follow another.
    async fn obstacles_there(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = self.obstacles_anywhere("that server").await?;
        if self.workers().await?.0 < WORKERS {
            problems.push(Problem::new(
                format!("that server has fewer than {WORKERS} workers left for replication"),
                "raise max_logical_replication_workers and max_worker_processes there, and restart \
                 it",
            ));
        }
        Ok(problems)
    }

    /// What is left for moves, whether they take it already or not.
    async fn offer(&self) -> Result<Offer, Error> {
        let sql = "-- replication::offer
             select current_setting('wal_level') as wal_level,
                    current_setting('max_replication_slots')::int8
                        - (select count(*) from pg_replication_slots where slot_name !~ $1) as slots,
                    current_setting('max_wal_senders')::int8
                        - (select count(*) from pg_stat_replication where application_name !~ $1) as senders,
                    (select count(*) from pg_replication_slots where slot_name ~ $2) as moves";
        let row = rows(&self.client().await?, sql, &[&OF_MOVES, &MOVE]).await?.remove(0);
        Ok(Offer {
            wal_level: row.get("wal_level"),
            slots: row.get("slots"),
            senders: row.get("senders"),
            moves: row.get("moves"),
        })
    }

    /// The same of workers, and how many moves there are.
    async fn workers(&self) -> Result<(i64, i64), Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- replication::workers
                 select current_setting('max_logical_replication_workers')::int8
                            - (select count(*) from pg_subscription where subenabled and subname !~ $1) as workers,
                        (select count(*) from pg_subscription where subname ~ $1) as moves",
                &[&MOVE],
            )
            .await?;
        Ok((row.get("workers"), row.get("moves")))
    }

    async fn obstacles_anywhere(&self, which: &str) -> Result<Vec<Problem>, Error> {
        let facts = self.facts().await?;
        let mut problems = Vec::new();
        if facts.major < OLDEST_MAJOR {
            problems.push(Problem::new(
                format!("{which} is PostgreSQL {}", facts.version),
                format!("bring it to version {OLDEST_MAJOR}"),
            ));
        }
        if !facts.superuser {
            problems.push(Problem::new(
                format!("our administrator is no superuser of {which}"),
                format!("as a superuser, run `alter role \"{}\" superuser`", self.url().user()),
            ));
        }
        Ok(problems)
    }

    /// Encoding and locale of a database.
    async fn locale(&self, database: &DatabaseName) -> Result<String, Error> {
        let row = self
            .client()
            .await?
            .query_one(
                "-- replication::locale
                 select format('%s %s %s', pg_encoding_to_char(encoding), datcollate, datctype)
                 from pg_database where datname = $1",
                &[&database.as_str()],
            )
            .await?;
        Ok(row.get(0))
    }
}
