//! Rows of `registrations`: tenants that users ask for themselves, from the request to the tenant.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::attempts;
use super::audit_log::{self, Event};
use super::members::{self, MemberRole, User};
use super::operations::NewOperation;
use super::tenants::{NewTenant, slug_of};
use super::{Catalog, CatalogError, execute, maybe, one, rows};
use crate::tenant::{TenantSettings, TenantSlug, TenantState, Tier};

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct NewRegistration<'a> {
    /// Slugs that would do, the best one first.
    pub slugs: &'a [TenantSlug],
    /// The tenant's name.
    pub organization_name: &'a str,
    /// Whom to write to.
    pub admin_email: &'a str,
    /// What it is for, in the user's words.
    pub use_case: Option<&'a str>,
    /// How many people they are, in the user's words.
    pub organization_size: Option<&'a str>,
    /// Who asks, and becomes the owner.
    pub user: User<'a>,
    /// Whether an operator has to decide.
    pub requires_approval: bool,
    /// Most tenants that the user may own, with those that are still to come.
    pub max_tenants: i64,
    /// The same request finds the same registration again.
    pub idempotency_key: Option<&'a str>,
}

/// How far a registration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// An operator has to decide.
    Pending,
    /// The tenant is made, or about to be.
    Approved,
    /// An operator said no.
    Rejected,
}

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub id: Uuid,
    /// The id that the tenant has or will have.
    pub tenant_id: Uuid,
    /// Its slug.
    pub slug: TenantSlug,
    /// Its name.
    pub organization_name: String,
    /// Whom to write to.
    pub admin_email: String,
    /// What it is for.
    pub use_case: Option<String>,
    /// How many people they are.
    pub organization_size: Option<String>,
    /// Whose user asked.
    pub issuer: String,
    /// Who asked.
    pub subject: String,
    /// How far it is.
    pub state: RegistrationState,
    /// The tenant's state, once there is one.
    pub tenant_state: Option<TenantState>,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

/// What became of a request for a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is written down, now or before.
    Done(Box<Registration>),
    /// The user has as many tenants as they may have.
    TooMany,
    /// None of the slugs is free.
    NoSlug,
}

/// Registrations are made, and become tenants, one after the other: so a slug is nobody else's from the
/// first look at it, and nobody counts their tenants twice.
const SLUGS: &[u8] = b"slugs of registrations";

const COLUMNS: &str = "r.id, r.tenant_id, r.slug, r.organization_name, r.admin_email, r.use_case, \
     r.organization_size, r.issuer, r.subject, r.state, t.state as tenant_state, r.reason, \
     r.decided_by, r.created_at";

impl RegistrationState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Approved, Self::Rejected];

    /// The state's name in the catalog.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }

    /// Reads a state's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl Registration {
    /// How far it is, in one word for the user.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match (self.state, self.tenant_state) {
            (RegistrationState::Pending, _) => "pending_approval",
            (RegistrationState::Rejected, _) => "rejected",
            (RegistrationState::Approved, Some(state)) => state.as_str(),
            (RegistrationState::Approved, None) => TenantState::Provisioning.as_str(),
        }
    }
}

impl Catalog {
    /// Writes a registration down.
    pub async fn register(&self, new: &NewRegistration<'_>) -> Result<Registered, CatalogError> {
        let User { issuer, subject } = new.user;
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        attempts::lock(&transaction, SLUGS).await?;
        if let Some(earlier) = earlier(&transaction, new.user, new.idempotency_key).await? {
            return Ok(Registered::Done(Box::new(earlier)));
        }
        let row = one(
            &transaction,
            "-- registrations::owned
             select (select count(*) from members m join tenants t on t.id = m.tenant_id
                     where m.issuer = $1 and m.subject = $2 and m.role = 'owner'
                       and t.state <> 'deleted')
                  + (select count(*) from registrations
                     where issuer = $1 and subject = $2 and state <> 'rejected'
                       and fulfilled_at is null) as owned",
            &[&issuer, &subject],
        )
        .await?;
        if row.get::<_, i64>("owned") >= new.max_tenants {
            return Ok(Registered::TooMany);
        }
        let Some(id) = insert(&transaction, new).await? else { return Ok(Registered::NoSlug) };
        let found = by_id(&transaction, id).await?;
        let detail = json!({ "registration": id, "issuer": issuer, "subject": subject,
            "organization_name": new.organization_name });
        let actor = format!("user:{subject}");
        record(&transaction, &actor, "registration.made", &found.slug, detail).await?;
        transaction.commit().await?;
        Ok(Registered::Done(Box::new(found)))
    }

