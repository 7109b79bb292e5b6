//! Copying by rows alone: a clone of the template on the other server gets the rows of the tenant's database.
//!
//! That is how it goes with a small database that is in nothing but its rows otherwise than the template over there; a
//! drain, which moves many of them, takes little more than half as long as by dumps. Whatever is unusual is left to the
//! dump: nothing is decided here that a dump would have to know.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tenantry_provisioning::{Blank, DatabaseName, Server, Shape};

use super::{provision, verify};
use crate::catalog::operations::OperationRecord;
use crate::operations::{StepContext, StepError};

const COPIED: &str = "copied";

/// How the data of a tenant came to another server while its requests waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Copied {
    /// What brought it.
    pub by: CopiedBy,
    /// Why it took a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What brings data to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopiedBy {
    /// A clone of the template, and the rows.
    Rows,
    /// `pg_dump` and `pg_restore`.
    Dump,
}

impl Copied {
    /// What an operation says of itself, if it is one that copies like this.
    #[must_use]
    pub fn of(record: &OperationRecord) -> Option<Self> {
        serde_json::from_value(record.memory.get(COPIED)?.clone()).ok()
    }

    pub(super) async fn note(&self, cx: &StepContext<'_>) -> Result<(), StepError> {
        cx.remember(COPIED, self).await
    }
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by, &self.because) {
            (CopiedBy::Rows, _) => f.write_str("its rows alone"),
            (CopiedBy::Dump, None) => f.write_str("a dump"),
            (CopiedBy::Dump, Some(because)) => write!(f, "a dump: {because}"),
        }
    }
}

/// Copies a database that is out of service into the operation's build, and compares the two. Returns what is in the
/// way of that, where a dump has to be taken.
pub(super) async fn copy(
    cx: &StepContext<'_>,
    source: &Server,
    retired: &DatabaseName,
    target: &Server,
) -> Result<Option<String>, StepError> {
    let set = cx.migrations();
    if cx.tenant.schema_version != set.target_version() {
        return Ok(Some("templates are of another version".to_owned()));
    }
    // Triggers keep quiet for nobody else.
    if !target.is_superuser().await? {
        return Ok(Some("our administrator is no superuser there".to_owned()));
    }
    let template = DatabaseName::template(&cx.environment.template_digest(&set));
    let facts = target.database(&template).await?.filter(|facts| facts.is_template);
    let Some(facts) = facts else {
        return Ok(Some("that server has no template yet".to_owned()));
    };
    let template_is = (target.system_identifier().await?, facts.oid);
    let here = source.connect_apart(retired).await?;
    let shape = Shape::read(&here).await?;
    let known = cx.environment.blank(template_is).await;
    let obstacle = match &known {
        Some(blank) => blank.obstacle(&shape),
        None => shape.odd().map(|odd| format!("it has {odd}")),
    };
    if obstacle.is_some() {
        return Ok(obstacle);
    }
    provision::drop_build(target, cx.operation.id).await?;
    let build = cx.build();
    target.create_clone(&build, &template).await?;
    let there = target.connect_apart(&build).await?;
    let blank = if let Some(blank) = known {
        blank
    } else {
        let blank = Arc::new(Blank::read(&there).await?);
        cx.environment.keep_blank(template_is, Arc::clone(&blank)).await;
        if let Some(obstacle) = blank.obstacle(&shape) {
            return Ok(Some(obstacle));
        }
        blank
    };
    target.ensure_hardened_in(&there).await?;
    if let Some(obstacle) = blank.fill(&shape, &here, &there).await? {
        return Ok(Some(obstacle));
    }
    verify::compare(&here, &there).await?;
    Ok(None)
}
