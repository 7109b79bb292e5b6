//! The only function that builds a tenant's pool.

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::SimpleQueryMessage;

use super::{Mode, RouterSettings};
use crate::catalog::tenants::Place;
use crate::tenant::settings::Limits;

/// A pool of connections to one tenant's database, as that tenant's role. Every new connection proves
/// by the database's stamp that it reached this tenant and this epoch, and has the tenant's timeouts from
/// its start.
#[expect(clippy::disallowed_methods, reason = "this is the one place that builds tenant pools")]
pub(super) fn build(place: &Place, mode: Mode, settings: &RouterSettings) -> Pool {
    let tenant = &place.tenant;
    let url = place
        .server
        .with_database(tenant.database.as_str())
        .with_user(tenant.role.as_str(), &place.password);
    let limits = tenant.settings.limits();
    // A statement that could lift one of them marks its session, which is then closed.
    let url = match options(mode, limits) {
        options if options.is_empty() => url,
        options => url.with_options(&options.join(" ")),
    };
    let most = limits.and_then(Limits::connections).unwrap_or(usize::MAX);
    let manager = Manager::from_config(
        url.config(),
        url.tls(),
        // No query at checkout: it would halve the throughput. A dead connection shows at its first use.
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let stamp = format!("{}:{}", tenant.id, tenant.epoch);
    let wait = Some(settings.pool_wait_timeout);
    Pool::builder(manager)
        .max_size(settings.pool_max_size.min(most))
        // The connection used last is warm, and those that are not needed grow idle and are closed.
        .queue_mode(QueueMode::Lifo)
        .timeouts(Timeouts { wait, create: wait, recycle: wait })
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(move |client, _| {
            let stamp = stamp.clone();
            Box::pin(async move {
                let answer = client
                    .simple_query(
                        "-- router::stamp\nselect current_setting('tenantry.tenant', true)",
                    )
                    .await
                    .map_err(HookError::Backend)?;
                let found = answer.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                if found == Some(stamp.as_str()) {
                    Ok(())
                } else {
                    Err(HookError::message("the stamp is another one"))
                }
            })
        }))
        .build()
        .expect("a runtime is given")
}

/// What a connection's session begins with.
fn options(mode: Mode, limits: Option<&Limits>) -> Vec<String> {
    let mut options = Vec::new();
    if mode == Mode::ReadOnly {
        options.push("-c default_transaction_read_only=on".to_owned());
    }
    let timeouts = [
        ("statement_timeout", limits.and_then(Limits::statement_timeout)),
        (
            "idle_in_transaction_session_timeout",
            limits.and_then(Limits::idle_in_transaction_timeout),
        ),
    ];
    for (name, timeout) in timeouts {
        options.extend(timeout.map(|timeout| format!("-c {name}={}", timeout.as_millis())));
    }
    options
}