    /// The registration that the user has made with this key.
    pub async fn earlier_registration(
        &self,
        user: User<'_>,
        idempotency_key: &str,
    ) -> Result<Option<Registration>, CatalogError> {
        earlier(&self.client().await?, user, Some(idempotency_key)).await
    }

    /// The registration with this id.
    pub async fn registration(&self, id: Uuid) -> Result<Registration, CatalogError> {
        by_id(&self.client().await?, id).await
    }

    /// Registrations, newest first, before this one if one is given.
    pub async fn registrations(
        &self,
        state: Option<RegistrationState>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Registration>, CatalogError> {
        let client = self.client().await?;
        let sql = format!(
            "-- registrations::list
             select {COLUMNS} from registrations r left join tenants t on t.id = r.tenant_id
             where ($1::text is null or r.state = $1) and ($2::uuid is null or r.id < $2)
             order by r.id desc limit $3"
        );
        let state = state.map(RegistrationState::as_str);
        let found = rows(&client, &sql, &[&state, &before, &limit]).await?;
        found.iter().map(from_row).collect()
    }

    /// Decides on a registration, for good. The same decision again changes nothing, but for an operator who says
    /// yes to what only the settings have approved: from then on the tenant's slug and name count in tokens.
    pub async fn decide_registration(
        &self,
        id: Uuid,
        decision: RegistrationState,
        reason: Option<&str>,
        by: &str,
    ) -> Result<Registration, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let changed = execute(
            &transaction,
            "-- registrations::decide
             update registrations
             set state = $2, reason = $3, decided_by = $4, decided_at = now()
             where id = $1 and (state = 'pending' or $2 = state and decided_by = 'settings')",
            &[&id, &decision.as_str(), &reason, &by],
        )
        .await?;
        let found = by_id(&transaction, id).await?;
        if changed == 0 && found.state != decision {
            let state = found.state.as_str();
            return Err(CatalogError::Conflict(format!("registration {id} is {state} already")));
        }
        if changed > 0 {
            let action = match decision {
                RegistrationState::Rejected => "registration.rejected",
                _ => "registration.approved",
            };
            let detail = json!({ "registration": id, "reason": reason });
            record(&transaction, by, action, &found.slug, detail).await?;
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// Approved registrations that have no tenant yet, oldest first.
    pub async fn registrations_due(&self) -> Result<Vec<Uuid>, CatalogError> {
        let client = self.client().await?;
        let found = rows(
            &client,
            "-- registrations::due
             select id from registrations where state = 'approved' and fulfilled_at is null
             order by created_at",
            &[],
        )
        .await?;
        Ok(found.iter().map(|row| row.get("id")).collect())
    }

    /// Makes the tenant of an approved registration, with the operation that provisions it and its
    /// owner, all or nothing; `None` when another worker has been quicker.
    ///
    /// Somebody may have taken the slug in the meantime: then the tenant gets another one.
    pub async fn fulfil_registration(
        &self,
        id: Uuid,
        operation: impl Fn(Uuid) -> NewOperation<'static>,
    ) -> Result<Option<Registration>, CatalogError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        attempts::lock(&transaction, SLUGS).await?;
        let sql = format!(
            "-- registrations::take
             select {COLUMNS} from registrations r left join tenants t on t.id = r.tenant_id
             where r.id = $1 and r.state = 'approved' and r.fulfilled_at is null
             for update of r"
        );
        let Some(row) = maybe(&transaction, &sql, &[&id]).await? else { return Ok(None) };
        let mut due = from_row(&row)?;
        due.slug = free_slug(&transaction, &due).await?;
        let new = NewTenant {
            slug: due.slug.clone(),
            name: due.organization_name.clone(),
            tier: Tier::Shared,
            settings: TenantSettings::default(),
            server: None,
            track: None,
        };
        self.insert_tenant(&transaction, due.tenant_id, &new, &operation(due.tenant_id)).await?;
        let owner = User { issuer: &due.issuer, subject: &due.subject };
        members::insert(&transaction, due.tenant_id, owner, MemberRole::Owner).await?;
        let detail = json!({ "registration": due.id, "issuer": due.issuer, "subject": due.subject,
            "role": MemberRole::Owner });
        record(&transaction, "registration", "member.added", &due.slug, detail).await?;
        execute(
            &transaction,
            "-- registrations::fulfilled
             update registrations set fulfilled_at = now(), slug = $2 where id = $1",
            &[&due.id, &due.slug.as_str()],
        )
        .await?;
        transaction.commit().await?;
        Ok(Some(due))
    }
}

/// Takes the first slug that is free.
async fn insert(
    client: &impl GenericClient,
    new: &NewRegistration<'_>,
) -> Result<Option<Uuid>, CatalogError> {
    let (state, decided_by) = if new.requires_approval {
        (RegistrationState::Pending, None)
    } else {
        (RegistrationState::Approved, Some("settings"))
    };
    for slug in new.slugs {
        let id = Uuid::now_v7();
        let inserted = execute(
            client,
            "-- registrations::insert
             insert into registrations
                 (id, tenant_id, slug, organization_name, admin_email, use_case,
                  organization_size, issuer, subject, state, decided_by, decided_at,
                  idempotency_key)
             select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                    case when $11::text is not null then now() end, $12
             where not exists (select from tenant_slugs where slug = $3)
             on conflict do nothing",
            &[
                &id,
                &Uuid::now_v7(),
                &slug.as_str(),
                &new.organization_name,
                &new.admin_email,
                &new.use_case,
                &new.organization_size,
                &new.user.issuer,
                &new.user.subject,
                &state.as_str(),
                &decided_by,
                &new.idempotency_key,
            ],
        )
        .await?;
        if inserted > 0 {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// The registration's own slug, or the first like it that nobody has.
async fn free_slug(
    client: &impl GenericClient,
    due: &Registration,
) -> Result<TenantSlug, CatalogError> {
    let others = TenantSlug::suggestions(&due.organization_name);
    let wanted: Vec<&str> =
        std::iter::once(&due.slug).chain(&others).map(TenantSlug::as_str).collect();
    let row = maybe(
        client,
        "-- registrations::free_slug
         select w.slug from unnest($1::text[]) with ordinality w (slug, place)
         where not exists (select from tenant_slugs where slug = w.slug)
           and not exists (select from registrations r where r.slug = w.slug and r.id <> $2
                           and r.state <> 'rejected' and r.fulfilled_at is null)
         order by w.place limit 1",
        &[&wanted, &due.id],
    )
    .await?;
    let taken = || CatalogError::Exists { what: "tenant", name: due.slug.to_string() };
    slug_of(&row.ok_or_else(taken)?)
}

async fn record(
    client: &impl GenericClient,
    actor: &str,
    action: &str,
    slug: &TenantSlug,
    detail: Value,
) -> Result<(), CatalogError> {
    audit_log::record(client, &Event { actor, action, tenant: Some(slug), detail }).await
}

async fn earlier(
    client: &impl GenericClient,
    user: User<'_>,
    idempotency_key: Option<&str>,
) -> Result<Option<Registration>, CatalogError> {
    let sql = format!(
        "-- registrations::earlier
         select {COLUMNS} from registrations r left join tenants t on t.id = r.tenant_id
         where r.issuer = $1 and r.subject = $2 and r.idempotency_key = $3"
    );
    let row = maybe(client, &sql, &[&user.issuer, &user.subject, &idempotency_key]).await?;
    row.as_ref().map(from_row).transpose()
}

async fn by_id(client: &impl GenericClient, id: Uuid) -> Result<Registration, CatalogError> {
    let sql = format!(
        "-- registrations::by_id
         select {COLUMNS} from registrations r left join tenants t on t.id = r.tenant_id
         where r.id = $1"
    );
    match maybe(client, &sql, &[&id]).await? {
        Some(row) => from_row(&row),
        None => Err(CatalogError::Missing { what: "registration", name: id.to_string() }),
    }
}

fn from_row(row: &Row) -> Result<Registration, CatalogError> {
    let tenant_state: Option<&str> = row.get("tenant_state");
    Ok(Registration {
        id: row.get("id"),
        tenant_id: row.get("tenant_id"),
        slug: slug_of(row)?,
        organization_name: row.get("organization_name"),
        admin_email: row.get("admin_email"),
        use_case: row.get("use_case"),
        organization_size: row.get("organization_size"),
        issuer: row.get("issuer"),
        subject: row.get("subject"),
        state: RegistrationState::parse(row.get("state")).expect("checked by the table"),
        tenant_state: tenant_state.and_then(TenantState::parse),
        reason: row.get("reason"),
        decided_by: row.get("decided_by"),
        created_at: row.get("created_at"),
    })
}
