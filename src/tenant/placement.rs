//! Where a tenant goes. Pure.
//!
//! Rules are hard: a server that breaks one never hosts the tenant, named or not. Among the servers that are left,
//! one that is kept for the tenant's tier comes first, then the one with the fewest tenants. Every server is judged,
//! so that an operator sees why the others were not taken.

use std::collections::BTreeSet;
use std::fmt;

use uuid::Uuid;

use super::{Label, Tag, Tags, Tier};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// This server and no other.
    pub server: Option<String>,
    /// How the tenant is hosted.
    pub tier: Tier,
    /// Only servers of this region.
    pub region: Option<Label>,
    /// Only servers that have all of these.
    pub tags: BTreeSet<Tag>,
}

/// A server that could host a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub region: Option<Label>,
    /// What it is beside that.
    pub tags: Tags,
    /// It takes only tenants of this tier.
    pub tier: Option<Tier>,
    /// Nobody is placed there, and why.
    pub cordoned: Option<String>,
    /// It did not answer a moment ago.
    pub away: bool,
    /// How many living tenants it has, or will have when those that are on their way have come.
    pub tenants: i64,
    /// It takes no more than this.
    pub max_tenants: Option<i32>,
    /// A tenant that must not be beside the one that is placed.
    pub rival: Option<String>,
}

/// A server, and every rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The server.
    pub host: Host,
    /// Why it cannot host the tenant; nothing where it can.
    pub unfit: Vec<Unfit>,
}

/// A rule that a server breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Another one was asked for.
    NotNamed,
    /// It stands elsewhere, or nobody has said where.
    Region(Option<Label>),
    /// It has not this tag.
    Tag(Tag),
    /// It is kept for another tier.
    Tier(Tier),
    /// It takes nobody.
    Cordoned(String),
    /// It does not answer.
    Away,
    /// It has as many as it takes.
    Full(i32),
    /// It has a tenant that must not be beside this one.
    Rival(String),
}

impl Wish {
    /// Judges servers: first those that can host the tenant, the best first.
    #[must_use]
    pub fn judge(&self, hosts: Vec<Host>) -> Vec<Judged> {
        let judged = hosts.into_iter().map(|host| Judged { unfit: self.unfit(&host), host });
        let mut judged: Vec<Judged> = judged.collect();
        judged.sort_by(|one, other| {
            let key = |judged: &Judged| {
                let is_kept = judged.host.tier == Some(self.tier);
                (judged.unfit.len(), !is_kept, judged.host.tenants)
            };
            key(one).cmp(&key(other)).then_with(|| one.host.name.cmp(&other.host.name))
        });
        judged
    }

