//! Who goes where when servers are emptied or evened out. Pure.
//!
//! Every move keeps the rules of [`super::placement`], and what is planned counts for whatever is planned after it: a
//! plan as a whole breaks none. Tenants that are on their way already count in both places.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use thiserror::Error;
use uuid::Uuid;

use super::placement::{Host, Judged, Unfit, Wish};
use super::{Label, Tag, Tenant, TenantSlug, Tier};

/// The servers, and who is or will be on them.
#[derive(Clone, Debug)]
pub struct Board {
    hosts: Vec<Host>,
    /// By tenant, the servers that it is on or will be.
    places: HashMap<Uuid, BTreeSet<Uuid>>,
    /// By tenant, those that must not be beside it.
    rivals: HashMap<Uuid, BTreeMap<Uuid, TenantSlug>>,
}

/// A move that evens servers out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The tenant.
    pub tenant: Uuid,
    /// The server that it goes to; none where it must leave its own, and no other takes it.
    pub to: Option<Uuid>,
    /// The rules that it breaks where it is; none where it goes so that servers have alike many.
    pub breaks: Vec<Unfit>,
}

/// Servers to which tenants may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This one.
    Server(String),
    /// Those of a region.
    Region(Label),
    /// Those that take only this tier.
    Tier(Tier),
    /// Those that have this tag.
    Tag(Tag),
    /// Those that have a tag with this key.
    Tagged(Label),
}

/// A text that names no servers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` names no servers: use a server's name, region=NAME, tier=shared, tier=dedicated, KEY=VALUE for a tag, or tag=KEY \
     for any value of it"
)]
pub struct DestinationError(String);

impl Destination {
    /// Reads `eu-2`, `region=eu`, `tier=dedicated`, `disk=nvme` or `tag=disk`.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let read = match text.split_once('=') {
            None => Label::parse(text).ok().map(|name| Self::Server(name.to_string())),
            Some(("region", name)) => Label::parse(name).ok().map(Self::Region),
            Some(("tier", name)) => Tier::parse(name).map(Self::Tier),
            Some(("tag", key)) => Tag::parse_key(key).ok().map(Self::Tagged),
            Some(_) => Tag::parse(text).ok().map(Self::Tag),
        };
        read.ok_or_else(|| DestinationError(text.to_owned()))
    }

    fn has(&self, host: &Host) -> bool {
        match self {
            Self::Server(name) => *name == host.name,
            Self::Region(region) => host.region.as_ref() == Some(region),
            Self::Tier(tier) => host.tier == Some(*tier),
            Self::Tag(tag) => tag.is_in(&host.tags),
            Self::Tagged(key) => host.tags.contains_key(key),
        }
    }
}

impl Board {
    /// The servers, counted by whom the catalog has there and by `coming`: tenants, and the servers that they are on
    /// their way to. `leads` has the earlier slugs by which tenants can still be named.
    #[must_use]
    pub fn new(
        hosts: Vec<Host>,
        tenants: &[Tenant],
        coming: &[(Uuid, Uuid)],
        leads: &HashMap<TenantSlug, Uuid>,
    ) -> Self {
        let mut places: HashMap<Uuid, BTreeSet<Uuid>> = HashMap::new();
        let at_home = tenants.iter().map(|tenant| (tenant.id, tenant.server_id));
        for (tenant, server) in at_home.chain(coming.iter().copied()) {
            places.entry(tenant).or_default().insert(server);
        }
        let mut board = Self { hosts, places, rivals: rivals(tenants, leads) };
        for host in &mut board.hosts {
            let here = board.places.values().filter(|places| places.contains(&host.id)).count();
            host.tenants = i64::try_from(here).unwrap_or(i64::MAX);
        }
        board
    }

