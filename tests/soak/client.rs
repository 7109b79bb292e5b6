//! [`Client`]: writes, remembers what it was promised, and reads it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenantry::router::{RouterError, TenantRouter};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Notice};

const WRITE: &str = "insert into promises (number, value) values ($1, $2)";
/// What it returns changes with every migration.
const READ: &str = "select * from promises where number = $1";

/// How a client reaches its tenant.
#[derive(Clone)]
pub enum Door {
    Library(TenantRouter),
    Http { url: String, token: String },
}

pub struct Client {
    door: Door,
    http: reqwest::Client,
    ledger: Arc<Ledger>,
    /// Between two pieces of work.
    pause: Duration,
    stop: CancellationToken,
}

type Outcome<T> = Result<T, (Notice, String)>;

impl Client {
    pub fn new(door: Door, ledger: Arc<Ledger>, pause: Duration, stop: CancellationToken) -> Self {
        Self { door, http: reqwest::Client::new(), ledger, pause, stop }
    }

    pub async fn work(self) {
        while !self.stop.is_cancelled() && !self.ledger.is_retired() {
            let (number, value) = self.ledger.next();
            let started = Instant::now();
            match self.write(number, &value).await {
                Ok(()) => self.ledger.promised(number),
                Err((notice, what)) => self.ledger.noticed(notice, started, &what),
            }
            let back = usize::try_from(number).expect("it is positive") % 10;
            if let Some(number) = self.ledger.promise(back) {
                let started = Instant::now();
                match self.read(number).await {
                    Ok(found) => self.ledger.read(number, found.as_deref()),
                    Err((notice, what)) => self.ledger.noticed(notice, started, &what),
                }
            }
            sleep(self.pause).await;
        }
    }

    async fn write(&self, number: i64, value: &str) -> Outcome<()> {
        match &self.door {
            Door::Library(router) => {
                let connection =
                    router.connection(&self.ledger.slug).await.map_err(|error| refused(&error))?;
                let written = connection.execute(WRITE, &[&number, &value]).await;
                written.map(drop).map_err(|error| failed(&error))
            }
            Door::Http { .. } => {
                let body = json!({ "query": WRITE, "params": [number.to_string(), value] });
                self.ask(&body).await.map(drop)
            }
        }
    }

    async fn read(&self, number: i64) -> Outcome<Option<String>> {
        match &self.door {
            Door::Library(router) => {
                let mut connection =
                    router.connection(&self.ledger.slug).await.map_err(|error| refused(&error))?;
                if number % 3 == 0 {
                    let transaction =
                        connection.transaction().await.map_err(|error| failed(&error))?;
                    let row = transaction.query_opt(READ, &[&number]).await;
                    let row = row.map_err(|error| failed(&error))?;
                    return Ok(row.map(|row| row.get("value")));
                }
                let row = connection.query_opt(READ, &[&number]).await;
                Ok(row.map_err(|error| failed(&error))?.map(|row| row.get("value")))
            }
            Door::Http { .. } => {
                let answer =
                    self.ask(&json!({ "query": READ, "params": [number.to_string()] })).await?;
                Ok(answer["rows"][0]["value"].as_str().map(str::to_owned))
            }
        }
    }

    async fn ask(&self, body: &Value) -> Outcome<Value> {
        let Door::Http { url, token } = &self.door else { unreachable!("it is no HTTP") };
        let request = self.http.post(url).bearer_auth(token);
        let request = request.header("X-Tenant", self.ledger.slug.as_str()).json(body);
        let response = request.send().await.map_err(|error| (Notice::Fault, error.to_string()))?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(|e| (Notice::Fault, e.to_string()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let notice = match answer["code"].as_str() {
            Some("access_denied" | "tenant_suspended" | "tenant_not_ready") => Notice::Refused,
            Some("unavailable" | "57P01" | "57P02" | "57P03") => Notice::CutOff,
            _ => Notice::Fault,
        };
        Err((notice, format!("{status} {answer}")))
    }
}

fn refused(error: &RouterError) -> (Notice, String) {
    let notice = match error {
        RouterError::NotServed { .. } | RouterError::UnknownTenant(_) => Notice::Refused,
        _ => Notice::Fault,
    };
    (notice, format!("{error:?}"))
}

fn failed(error: &tokio_postgres::Error) -> (Notice, String) {
    let ended = error.code().is_none_or(|code| code.code().starts_with("57P"));
    let notice = if ended { Notice::CutOff } else { Notice::Fault };
    (notice, format!("{error:?}"))
}
