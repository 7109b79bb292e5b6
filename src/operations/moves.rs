//! Moving many tenants: emptying a server, and evening out how many servers have.
//!
//! A plan is made over the whole fleet, by the rules of placement, and asked for as one batch of relocations, in which
//! the largest database is first. What happens to each is the relocation's business. Asked again, a drain goes on:
//! those that are under way stay so, those that failed are tried again, and whoever has come meanwhile goes too.

use std::collections::HashMap;

use serde::Serialize;
use tenantry_provisioning::database_sizes;
use uuid::Uuid;

use super::relocate::pause;
use super::{Environment, Way, Work};
use crate::catalog::CatalogError;
use crate::catalog::moves::OpenMove;
use crate::catalog::operations::OperationState;
use crate::catalog::servers::{Edit, ServerChange, ServerRecord};
use crate::tenant::moves::{Board, Destination};
use crate::tenant::placement::{Host, Judged, Unfit};
use crate::tenant::{Tenant, TenantSlug};

/// How often a plan is made anew because servers have filled meanwhile.
const TRIES: usize = 3;
/// The chore of whoever plans: plans count on what others have asked for, so one is made at a time.
const PLANNING: &str = "moves";

/// Who goes where, and who cannot.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Moves {
    /// The batch of the relocations; none while they are only planned, or where there are none.
    pub batch_id: Option<Uuid>,
    /// Those that go, or would, in their order.
    pub going: Vec<Going>,
    /// Those that cannot.
    pub staying: Vec<Staying>,
    /// How many relocations were asked for just now.
    #[serde(skip)]
    pub asked: usize,
}

/// A tenant that goes to another server.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Going {
    /// The tenant.
    #[schema(value_type = String)]
    pub tenant: TenantSlug,
    /// Where it is.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// How large its database is; nothing where its server does not say.
    pub bytes: Option<u64>,
    /// About how many seconds its requests wait.
    pub pause_seconds: Option<u64>,
    /// The relocation.
    pub operation_id: Option<Uuid>,
    /// The rules that it breaks where it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub breaks: Vec<String>,
}

/// A tenant that cannot go.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Staying {
    /// The tenant.
    #[schema(value_type = String)]
    pub tenant: TenantSlug,
    /// Its server.
    pub server: String,
    /// Why, and what helps.
    pub why: String,
}

/// What becomes of relocations of the batch that have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// They are tried again.
    Retry,
    /// They stay as they are, and are told of.
    Leave,
}

/// The fleet as moves are planned over it.
struct Survey {
    servers: Vec<ServerRecord>,
    tenants: Vec<Tenant>,
    open: Vec<OpenMove>,
    sizes: HashMap<Uuid, u64>,
    board: Board,
}

/// A relocation that is to be asked for.
struct Planned {
    tenant: Uuid,
    server: Uuid,
    /// Its place among those that go.
    at: usize,
}

impl Environment {
    /// What draining a server would do.
    pub async fn drain_plan(&self, name: &str, to: &[Destination]) -> Result<Moves, CatalogError> {
        let record = self.catalog.server_by_name(name).await?;
        let mut survey = self.survey(&[record.id]).await?;
        Ok(survey.empty(&record, to, Failed::Leave).0)
    }

