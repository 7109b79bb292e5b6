//! What the catalog says that cannot all be true. Constraints and checks keep most of it from being written; this
//! finds what got in around them: by hand, from an old dump, or before a rule was made.

use tokio_postgres::Row;

use crate::catalog::{Catalog, CatalogError, rows};

/// One thing that contradicts another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// What kind: `member_issuer`, `domain_twice`, ….
    pub kind: String,
    /// The tenant that it is about, if it is about one.
    pub tenant: Option<String>,
    /// What it is about.
    pub subject: String,
    /// What stands there.
    pub evidence: String,
}

impl Catalog {
    /// Members that the binding of an issuer shuts out, domains of two, registrations without their tenant, tenants
    /// whose schema is not what the files make, and who are where they must not be.
    pub async fn contradictions(&self) -> Result<Vec<Contradiction>, CatalogError> {
        let found = rows(
            &self.client().await?,
            "-- contradictions::list
             with living as materialized (
                 select id, slug, settings -> 'sso' ->> 'issuer' as issuer from tenants where state <> 'deleted'
             )
             select 'member_issuer' as kind, t.slug as tenant, m.subject as subject,
                    'a member of ' || t.slug || ' by ' || m.issuer || ', and the tenant accepts only ' || t.issuer
                    as evidence
             from members m join living t on t.id = m.tenant_id
             where t.issuer is not null and m.issuer <> t.issuer
             union all
             select 'domain_twice', min(t.slug), lower(d.domain),
                    'verified for ' || string_agg(t.slug, ' and ' order by t.slug)
             from domains d join tenants t on t.id = d.tenant_id
             where d.verified_at is not null group by lower(d.domain) having count(*) > 1
             union all
             select 'domain_of_nobody', t.slug, d.domain, 'verified for ' || t.slug || ', which is deleted'
             from domains d join tenants t on t.id = d.tenant_id
             where d.verified_at is not null and t.state = 'deleted'
             union all
             select 'registration_without_tenant', null, r.id::text,
                    'the registration of ' || r.slug || ' is fulfilled, and there is no such tenant'
             from registrations r
             where r.fulfilled_at is not null and not exists (select from tenants t where t.id = r.tenant_id)
             union all
             select 'schema_drift', t.slug, t.slug,
                    c.differences || ' differences at version ' || c.version || ', seen ' || c.checked_at::date
             from schema_checks c join living t on t.id = c.tenant_id where c.differences > 0
             union all
             select 'out_of_region', t.slug, t.slug,
                    'its region is ' || (t.settings -> 'fleet' ->> 'region') || ', and server ' || s.name || ' is in '
                    || coalesce(s.region, 'none')
             from tenants t join servers s on s.id = t.server_id
             where t.state <> 'deleted' and t.settings -> 'fleet' ->> 'region' is distinct from s.region
               and t.settings -> 'fleet' ->> 'region' is not null
             union all
             select 'not_tagged', t.slug, t.slug, 'it asks for a server with ' || tag || ', and ' || s.name || ' is not tagged so'
             from tenants t join servers s on s.id = t.server_id
             cross join jsonb_array_elements_text(t.settings -> 'fleet' -> 'server_tags') tag
             where t.state <> 'deleted' and s.tags ->> split_part(tag, '=', 1) is distinct from split_part(tag, '=', 2)
             union all
             select 'not_apart', t.slug, t.slug, 'it is kept apart from ' || o.slug || ', and both are on ' || s.name
             from tenants t join tenants o on o.server_id = t.server_id and o.id <> t.id and o.state <> 'deleted'
             join tenant_slugs n on n.tenant_id = o.id and n.leads join servers s on s.id = t.server_id
             where t.state <> 'deleted' and t.settings -> 'fleet' -> 'apart_from' ? n.slug
             order by 1, 2, 3",
            &[],
        )
        .await?;
        let contradiction = |row: &Row| Contradiction {
            kind: row.get("kind"),
            tenant: row.get("tenant"),
            subject: row.get("subject"),
            evidence: row.get("evidence"),
        };
        Ok(found.iter().map(contradiction).collect())
    }
}
