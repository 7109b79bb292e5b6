//! The settings of one tenant, changed one by one.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde_json::{Map, Value};

use super::Admin;
use super::auth::Caller;
use super::error::ApiError;
use crate::catalog::tokens::Scope;
use crate::problem::Problem;
use crate::tenant::{TenantSettings, TenantSlug};

/// Shows a tenant's settings.
#[utoipa::path(get, path = "/api/setup/tenants/{slug}/settings", tag = "tenants", params(("slug" = String, Path)),
    responses((status = OK, body = TenantSettings), (status = NOT_FOUND, body = Problem)))]
pub(super) async fn get(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
) -> Result<Json<TenantSettings>, ApiError> {
    caller.require(Scope::TenantsRead)?;
    let tenant = admin.environment.catalog.tenant(&TenantSlug::parse(&slug)?).await?;
    Ok(Json(tenant.settings))
}

/// Changes some of a tenant's settings.
///
/// The body is a JSON merge patch (RFC 7386): what it names is set, `null` takes away, everything else stays.
/// Changes of different settings at the same time are all kept.
#[utoipa::path(patch, path = "/api/setup/tenants/{slug}/settings", tag = "tenants", params(("slug" = String, Path)),
    request_body(content(
        (Object = "application/merge-patch+json", example = json!({"limits": {"connections": 5}, "branding": null})),
        (Object = "application/json")
    )),
    responses((status = OK, body = TenantSettings), (status = NOT_FOUND, body = Problem),
        (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub(super) async fn change(
    State(admin): State<Admin>,
    caller: Caller,
    Path(slug): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<TenantSettings>, ApiError> {
    caller.require(Scope::TenantsWrite)?;
    let (slug, Json(patch)) = (TenantSlug::parse(&slug)?, body?);
    let (rules, by) = (&admin.environment.limits.settings, caller.requester().name);
    let changed = admin.environment.catalog.change_settings(&slug, by, |before| {
        rules.change(before, |settings| {
            merge(settings, patch);
            Ok(())
        })
    });
    Ok(Json(changed.await?))
}

/// Applies a merge patch, as RFC 7386 has it.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("it is an object now");
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn a_merge_patch_does_what_the_rfc_says() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, result) in cases {
            merge(&mut target, patch.clone());
            assert_eq!(target, result, "{patch}");
        }
    }
}