    /// Lets nobody come to a server any more, and asks for relocations of all that are there. Goes on where an earlier
    /// call has stopped.
    pub async fn drain(
        &self,
        name: &str,
        to: &[Destination],
        failed: Failed,
    ) -> Result<Moves, CatalogError> {
        let planning = self.catalog.await_chore(PLANNING).await?;
        let batch = self.catalog.begin_drain(name).await?;
        let mut tries = 1;
        loop {
            let record = self.catalog.server_by_name(name).await?;
            let mut survey = self.survey(&[record.id]).await?;
            let (mut moves, planned, again) = survey.empty(&record, to, failed);
            match self.ask_for(&mut moves, &planned, batch).await {
                Err(CatalogError::Conflict(_)) if tries < TRIES => tries += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    for operation in &again {
                        match self.catalog.retry(*operation).await {
                            // Somebody else has just done so.
                            Ok(_) | Err(CatalogError::Conflict(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    moves.asked = planned.len() + again.len();
                    planning.end().await;
                    return Ok(moves);
                }
            }
        }
    }

    /// The moves that would even servers out.
    pub async fn rebalance_plan(&self) -> Result<Moves, CatalogError> {
        let servers: Vec<Uuid> = self.catalog.servers().await?.iter().map(|one| one.id).collect();
        Ok(self.survey(&servers).await?.even_out().0)
    }

    /// Asks for the moves that even servers out.
    pub async fn rebalance(&self) -> Result<Moves, CatalogError> {
        let planning = self.catalog.await_chore(PLANNING).await?;
        let servers: Vec<Uuid> = self.catalog.servers().await?.iter().map(|one| one.id).collect();
        let (mut moves, planned) = self.survey(&servers).await?.even_out();
        self.ask_for(&mut moves, &planned, Uuid::now_v7()).await?;
        moves.asked = planned.len();
        planning.end().await;
        Ok(moves)
    }

    /// Changes what a server is to its tenants. Where tenants come again, relocations that were to empty it and have
    /// not begun are given up. Returns the batch in which that is done.
    pub async fn change_server(
        &self,
        name: &str,
        change: &ServerChange,
    ) -> Result<(ServerRecord, Option<Uuid>), CatalogError> {
        let batch = self.catalog.server_by_name(name).await?.drain;
        let record = self.catalog.change_server(name, change).await?;
        let Some(batch) = batch.filter(|_| change.cordoned == Edit::Clear) else {
            return Ok((record, None));
        };
        for open in self.catalog.open_moves().await? {
            if open.batch == Some(batch) && open.state != OperationState::Running {
                match self.cancel(open.operation).await {
                    // It has begun, or ended, a moment ago.
                    Ok(_) | Err(CatalogError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((record, Some(batch)))
    }

    async fn ask_for(
        &self,
        moves: &mut Moves,
        planned: &[Planned],
        batch: Uuid,
    ) -> Result<(), CatalogError> {
        moves.batch_id = Some(batch);
        if planned.is_empty() {
            return Ok(());
        }
        let mut operations = Vec::with_capacity(planned.len());
        for one in planned {
            let operation = Work::Relocate { server: one.server, way: Way::Auto }
                .new_operation(one.tenant, self.catalog.by());
            moves.going[one.at].operation_id = Some(operation.id);
            operations.push((one.server, operation));
        }
        self.catalog.enqueue_moves(&operations, batch).await
    }

    /// Reads the fleet, and how large the databases on these servers are.
    async fn survey(&self, measured: &[Uuid]) -> Result<Survey, CatalogError> {
        let tenants = self.catalog.living_tenants(None).await?;
        let servers = self.catalog.servers().await?;
        let open = self.catalog.open_moves().await?;
        let leads = self.catalog.earlier_slugs().await?;
        let mut sizes = HashMap::new();
        for server in measured {
            sizes.extend(self.sizes_on(*server, &tenants).await);
        }
        let coming: Vec<(Uuid, Uuid)> = open
            .iter()
            .filter(|open| open.state != OperationState::Failed)
            .map(|open| (open.tenant, open.server))
            .collect();
        let hosts = servers.iter().map(host).collect();
        let board = Board::new(hosts, &tenants, &coming, &leads);
        Ok(Survey { servers, tenants, open, sizes, board })
    }

    /// A server that does not answer keeps nobody from being planned.
    async fn sizes_on(&self, server: Uuid, tenants: &[Tenant]) -> HashMap<Uuid, u64> {
        let here: Vec<&Tenant> =
            tenants.iter().filter(|tenant| tenant.server_id == server).collect();
        let databases: Vec<_> = here.iter().map(|tenant| tenant.database.clone()).collect();
        let asked = async {
            let sizes = database_sizes(&self.server(server).await?, &databases).await?;
            Ok::<HashMap<String, i64>, super::StepError>(sizes.into_iter().collect())
        };
        match asked.await {
            Ok(sizes) => here
                .iter()
                .filter_map(|one| Some((one.id, sizes.get(one.database.as_str())?.unsigned_abs())))
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "how large the databases of a server are is not known");
                HashMap::new()
            }
        }
    }
}

impl Survey {
    /// Finds a place for everybody on a server, the largest first: what goes, what of it is to be asked for, and
    /// which relocations are to be tried again.
    fn empty(
        &mut self,
        record: &ServerRecord,
        to: &[Destination],
        failed: Failed,
    ) -> (Moves, Vec<Planned>, Vec<Uuid>) {
        let (mut moves, mut planned, mut again) = (Moves::default(), Vec::new(), Vec::new());
        let mut leaving: Vec<Tenant> =
            self.tenants.iter().filter(|tenant| tenant.server_id == record.id).cloned().collect();
        leaving.sort_by_key(|tenant| std::cmp::Reverse(self.sizes.get(&tenant.id).copied()));
        for tenant in &leaving {
            let mut open = self.open.iter().filter(|open| open.tenant == tenant.id);
            let under_way = open.clone().find(|open| open.state != OperationState::Failed);
            let stopped = open.find(|open| open.batch.is_some() && open.batch == record.drain);
            if let Some(open) = under_way {
                moves.going.push(self.going(tenant, open.server, Some(open.operation)));
            } else if let Some(open) = stopped {
                if failed == Failed::Retry && self.board.takes(open.server, tenant) {
                    again.push(open.operation);
                    moves.going.push(self.going(tenant, open.server, Some(open.operation)));
                } else {
                    moves.staying.push(staying(tenant, has_failed(open)));
                }
            } else if !tenant.state.is_settled() {
                let why = format!("it is {}; ask again when its operation has ended", tenant.state);
                moves.staying.push(staying(tenant, why));
            } else {
                match self.board.place(tenant, to) {
                    Ok(server) => {
                        planned.push(Planned { tenant: tenant.id, server, at: moves.going.len() });
                        moves.going.push(self.going(tenant, server, None));
                    }
                    Err(judged) => moves.staying.push(staying(tenant, nowhere(&judged, to))),
                }
            }
        }
        (moves, planned, again)
    }

    /// Moves that bring tenants from where they must not be and even out how many servers have; the smallest go first,
    /// as they cost the least.
    fn even_out(&self) -> (Moves, Vec<Planned>) {
        let (mut moves, mut planned) = (Moves::default(), Vec::new());
        let mut movable: Vec<&Tenant> = self
            .tenants
            .iter()
            .filter(|tenant| tenant.state.is_settled())
            .filter(|tenant| self.sizes.contains_key(&tenant.id))
            .filter(|tenant| !self.open.iter().any(|open| open.tenant == tenant.id))
            .collect();
        movable.sort_by_key(|tenant| self.sizes.get(&tenant.id).copied());
        let mut board = self.board.clone();
        for tenant in &self.tenants {
            let leaves =
                |open: &OpenMove| open.tenant == tenant.id && open.state != OperationState::Failed;
            if self.open.iter().any(leaves) {
                board.send_off(tenant);
            }
        }
        let shifts = board.even_out(&movable);
        for shift in shifts {
            let Some(tenant) = self.tenants.iter().find(|tenant| tenant.id == shift.tenant) else {
                continue;
            };
            let breaks: Vec<String> = shift.breaks.iter().map(Unfit::to_string).collect();
            let Some(server) = shift.to else {
                let why = format!("it must leave ({}), and no server takes it", breaks.join(", "));
                moves.staying.push(staying(tenant, why));
                continue;
            };
            planned.push(Planned { tenant: tenant.id, server, at: moves.going.len() });
            moves.going.push(Going { breaks, ..self.going(tenant, server, None) });
        }
        (moves, planned)
    }

    fn going(&self, tenant: &Tenant, server: Uuid, operation_id: Option<Uuid>) -> Going {
        let to = self.servers.iter().find(|record| record.id == server);
        let bytes = self.sizes.get(&tenant.id).copied();
        Going {
            tenant: tenant.slug.clone(),
            from: tenant.server_name.clone(),
            to: to.map_or_else(String::new, |record| record.name.clone()),
            bytes,
            pause_seconds: bytes.map(|bytes| pause(bytes).as_secs()),
            operation_id,
            breaks: Vec::new(),
        }
    }
}

fn staying(tenant: &Tenant, why: String) -> Staying {
    Staying { tenant: tenant.slug.clone(), server: tenant.server_name.clone(), why }
}

fn has_failed(open: &OpenMove) -> String {
    let error = open.error.as_deref().unwrap_or("nobody knows why");
    let id = open.operation;
    format!(
        "its relocation failed: {error}; see `tenantry operation show {id}`, fix that and drain again, or give it up \
         (`tenantry operation cancel {id}`) to have another place chosen"
    )
}

/// Why no server takes a tenant, server by server.
fn nowhere(judged: &[Judged], to: &[Destination]) -> String {
    if judged.is_empty() {
        let which = if to.is_empty() { "no" } else { "no such" };
        return format!("there is {which} other server; `tenantry server add` brings one");
    }
    let reasons: Vec<String> = judged
        .iter()
        .map(|judged| {
            let unfit: Vec<String> = judged.unfit.iter().map(Unfit::to_string).collect();
            format!("{}: {}", judged.host.name, unfit.join(", "))
        })
        .collect();
    format!("no server takes it ({})", reasons.join("; "))
}

/// A server as the place of tenants; who is there is counted later.
fn host(record: &ServerRecord) -> Host {
    Host {
        id: record.id,
        name: record.name.clone(),
        region: record.region.clone(),
        tags: record.tags.clone(),
        tier: record.tier,
        cordoned: record.cordoned.clone(),
        away: record.away,
        tenants: record.tenants,
        max_tenants: record.max_tenants,
        rival: None,
    }
}
