//! Boards with cards: the smallest useful application on the library. Every tenant has its own, and no line
//! of it says `where tenant_id = …`.
//!
//! ```sh
//! tenantry dev                     # in another terminal; it prints the next two paths
//! export TENANTRY_CONFIG=…/tenantry.toml
//! tenantry tenant create --slug acme-corp --sample-data
//! cargo run --example boards
//! curl -H "Authorization: Bearer $(cat …/admin-token)" -H 'X-Tenant: acme-corp' localhost:3000/boards
//! ```
//!
//! The settings are those of `tenantry serve`: the application finds the same catalog, and believes the same
//! identity providers. The schema is `migrations/tenant/V1__boards.sql`.

use axum::extract::{FromRef, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tenantry::config::Settings;
use tenantry::problem::Problem;
use tenantry::resolve::{Access, Resolved};
use tenantry::tokio_postgres::error::SqlState;
use tenantry::tokio_postgres::{Error, Row};
use tenantry::{Tenancy, TenantConnection, TenantLayer, TenantRouter, TenantScope};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[derive(Clone)]
struct App {
    tenancy: Tenancy,
    jobs: mpsc::Sender<String>,
}

impl FromRef<App> for Tenancy {
    fn from_ref(app: &App) -> Self {
        app.tenancy.clone()
    }
}

#[derive(Serialize)]
struct Board {
    id: i64,
    title: String,
}

#[derive(Serialize)]
struct Card {
    id: i64,
    title: String,
    done: bool,
}

#[derive(Deserialize)]
struct New {
    title: String,
}

/// A background job: what to do, and whose work it is. This is what lies in the queue.
#[derive(Serialize, Deserialize)]
pub struct FinishBoard {
    /// Whose.
    pub scope: TenantScope,
    /// The board whose cards are done.
    pub board: i64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt().init();
    let settings = Settings::load(None, &[])?;
    let catalog = settings.catalog()?;
    catalog.verify().await?;
    let router = TenantRouter::new(catalog.clone(), catalog.changes(), settings.router());
    let tenancy = Tenancy { router, resolver: settings.resolver(&catalog) };
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, application(tenancy)).await?)
}

/// The routes. Nobody reaches one without a tenant that they may name.
pub fn application(tenancy: Tenancy) -> Router {
    let (jobs, queue) = mpsc::channel(100);
    tokio::spawn(work(tenancy.router.clone(), queue));
    Router::new()
        .route("/boards", get(list_boards).post(create_board))
        .route("/boards/{id}/cards", get(list_cards).post(create_card))
        .route("/boards/{id}/finish", post(finish_board))
        .route_layer(TenantLayer::new(tenancy.clone()))
        .with_state(App { tenancy, jobs })
}

async fn list_boards(tenant: TenantConnection) -> Result<Json<Vec<Board>>, Problem> {
    let rows = tenant.query("select id, title from boards order by id", &[]).await;
    Ok(Json(rows.map_err(failed)?.iter().map(board).collect()))
}

async fn create_board(
    tenant: TenantConnection,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Board>), Problem> {
    let sql = "insert into boards (title) values ($1) returning id, title";
    let row = tenant.query_one(sql, &[&new.title]).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(board(&row))))
}

async fn list_cards(
    tenant: TenantConnection,
    Path(id): Path<i64>,
) -> Result<Json<Vec<Card>>, Problem> {
    let sql = "select id, title, done from cards where board_id = $1 order by id";
    let rows = tenant.query(sql, &[&id]).await.map_err(failed)?;
    Ok(Json(rows.iter().map(card).collect()))
}

async fn create_card(
    tenant: TenantConnection,
    Path(id): Path<i64>,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Card>), Problem> {
    let sql = "insert into cards (board_id, title) select id, $2 from boards where id = $1
               returning id, title, done";
    let row = tenant.query_opt(sql, &[&id, &new.title]).await.map_err(failed)?;
    let none = || Problem::new(StatusCode::NOT_FOUND, "no_such_board", "Not found", "see /boards");
    Ok((StatusCode::CREATED, Json(card(&row.ok_or_else(none)?))))
}

/// Needs no connection now: the job gets its own. That one may write, so the caller must be one who may.
async fn finish_board(
    State(app): State<App>,
    caller: Resolved,
    scope: TenantScope,
    Path(board): Path<i64>,
) -> Result<StatusCode, Problem> {
    if caller.access == Access::ReadOnly {
        return Err(read_only());
    }
    let job = serde_json::to_string(&FinishBoard { scope, board });
    let job = job.map_err(|_| Problem::internal())?;
    app.jobs.send(job).await.map_err(|_| Problem::unavailable())?;
    Ok(StatusCode::ACCEPTED)
}

/// Takes jobs from the queue; in earnest that is a table, or a broker.
async fn work(router: TenantRouter, mut queue: mpsc::Receiver<String>) {
    while let Some(text) = queue.recv().await {
        let done = async { serde_json::from_str::<FinishBoard>(&text)?.run(&router).await }.await;
        if let Err(error) = done {
            tracing::error!("a job was not done: {error:#}");
        }
    }
}

impl FinishBoard {
    /// Does the work for the tenant that asked for it, or for nobody.
    pub async fn run(&self, router: &TenantRouter) -> anyhow::Result<u64> {
        let tenant = router.connection_in(&self.scope).await?;
        let sql = "update cards set done = true where board_id = $1 and not done";
        Ok(tenant.execute(sql, &[&self.board]).await?)
    }
}

fn board(row: &Row) -> Board {
    Board { id: row.get("id"), title: row.get("title") }
}

fn card(row: &Row) -> Card {
    Card { id: row.get("id"), title: row.get("title"), done: row.get("done") }
}

/// What PostgreSQL said is for the log, not for the caller.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` gives it away")]
fn failed(error: Error) -> Problem {
    if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
        return read_only();
    }
    tracing::error!(error = &error as &dyn std::error::Error, "a query failed");
    Problem::internal()
}

fn read_only() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "read_only",
        "Read only",
        "ask an owner for the right to write",
    )
}