    /// Finds a place for a tenant on another server than its own, and takes it. Without one, every server that was
    /// asked about says why.
    pub fn place(&mut self, tenant: &Tenant, to: &[Destination]) -> Result<Uuid, Vec<Judged>> {
        let judged = self.judge(tenant, |host| {
            host.id != tenant.server_id && (to.is_empty() || to.iter().any(|to| to.has(host)))
        });
        match judged.first() {
            Some(best) if best.unfit.is_empty() => {
                let server = best.host.id;
                self.put(tenant.id, server);
                Ok(server)
            }
            _ => Err(judged),
        }
    }

    /// Takes a tenant that is on its way for gone from where it is.
    pub fn send_off(&mut self, tenant: &Tenant) {
        self.take_back(tenant.id, tenant.server_id);
    }

    /// Whether a tenant may go to a server that is named.
    #[must_use]
    pub fn takes(&self, server: Uuid, tenant: &Tenant) -> bool {
        // It has a place there already, if it is on its way.
        let mut board = self.clone();
        board.take_back(tenant.id, server);
        board.judge(tenant, |host| host.id == server).iter().any(|judged| judged.unfit.is_empty())
    }

    /// The moves that bring tenants from where they must not be, and then even out how many tenants servers have: from
    /// the one with the most, the first of `tenants` that may go to one with at least two fewer. Nobody leaves a
    /// server that is kept for its tier, and servers that take nobody are left as they are.
    pub fn even_out(&mut self, tenants: &[&Tenant]) -> Vec<Shift> {
        let mut shifts = self.mend(tenants);
        let moved: BTreeSet<Uuid> = shifts.iter().map(|shift| shift.tenant).collect();
        let mut left: Vec<&Tenant> = tenants.to_vec();
        left.retain(|tenant| !moved.contains(&tenant.id));
        let mut done: BTreeSet<Uuid> = BTreeSet::new();
        while let Some(fullest) = self.fullest(&done) {
            let mut next =
                left.iter().enumerate().filter(|(_, tenant)| tenant.server_id == fullest);
            let found = next.find_map(|(at, tenant)| Some((at, self.emptier(fullest, tenant)?)));
            match found {
                Some((at, to)) => {
                    let tenant = left.remove(at).id;
                    self.put(tenant, to);
                    self.take_back(tenant, fullest);
                    shifts.push(Shift { tenant, to: Some(to), breaks: Vec::new() });
                }
                None => drop(done.insert(fullest)),
            }
        }
        shifts
    }

    /// Brings tenants from where they must not be.
    fn mend(&mut self, tenants: &[&Tenant]) -> Vec<Shift> {
        let mut shifts = Vec::new();
        for tenant in tenants {
            let here = tenant.server_id;
            let mut breaks: Vec<Unfit> = self
                .judge(tenant, |host| host.id == here)
                .pop()
                .map_or_else(Vec::new, |judged| judged.unfit);
            breaks.retain(|unfit| match unfit {
                Unfit::Region(_) | Unfit::Tag(_) | Unfit::Tier(_) | Unfit::Rival(_) => true,
                Unfit::NotNamed | Unfit::Cordoned(_) | Unfit::Away | Unfit::Full(_) => false,
            });
            if breaks.is_empty() {
                continue;
            }
            let to = self.place(tenant, &[]).ok();
            if to.is_some() {
                self.take_back(tenant.id, here);
            }
            shifts.push(Shift { tenant: tenant.id, to, breaks });
        }
        shifts
    }

    /// The server with the most tenants, of those that take some.
    fn fullest(&self, done: &BTreeSet<Uuid>) -> Option<Uuid> {
        let open =
            self.hosts.iter().filter(|host| host.cordoned.is_none() && !done.contains(&host.id));
        open.max_by_key(|host| host.tenants).map(|host| host.id)
    }

    /// A server for a tenant that has at least two fewer.
    fn emptier(&self, than: Uuid, tenant: &Tenant) -> Option<Uuid> {
        let here = self.hosts.iter().find(|host| host.id == than)?;
        let is_kept = |host: &Host| host.tier == Some(tenant.tier);
        let judged = self.judge(tenant, |host| {
            host.id != than && host.tenants + 1 < here.tenants && is_kept(host) >= is_kept(here)
        });
        let best = judged.first().filter(|best| best.unfit.is_empty())?;
        Some(best.host.id)
    }