    fn unfit(&self, host: &Host) -> Vec<Unfit> {
        let mut unfit = Vec::new();
        if self.server.as_ref().is_some_and(|name| *name != host.name) {
            unfit.push(Unfit::NotNamed);
        }
        if self.region.is_some() && self.region != host.region {
            unfit.push(Unfit::Region(host.region.clone()));
        }
        let missing = self.tags.iter().filter(|tag| !tag.is_in(&host.tags));
        unfit.extend(missing.cloned().map(Unfit::Tag));
        unfit.extend(host.tier.filter(|tier| *tier != self.tier).map(Unfit::Tier));
        unfit.extend(host.cordoned.clone().map(Unfit::Cordoned));
        unfit.extend(host.away.then_some(Unfit::Away));
        let full = host.max_tenants.filter(|most| host.tenants >= i64::from(*most));
        unfit.extend(full.map(Unfit::Full));
        unfit.extend(host.rival.clone().map(Unfit::Rival));
        unfit
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("another server was named"),
            Self::Region(Some(region)) => write!(f, "it is in region {region}"),
            Self::Region(None) => f.write_str("it is in no region"),
            Self::Tag(tag) => write!(f, "it is not tagged {tag}"),
            Self::Tier(tier) => write!(f, "it takes only tier {}", tier.as_str()),
            Self::Cordoned(reason) if reason.is_empty() => f.write_str("it is cordoned"),
            Self::Cordoned(reason) => write!(f, "it is cordoned: {reason}"),
            Self::Away => f.write_str("it does not answer"),
            Self::Full(most) => write!(f, "it is full: it takes at most {most}"),
            Self::Rival(slug) => write!(f, "it has {slug}, from which the tenant is kept apart"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, tenants: i64) -> Host {
        Host {
            id: Uuid::nil(),
            name: name.to_owned(),
            region: None,
            tags: Tags::new(),
            tier: None,
            cordoned: None,
            away: false,
            tenants,
            max_tenants: None,
            rival: None,
        }
    }

    fn label(name: &str) -> Label {
        Label::parse(name).unwrap()
    }

    fn order(wish: &Wish, hosts: Vec<Host>) -> Vec<(String, usize)> {
        let judged = wish.judge(hosts);
        judged.into_iter().map(|judged| (judged.host.name, judged.unfit.len())).collect()
    }

    #[test]
    fn the_emptiest_comes_first_and_names_decide_between_equals() {
        let hosts = vec![host("c", 3), host("b", 1), host("a", 1)];

        let order = order(&Wish::default(), hosts);

        assert_eq!(order, [("a".to_owned(), 0), ("b".to_owned(), 0), ("c".to_owned(), 0)]);
    }

    #[test]
    fn no_rule_gives_way_to_a_name() {
        let wish =
            Wish { server: Some("b".to_owned()), region: Some(label("eu")), ..Wish::default() };
        let eu = Host { region: Some(label("eu")), ..host("a", 0) };
        let us = Host { region: Some(label("us")), cordoned: Some(String::new()), ..host("b", 0) };

        let judged = wish.judge(vec![eu, us]);

        assert_eq!(judged[0].unfit, [Unfit::NotNamed]);
        let rules = [Unfit::Region(Some(label("us"))), Unfit::Cordoned(String::new())];
        assert_eq!(judged[1].unfit, rules);
    }

    #[test]
    fn a_server_without_a_region_is_in_none() {
        let wish = Wish { region: Some(label("eu")), ..Wish::default() };

        assert_eq!(wish.judge(vec![host("a", 0)])[0].unfit, [Unfit::Region(None)]);
    }

    #[test]
    fn what_is_kept_for_a_tier_goes_to_it_and_to_nobody_else() {
        let kept = || Host { tier: Some(Tier::Dedicated), ..host("kept", 5) };
        let dedicated = Wish { tier: Tier::Dedicated, ..Wish::default() };

        let first = order(&dedicated, vec![host("any", 0), kept()]);
        assert_eq!(first, [("kept".to_owned(), 0), ("any".to_owned(), 0)]);

        let first = order(&Wish::default(), vec![kept(), host("any", 9)]);
        assert_eq!(first, [("any".to_owned(), 0), ("kept".to_owned(), 1)]);
    }

    #[test]
    fn a_server_needs_every_tag_that_is_asked_for() {
        let tag = |text: &str| Tag::parse(text).unwrap();
        let has = |tags: &[&str]| -> Tags {
            tags.iter().map(|text| tag(text)).map(|tag| (tag.key, tag.value)).collect()
        };
        let wish = Wish { tags: [tag("disk=nvme"), tag("rack=7")].into(), ..Wish::default() };
        let both = Host { tags: has(&["disk=nvme", "rack=7", "os=12"]), ..host("z", 9) };
        let one = Host { tags: has(&["disk=ssd", "rack=7"]), ..host("a", 0) };

        let judged = wish.judge(vec![one, both]);

        assert_eq!(judged[0].host.name, "z");
        assert_eq!(judged[1].unfit, [Unfit::Tag(tag("disk=nvme"))]);
    }

    #[test]
    fn full_is_full() {
        let full = Host { max_tenants: Some(2), ..host("a", 2) };
        let roomy = Host { max_tenants: Some(3), ..host("b", 2) };

        let judged = Wish::default().judge(vec![full, roomy]);

        assert_eq!(judged[0].host.name, "b");
        assert_eq!(judged[1].unfit, [Unfit::Full(2)]);
    }
}
