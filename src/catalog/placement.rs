//! Where a new tenant goes: [`Wish::judge`] over the servers as they are, in the transaction that makes the tenant.

use std::collections::BTreeSet;

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;
use uuid::Uuid;

use super::moves::COMING;
use super::servers::AWAY;
use super::tenants::NewTenant;
use super::{Catalog, CatalogError, execute, rows, servers};
use crate::tenant::placement::{Host, Judged, Wish};
use crate::tenant::{Tenant, TenantSettings, TenantSlug, Tier};

/// How often a server that others have just filled is left for the next one.
const TRIES: usize = 8;

/// Whose place is looked for.
#[derive(Clone, Copy)]
struct Guest<'a> {
    slug: &'a TenantSlug,
    settings: &'a TenantSettings,
    tier: Tier,
    server: Option<&'a str>,
}

impl<'a> From<&'a NewTenant> for Guest<'a> {
    fn from(new: &'a NewTenant) -> Self {
        let NewTenant { slug, settings, tier, server, .. } = new;
        Self { slug, settings, tier: *tier, server: server.as_deref() }
    }
}

impl Catalog {
    /// Judges every server as the place of a new tenant, the best first. Nothing is reserved.
    pub async fn placement(&self, new: &NewTenant) -> Result<Vec<Judged>, CatalogError> {
        judge(&self.client().await?, new.into()).await
    }

    /// Writes down whether a server answers.
    pub async fn note_server(&self, id: Uuid, answers: bool) -> Result<(), CatalogError> {
        execute(
            &self.client().await?,
            "-- placement::note_server
             update servers set away_at = case when $2 then null else now() end where id = $1",
            &[&id, &answers],
        )
        .await
        .map(drop)
    }

    /// The server with this name, if a tenant that there is may move to it.
    pub async fn check_place(&self, tenant: &Tenant, server: &str) -> Result<Uuid, CatalogError> {
        let Tenant { slug, settings, tier, .. } = tenant;
        let guest = Guest { slug, settings, tier: *tier, server: Some(server) };
        let judged = judge(&self.client().await?, guest).await?;
        let named = judged.iter().find(|judged| judged.host.name == server);
        match named {
            // Where it is, it may stay.
            Some(named) if named.unfit.is_empty() || named.host.id == tenant.server_id => {
                Ok(named.host.id)
            }
            _ => Err(nowhere(guest, &judged)),
        }
    }
}

/// The server for a tenant that this transaction makes. One that takes so many and no more is locked until the
/// transaction ends, so that two tenants never get the last place.
pub(super) async fn choose(
    transaction: &impl GenericClient,
    new: &NewTenant,
) -> Result<Uuid, CatalogError> {
    let mut locked = BTreeSet::new();
    for _ in 0..TRIES {
        let judged = judge(transaction, new.into()).await?;
        let best = match judged.first() {
            Some(best) if best.unfit.is_empty() => &best.host,
            _ => return Err(nowhere(new.into(), &judged)),
        };
        if best.max_tenants.is_none() || !locked.insert(best.id) {
            return Ok(best.id);
        }
        execute(
            transaction,
            "-- placement::lock\nselect from servers where id = $1 for no key update",
            &[&best.id],
        )
        .await?;
    }
    let full = "servers fill faster than a place is found; try again".to_owned();
    Err(CatalogError::Conflict(full))
}

async fn judge(client: &impl GenericClient, guest: Guest<'_>) -> Result<Vec<Judged>, CatalogError> {
    let Guest { slug, settings, tier, server } = guest;
    let fleet = settings.fleet().cloned().unwrap_or_default();
    let apart: Vec<&str> = fleet.apart_from.iter().map(TenantSlug::as_str).collect();
    let sql = format!(
        "-- placement::hosts
         with places as (
             select id as tenant_id, server_id from tenants where state <> 'deleted'
             union all {COMING}
         )
         select s.id, s.name, s.region, s.tags, s.tier, s.cordoned, s.max_tenants, count(t.id) as tenants,
                {AWAY} as away,
                min(t.slug) filter (where t.slug <> $2 and (t.settings -> 'fleet' -> 'apart_from' ? $2
                    or t.id in (select tenant_id from tenant_slugs where slug = any($1) and leads))) as rival
         from servers s
         left join places p on p.server_id = s.id left join tenants t on t.id = p.tenant_id
         group by s.id"
    );
    let found = rows(client, &sql, &[&apart, &slug.as_str()]).await?;
    let hosts = found.iter().map(host_of).collect::<Result<_, _>>()?;
    let (server, region, tags) = (server.map(str::to_owned), fleet.region, fleet.server_tags);
    Ok(Wish { server, tier, region, tags }.judge(hosts))
}

fn host_of(row: &Row) -> Result<Host, CatalogError> {
    Ok(Host {
        id: row.get("id"),
        name: row.get("name"),
        region: servers::region_of(row)?,
        tags: servers::tags_of(row)?,
        tier: servers::tier_of(row),
        cordoned: row.get("cordoned"),
        away: row.get("away"),
        tenants: row.get("tenants"),
        max_tenants: row.get("max_tenants"),
        rival: row.get("rival"),
    })
}

/// Why there is no place, server by server.
fn nowhere(guest: Guest<'_>, judged: &[Judged]) -> CatalogError {
    let wanted = |judged: &&Judged| guest.server.is_none_or(|name| judged.host.name == name);
    if !judged.iter().any(|judged| wanted(&judged)) {
        let name = guest.server.unwrap_or("any").to_owned();
        return CatalogError::Missing { what: "server", name };
    }
    let reasons: Vec<String> = judged
        .iter()
        .filter(wanted)
        .map(|judged| {
            let unfit: Vec<String> = judged.unfit.iter().map(ToString::to_string).collect();
            format!("{}: {}", judged.host.name, unfit.join(", "))
        })
        .collect();
    CatalogError::Conflict(format!(
        "no server can host `{}` ({}); `tenantry server add` brings another, `tenantry server set` and `uncordon` \
         change what these take",
        guest.slug,
        reasons.join("; ")
    ))
}
