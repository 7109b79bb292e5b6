//! An S3 server in this process, which keeps its objects in a directory.
//!
//! It is s3s over s3s-fs: requests are checked by their signature (SigV4), objects are plain files.
//! It lacks `ListMultipartUploads` and lifecycle rules. It runs on a thread with a runtime of its
//! own and listens on 127.0.0.1.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder as ConnectionBuilder,
};
use s3s::{
    auth::SimpleAuth,
    path::check_bucket_name,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{runtime, sync::oneshot};

use super::{
    DirectoryLock, EmbeddedError, blocking, random_password, scratch::Scratch, write_private,
};

/// Any name would do; this one tells a reader of a log whose it is.
const ACCESS_KEY: &str = "tenantry-embedded";
/// The buckets' place in the data directory, which holds the secret key beside them.
const OBJECTS: &str = "objects";
/// After an accept has failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For requests that are under way when the server stops.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A running server with one bucket. Dropping it stops it; requests under way are cut off.
#[derive(Debug)]
pub struct EmbeddedS3 {
    // Dropped in this order: the directories go away after the server.
    server: Server,
    bucket: String,
    secret_key: SecretString,
    lock: DirectoryLock,
    _scratch: Option<Scratch>,
}

impl EmbeddedS3 {
    /// Serves the objects in `data_dir`, which is created when missing, on that port of 127.0.0.1,
    /// or on a free one. The bucket is created when missing; the credentials stay the same over
    /// restarts.
    pub async fn start(
        data_dir: &Path,
        bucket: &str,
        port: Option<u16>,
    ) -> Result<Self, EmbeddedError> {
        let (data_dir, bucket) = (data_dir.to_owned(), bucket.to_owned());
        blocking(move || Self::launch(&data_dir, bucket, port, None)).await
    }

    /// Serves an empty bucket in a temporary directory, which goes away with it.
    pub async fn start_scratch(bucket: &str) -> Result<Self, EmbeddedError> {
        let bucket = bucket.to_owned();
        blocking(move || {
            let scratch = Scratch::new()?;
            Self::launch(&scratch.path().join("data"), bucket, None, Some(scratch))
        })
        .await
    }

    /// `http://127.0.0.1:<port>`; buckets are in the path.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The access key and the secret key.
    #[must_use]
    pub fn credentials(&self) -> (&str, &str) {
        (ACCESS_KEY, self.secret_key.expose_secret())
    }

    /// The bucket that [`EmbeddedS3::start`] was asked for.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Holds one directory a bucket, with the objects as files in it.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.lock.path().join(OBJECTS)
    }

    /// Stops the server; its port is free when this returns.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }

    fn launch(
        data_dir: &Path,
        bucket: String,
        port: Option<u16>,
        scratch: Option<Scratch>,
    ) -> Result<Self, EmbeddedError> {
        if !check_bucket_name(&bucket) {
            return Err(EmbeddedError::BucketName { bucket });
        }
        let lock = DirectoryLock::acquire(data_dir, 0o700)?;
        let secret_key = secret_key(lock.path())?;
        let objects = lock.path().join(OBJECTS);
        let bucket_dir = objects.join(&bucket);
        fs::create_dir_all(&bucket_dir)
            .map_err(EmbeddedError::io(format!("create {}", bucket_dir.display())))?;
        let files = FileSystem::new(&objects).map_err(|_| EmbeddedError::Unusable {
            directory: lock.path().to_owned(),
            reason: "its directory `objects` cannot be read".to_owned(),
        })?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, secret_key.expose_secret()));
        let server = Server::start(service.build(), port.unwrap_or(0))?;
        Ok(Self { server, bucket, secret_key, lock, _scratch: scratch })
    }
}

/// The secret key that the directory keeps, made when it has none.
fn secret_key(data_dir: &Path) -> Result<SecretString, EmbeddedError> {
    let path = data_dir.join("secret-key");
    match fs::read_to_string(&path) {
        Ok(secret_key) => Ok(secret_key.trim().into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret_key = random_password();
            write_private(&path, secret_key.expose_secret())?;
            Ok(secret_key)
        }
        Err(error) => Err(EmbeddedError::io(format!("read {}", path.display()))(error)),
    }
}

/// The thread, and the way to end it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Dropping it is the signal.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(service: S3Service, port: u16) -> Result<Self, EmbeddedError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            if error.kind() == ErrorKind::AddrInUse {
                EmbeddedError::PortInUse { port }
            } else {
                EmbeddedError::io(format!("listen on port {port} of 127.0.0.1"))(error)
            }
        })?;
        let address = listener
            .local_addr()
            .and_then(|address| listener.set_nonblocking(true).map(|()| address))
            .map_err(EmbeddedError::io("listen on 127.0.0.1"))?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(EmbeddedError::io("start a runtime"))?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("object-store".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener);
                    match listener {
                        Ok(listener) => {
                            drop(started.send(Ok(())));
                            tokio::select! {
                                () = serve(listener, service) => {}
                                _ = stopped => {}
                            }
                        }
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
                runtime.shutdown_timeout(STOP_LIMIT);
            })
            .map_err(EmbeddedError::io("start a thread"))?;
        start
            .recv()
            .expect("the thread sends one answer before anything else")
            .map_err(EmbeddedError::io("listen on 127.0.0.1"))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, service: S3Service) {
    let builder = ConnectionBuilder::new(TokioExecutor::new());
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Small answers must not wait for the acknowledgement of the previous packet.
        drop(socket.set_nodelay(true));
        let connection =
            builder.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move { drop(connection.await) });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    /// A plain client, because a signing one belongs to the crate that makes backups.
    fn status_of_unsigned(store: &EmbeddedS3, path: &str) -> String {
        let mut stream = TcpStream::connect(store.server.address).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap().to_owned()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_unsigned_request_is_refused_and_the_server_outlives_the_runtime_that_started_it() {
        let store = block_on(EmbeddedS3::start_scratch("backups")).unwrap();

        assert_eq!(status_of_unsigned(&store, "/backups/object"), "HTTP/1.1 403 Forbidden");
    }

    #[tokio::test]
    async fn a_restart_keeps_the_credentials() {
        let scratch = Scratch::new().unwrap();
        let store = EmbeddedS3::start(scratch.path(), "backups", None).await.unwrap();
        let secret = store.credentials().1.to_owned();
        store.stop().await.unwrap();

        let store = EmbeddedS3::start(scratch.path(), "backups", None).await.unwrap();

        assert_eq!(store.credentials().1, secret);
    }

    #[tokio::test]
    async fn a_bucket_needs_a_name_that_s3_allows() {
        for bucket in ["", "b", "Backups", "../backups"] {
            let error = EmbeddedS3::start_scratch(bucket).await.unwrap_err();

            assert!(matches!(error, EmbeddedError::BucketName { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn two_starts_on_one_directory_are_refused() {
        let scratch = Scratch::new().unwrap();
        let _store = EmbeddedS3::start(scratch.path(), "backups", None).await.unwrap();

        let error = EmbeddedS3::start(scratch.path(), "backups", None).await.unwrap_err();

        assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    }
}
