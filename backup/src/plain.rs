//! One database as plain SQL, for whoever takes the data elsewhere: any PostgreSQL's `psql` reads it.
//!
//! Owners and rights are left out, since the roles are ours. A caller that gets an error must throw away
//! what it has got: it may be cut.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncReadExt;

use crate::dump::{DumpError, DumpRequest};
use crate::process::Process;

const BUFFER_BYTES: usize = 128 * 1024;

/// Gives the SQL to `output`, piece by piece. Returns its size in bytes. Nothing is encrypted, and nothing
/// is left out: what the request says of either does not count here.
pub async fn dump_plain(
    request: DumpRequest<'_>,
    mut output: impl AsyncFnMut(&[u8]) -> io::Result<()>,
) -> Result<u64, DumpError> {
    let mut arguments = vec![
        "--format=plain".to_owned(),
        "--no-owner".to_owned(),
        "--no-privileges".to_owned(),
        "--no-password".to_owned(),
        format!("--lock-wait-timeout={}", request.lock_timeout.as_millis()),
    ];
    arguments.extend(request.snapshot.map(|id| format!("--snapshot={id}")));
    let program = request.tools.pg_dump();
    let mut process =
        Process::start(program, arguments, &request.libpq_env, Stdio::null(), Stdio::piped())
            .map_err(DumpError::Run)?;
    let mut stdout = process.take_stdout();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let read = stdout.read(&mut buffer).await.map_err(DumpError::Run)?;
        if read == 0 {
            break;
        }
        if let Err(error) = output(&buffer[..read]).await {
            process.kill().await;
            return Err(DumpError::Output(error));
        }
        bytes += read as u64;
    }
    let exit = process.wait().await.map_err(DumpError::Run)?;
    if exit.status.success() {
        return Ok(bytes);
    }
    Err(DumpError::PgDump { status: exit.status, stderr: exit.stderr })
}
