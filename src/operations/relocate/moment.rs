//! A moment of the tenant's database, while it is served: what it holds then, and where in its server's log that is.
//!
//! Its writers wait meanwhile, which is a matter of milliseconds, so whatever was written before stands before the mark
//! in the log and is seen, and whatever is written afterwards is neither.

use std::time::Duration;

use tenantry_provisioning::{Connection, DatabaseName, Halt, Lsn, Server, UNTIMED};
use tokio::time::sleep;

use super::online::Ends;
use crate::operations::StepError;

/// How long the transactions of writers may take to end, from one try to the next: whoever comes after them waits.
const PATIENCE: [Duration; 8] = [
    Duration::from_millis(200),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(1600),
];
/// Between two tries, so that nobody waits twice.
const REST: Duration = Duration::from_secs(1);

/// Opens a transaction that sees what there is at its beginning, and nothing else.
const LOOK: &str = "begin isolation level repeatable read read only";

/// Tries to find a moment, one after the other.
pub(super) struct Moments<'a> {
    ends: &'a Ends,
    patience: std::slice::Iter<'static, Duration>,
}

/// A moment; the writers wait until it has passed.
pub(super) struct Moment {
    halt: Halt,
    session: Connection,
}

impl<'a> Moments<'a> {
    pub(super) fn of(ends: &'a Ends) -> Self {
        Self { ends, patience: PATIENCE.iter() }
    }

    /// The next moment. Fails when too many have been tried.
    pub(super) async fn next(&mut self) -> Result<Moment, StepError> {
        loop {
            if self.patience.len() < PATIENCE.len() {
                sleep(REST).await;
            }
            let Some(patience) = self.patience.next() else {
                return Err(StepError::fail(
                    "the tenant's writers did not pause for long enough to see its database at one moment",
                    "end the transaction that has been open in it for the longest time (pg_stat_activity shows \
                     it), then retry",
                ));
            };
            if let Some(moment) = Moment::begin(self.ends, *patience).await? {
                return Ok(moment);
            }
        }
    }
}

impl Moment {
    async fn begin(ends: &Ends, patience: Duration) -> Result<Option<Self>, StepError> {
        let session = connect(&ends.source, &ends.live).await?;
        let halt = Halt::begin(&ends.source, &ends.live, ends.link, patience).await?;
        let Some(halt) = halt else { return Ok(None) };
        let snapshot = halt.snapshot();
        look(&session, &format!("{LOOK}; set transaction snapshot '{snapshot}'")).await?;
        Ok(Some(Self { halt, session }))
    }

    /// Where it is in the log.
    pub(super) fn mark(&self) -> Lsn {
        self.halt.mark()
    }

    /// Lets the writers go on, and returns a session that goes on seeing the moment.
    pub(super) async fn pass(self) -> Result<Connection, StepError> {
        self.halt.end().await?;
        Ok(self.session)
    }
}

/// Lets a session see for good what its database holds now.
pub(super) async fn keep(session: &Connection) -> Result<(), StepError> {
    look(session, LOOK).await
}

/// A session whose transaction may take its time.
pub(super) async fn connect(
    server: &Server,
    database: &DatabaseName,
) -> Result<Connection, StepError> {
    let session = server.connect_apart(database).await?;
    session.batch_execute(UNTIMED).await.map_err(tenantry_provisioning::Error::from)?;
    Ok(session)
}

/// A transaction sees what there is when its first statement begins.
async fn look(session: &Connection, how: &str) -> Result<(), StepError> {
    let looked = session.batch_execute(&format!("{how}; select")).await;
    Ok(looked.map_err(tenantry_provisioning::Error::from)?)
}
