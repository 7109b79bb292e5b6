//! Rows of `members`: who belongs to a tenant, and what they may do there.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit_log::{self, Event};
use super::slugs::{self, LEADS_TO, SLUGS};
use super::tenants::slug_of;
use super::{Catalog, CatalogError, execute, maybe, rows};
use crate::tenant::{TenantSettings, TenantSlug};

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Everything, and it is theirs.
    Owner,
    /// Everything.
    Admin,
    /// Read and write the tenant's data.
    Member,
    /// Read it; PostgreSQL refuses anything else.
    ReadOnly,
}

/// A user of one identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// The provider's issuer.
    pub issuer: &'a str,
    /// The subject, unique within it.
    pub subject: &'a str,
}

/// A member of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Member {
    /// The provider's issuer.
    pub issuer: String,
    /// The subject, unique within it.
    pub subject: String,
    /// What they may do.
    pub role: MemberRole,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Where a user stands with the tenant that a slug leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The tenant; none where the slug leads to none.
    pub tenant: Option<Uuid>,
    /// The slug that the tenant has now.
    pub slug: TenantSlug,
    /// Every slug that leads to the tenant.
    pub slugs: Vec<TenantSlug>,
    /// What the user may do there, if they are a member.
    pub role: Option<MemberRole>,
    /// Whether a user chose its name, and with it its slug, and no operator has looked at them.
    pub is_unseen: bool,
}

/// Of a tenant `t`: [`Standing::is_unseen`]. An operator who approves its registration after the settings did, or
/// gives it another name, has looked.
const IS_UNSEEN: &str = "exists (select from registrations r
     where r.tenant_id = t.id and r.organization_name = t.name and r.decided_by = 'settings')";

/// An identity provider that a tenant has for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIssuer {
    /// The tenant, by every slug that leads to it or is about to.
    pub slugs: Vec<TenantSlug>,
    /// The provider's issuer.
    pub issuer: String,
    /// Whom its tokens must be meant for; empty when the tenant does not say.
    pub audiences: Vec<String>,
}

impl MemberRole {
    /// Every role, the mightiest first.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Member, Self::ReadOnly];

    /// The role's name in the catalog and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::ReadOnly => "read_only",
        }
    }

    /// Reads a role's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl Catalog {
    /// Makes somebody a member, or gives a member another role.
    pub async fn add_member(
        &self,
        slug: &TenantSlug,
        user: User<'_>,
        role: MemberRole,
        by: &str,
    ) -> Result<(), CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        insert(&transaction, tenant, user, role).await?;
        let detail = json!({ "issuer": user.issuer, "subject": user.subject, "role": role });
        let event = Event { actor: by, action: "member.added", tenant: Some(slug), detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends a membership.
    pub async fn remove_member(
        &self,
        slug: &TenantSlug,
        user: User<'_>,
        by: &str,
    ) -> Result<(), CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let removed = execute(
            &transaction,
            "-- members::remove
             delete from members where tenant_id = $1 and issuer = $2 and subject = $3",
            &[&tenant, &user.issuer, &user.subject],
        )
        .await?;
        if removed == 0 {
            return Err(CatalogError::Missing { what: "member", name: user.subject.to_owned() });
        }
        let detail = json!({ "issuer": user.issuer, "subject": user.subject });
        let event = Event { actor: by, action: "member.removed", tenant: Some(slug), detail };
        audit_log::record(&transaction, &event).await?;
        Ok(transaction.commit().await?)
    }

    /// The members of a tenant.
    pub async fn members(&self, slug: &TenantSlug) -> Result<Vec<Member>, CatalogError> {
        let tenant = self.tenant(slug).await?.id;
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- members::list
             select issuer, subject, role, created_at from members
             where tenant_id = $1 order by issuer, subject",
            &[&tenant],
        )
        .await?;
        Ok(found.iter().map(from_row).collect())
    }

    /// Where somebody stands with the living tenant that a slug leads to, if it leads to one.
    pub async fn standing(
        &self,
        slug: &TenantSlug,
        user: User<'_>,
    ) -> Result<Option<Standing>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- members::standing
             select t.id, t.slug, m.role, {IS_UNSEEN} as is_unseen, {SLUGS} as slugs
             from tenants t
             left join members m on m.tenant_id = t.id and m.issuer = $2 and m.subject = $3
             where t.id = {LEADS_TO} and t.state <> 'deleted'"
        );
        let params: super::Params<'_> = &[&slug.as_str(), &user.issuer, &user.subject];
        let Some(row) = maybe(&client, &sql, params).await? else { return Ok(None) };
        let role = row.get::<_, Option<&str>>("role").is_some().then(|| role_of(&row));
        let (slug, slugs) = (slug_of(&row)?, slugs::all_of(&row)?);
        let (tenant, is_unseen) = (Some(row.get("id")), row.get("is_unseen"));
        Ok(Some(Standing { tenant, slug, slugs, role, is_unseen }))
    }

    /// The living tenants that have an identity provider for themselves.
    pub async fn own_issuers(&self) -> Result<Vec<OwnIssuer>, CatalogError> {
        let client = self.client().await?;
        // With the slugs that a rename is about to give: they are bound from their first moment on.
        let found = rows(
            &client,
            "-- members::own_issuers
             select array(select s.slug from tenant_slugs s where s.tenant_id = t.id) as slugs,
                    jsonb_build_object('sso', t.settings -> 'sso') as settings
             from tenants t
             where t.settings -> 'sso' is not null and t.state <> 'deleted'",
            &[],
        )
        .await?;
        let mut own = Vec::with_capacity(found.len());
        for row in &found {
            if let Some(sso) = TenantSettings::stored(row.get("settings")).sso() {
                let (issuer, audiences) = (sso.issuer().to_owned(), sso.audience().to_vec());
                own.push(OwnIssuer { slugs: slugs::all_of(row)?, issuer, audiences });
            }
        }
        Ok(own)
    }

    /// The living tenant that people know by this name; none if several go by it. A name that a user chose
    /// and no operator has looked at is the user's word: it neither counts nor makes another doubtful.
    pub async fn tenant_known_as(&self, name: &str) -> Result<Option<TenantSlug>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- members::tenant_known_as
             select t.slug from tenants t
             where t.name = $1 and t.state <> 'deleted' and not {IS_UNSEEN}
             limit 2"
        );
        let found = rows(&client, &sql, &[&name]).await?;
        match &found[..] {
            [row] => slug_of(row).map(Some),
            _ => Ok(None),
        }
    }
}

/// Makes somebody a member within a transaction.
pub(super) async fn insert(
    client: &impl GenericClient,
    tenant: Uuid,
    user: User<'_>,
    role: MemberRole,
) -> Result<(), CatalogError> {
    execute(
        client,
        "-- members::add
         insert into members (tenant_id, issuer, subject, role) values ($1, $2, $3, $4)
         on conflict (tenant_id, issuer, subject) do update set role = excluded.role",
        &[&tenant, &user.issuer, &user.subject, &role.as_str()],
    )
    .await
    .map(drop)
}

fn role_of(row: &Row) -> MemberRole {
    MemberRole::parse(row.get("role")).expect("checked by the table")
}

fn from_row(row: &Row) -> Member {
    Member {
        issuer: row.get("issuer"),
        subject: row.get("subject"),
        role: role_of(row),
        created_at: row.get("created_at"),
    }
}
