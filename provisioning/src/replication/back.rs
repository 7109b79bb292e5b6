//! The way back: what a move has left follows the database that took its place.
//!
//! It holds all that the tenant's database held when it was shut, so nothing is copied. Its slot begins while nobody
//! waits, and what the move itself writes afterwards stands in it; of that the follower takes nothing, as it starts at
//! a mark that was set when all that had come, and before anybody else wrote.

use super::follower::IDLE;
use super::{Link, Lsn, SLOTS, WORKERS};
use crate::error::Error;
use crate::name::DatabaseName;
use crate::server::{Problem, Server, ServerUrl};

impl Server {
    /// What keeps a database on this server from being followed, for days, by one that `left` keeps. Empty where
    /// nothing does. Both servers keep what one move needs.
    pub async fn obstacles_to_going_back(&self, left: &Self) -> Result<Vec<Problem>, Error> {
        let mut problems = self.obstacles_to_being_followed().await?;
        problems.extend(left.obstacles_there().await?);
        let offer = self.offer().await?;
        if offer.slots.min(offer.senders) <= SLOTS * (offer.moves + 1)
            || !left.may_follow_on().await?
        {
            problems.push(Problem::new(
                "the servers have no room for replication that lasts, beside that of moves",
                "raise max_replication_slots and max_wal_senders on the new server, and \
                 max_logical_replication_workers on the old one",
            ));
        }
        Ok(problems)
    }

    /// Whether there is a worker for one more kept database that follows, beside those that a move needs.
    pub async fn may_follow_on(&self) -> Result<bool, Error> {
        let (workers, moves) = self.workers().await?;
        Ok(workers > WORKERS * (moves + 1))
    }

    /// Lets a kept database follow the one at `from`, whose user is the carrier that [`Server::publish`] made, with
    /// what was written after a mark. One that follows already is left as it is.
    pub async fn subscribe_since(
        &self,
        old: &DatabaseName,
        link: Link,
        from: &ServerUrl,
        mark: Lsn,
    ) -> Result<(), Error> {
        if self.follower(link).await?.is_some_and(|follower| follower.is_enabled) {
            return Ok(());
        }
        self.unsubscribe(old, link).await?;
        self.create_subscription(old, link, from, IDLE).await?;
        self.follow_since(old, link, mark).await
    }
}