    fn judge(&self, tenant: &Tenant, among: impl Fn(&Host) -> bool) -> Vec<Judged> {
        let fleet = tenant.settings.fleet().cloned().unwrap_or_default();
        let (region, tags) = (fleet.region, fleet.server_tags);
        let wish = Wish { server: None, tier: tenant.tier, region, tags };
        let host = |host: &Host| {
            let rival = self.rival(tenant.id, host.id).map(ToString::to_string);
            Host { rival, ..host.clone() }
        };
        wish.judge(self.hosts.iter().filter(|host| among(host)).map(host).collect())
    }

    fn rival(&self, tenant: Uuid, server: Uuid) -> Option<&TenantSlug> {
        let is_there =
            |rival: &Uuid| self.places.get(rival).is_some_and(|places| places.contains(&server));
        self.rivals.get(&tenant)?.iter().find(|(rival, _)| is_there(rival)).map(|(_, slug)| slug)
    }

    fn put(&mut self, tenant: Uuid, server: Uuid) {
        if self.places.entry(tenant).or_default().insert(server) {
            self.count(server, 1);
        }
    }

    fn take_back(&mut self, tenant: Uuid, server: Uuid) {
        if self.places.entry(tenant).or_default().remove(&server) {
            self.count(server, -1);
        }
    }

    fn count(&mut self, server: Uuid, more: i64) {
        if let Some(host) = self.hosts.iter_mut().find(|host| host.id == server) {
            host.tenants += more;
        }
    }
}

/// Who must not be beside whom; it holds in both directions, whoever said it.
fn rivals(
    tenants: &[Tenant],
    leads: &HashMap<TenantSlug, Uuid>,
) -> HashMap<Uuid, BTreeMap<Uuid, TenantSlug>> {
    let slugs: HashMap<Uuid, &TenantSlug> =
        tenants.iter().map(|tenant| (tenant.id, &tenant.slug)).collect();
    let ids: HashMap<&TenantSlug, Uuid> =
        tenants.iter().map(|tenant| (&tenant.slug, tenant.id)).collect();
    let mut rivals: HashMap<Uuid, BTreeMap<Uuid, TenantSlug>> = HashMap::new();
    for tenant in tenants {
        let Some(fleet) = tenant.settings.fleet() else { continue };
        for named in &fleet.apart_from {
            let other = ids.get(named).or_else(|| leads.get(named)).copied();
            let Some((other, slug)) = other.and_then(|id| Some((id, *slugs.get(&id)?))) else {
                continue;
            };
            if other != tenant.id {
                rivals.entry(tenant.id).or_default().insert(other, slug.clone());
                rivals.entry(other).or_default().insert(tenant.id, tenant.slug.clone());
            }
        }
    }
    rivals
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use tenantry_provisioning::{DatabaseName, RoleName};

    use super::*;
    use crate::tenant::{EffectiveLimits, Tags, TenantSettings, TenantState};

    fn host(number: u128, max_tenants: Option<i32>) -> Host {
        Host {
            id: Uuid::from_u128(number),
            name: format!("s{number}"),
            region: None,
            tags: Tags::new(),
            tier: None,
            cordoned: None,
            away: false,
            tenants: 0,
            max_tenants,
            rival: None,
        }
    }

    fn tenant(slug: &str, server: u128, apart_from: &[&str]) -> Tenant {
        let settings =
            TenantSettings::parse(json!({ "fleet": { "apart_from": apart_from } })).unwrap();
        Tenant {
            id: Uuid::now_v7(),
            slug: TenantSlug::parse(slug).unwrap(),
            name: slug.to_owned(),
            tier: Tier::Shared,
            state: TenantState::Active,
            suspended_reason: None,
            limits: EffectiveLimits::default(),
            settings,
            server_id: Uuid::from_u128(server),
            server_name: format!("s{server}"),
            server_region: None,
            database: DatabaseName::tenant(slug).unwrap(),
            role: RoleName::tenant(slug).unwrap(),
            epoch: 1,
            generation: 1,
            schema_version: 0,
            repeatables_digest: String::new(),
            track: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn board(hosts: Vec<Host>, tenants: &[Tenant]) -> Board {
        Board::new(hosts, tenants, &[], &HashMap::new())
    }

    #[test]
    fn what_is_planned_first_counts_for_what_comes_after_it() {
        let tenants = ["a", "b", "c"].map(|slug| tenant(slug, 1, &[]));
        let mut board = board(vec![host(1, None), host(2, Some(1)), host(3, Some(1))], &tenants);

        let placed: Vec<_> = tenants.iter().map(|tenant| board.place(tenant, &[])).collect();

        assert_eq!(placed[0], Ok(Uuid::from_u128(2)));
        assert_eq!(placed[1], Ok(Uuid::from_u128(3)));
        let full = placed[2].as_ref().unwrap_err();
        assert!(full.iter().all(|judged| judged.unfit == [Unfit::Full(1)]), "{full:?}");
    }

    #[test]
    fn rivals_do_not_meet_on_their_way() {
        let tenants = [tenant("a", 1, &["b"]), tenant("b", 2, &[])];
        let mut board = board(vec![host(1, None), host(2, None), host(3, None)], &tenants);

        assert_eq!(board.place(&tenants[1], &[]), Ok(Uuid::from_u128(3)));
        let both = [Destination::Server("s2".to_owned()), Destination::Server("s3".to_owned())];
        let nowhere = board.place(&tenants[0], &both).unwrap_err();
        assert!(nowhere.iter().all(|judged| judged.unfit == [Unfit::Rival("b".to_owned())]));
    }

    #[test]
    fn servers_are_evened_out_and_no_further() {
        let mut tenants: Vec<Tenant> = (0..7).map(|n| tenant(&format!("t{n}"), 1, &[])).collect();
        tenants.push(tenant("misplaced", 2, &["stays"]));
        tenants.push(tenant("stays", 2, &[]));
        let mut closed = host(3, None);
        closed.cordoned = Some(String::new());
        let mut board = board(vec![host(1, None), host(2, None), closed], &tenants);

        let shifts = board.even_out(&tenants.iter().collect::<Vec<_>>());

        assert_eq!(shifts[0].breaks, [Unfit::Rival("stays".to_owned())]);
        assert_eq!(shifts[0].to, Some(Uuid::from_u128(1)));
        // Eight beside one: three moves later it is five beside four.
        assert_eq!(shifts.len(), 4, "{shifts:?}");
        assert!(shifts[1..].iter().all(|shift| shift.to == Some(Uuid::from_u128(2))));
        assert_eq!(board.hosts.iter().map(|host| host.tenants).collect::<Vec<_>>(), [5, 4, 0]);
    }

    #[test]
    fn a_destination_is_a_server_a_region_a_tier_or_a_tag() {
        assert_eq!(Destination::parse("eu-2"), Ok(Destination::Server("eu-2".to_owned())));
        assert_eq!(Destination::parse("tier=dedicated"), Ok(Destination::Tier(Tier::Dedicated)));
        let eu = Label::parse("eu").unwrap();
        assert_eq!(Destination::parse("region=eu"), Ok(Destination::Region(eu)));
        let tag = Tag::parse("disk=nvme").unwrap();
        assert_eq!(Destination::parse("tag=disk"), Ok(Destination::Tagged(tag.key.clone())));
        assert_eq!(Destination::parse("disk=nvme"), Ok(Destination::Tag(tag)));
        for text in ["", "tier=gold", "region=", "server=eu-1", "disk=", "tag=tier", "EU"] {
            assert!(Destination::parse(text).is_err(), "{text}");
        }
    }
}
