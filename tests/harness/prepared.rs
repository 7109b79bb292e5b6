//! [`Prepared`]: a fleet that was stopped at some moment of its story, from which others go on.

use std::fs;
use std::path::Path;

use secrecy::SecretString;
use tempfile::TempDir;
use tenantry::embedded::{ClusterTemplate, EmbeddedPostgres, EmbeddedS3, PostgresSettings};
use tenantry::operations::Limits;

use super::{Fleet, cluster};

/// Beside the objects.
const MIGRATIONS: &str = "migrations";

/// All that a fleet had: its cluster, its objects, its migration files and its master key. It may be kept until the
/// process ends, which takes its directories along.
pub struct Prepared {
    cluster: ClusterTemplate,
    /// In its directory are the migration files, too.
    s3: EmbeddedS3,
    master_key: SecretString,
    limits: Limits,
}

impl Prepared {
    /// Stops a fleet for good. What its test changed about its environment beside the limits is forgotten.
    pub async fn of(fleet: Fleet) -> Self {
        let Fleet { environment, changes, master_key, s3, migrations, postgres } = fleet;
        let limits = environment.limits.clone();
        drop((environment, changes));
        copy(migrations.path(), &s3.data_dir().with_file_name(MIGRATIONS));
        let cluster = cluster::into_template(postgres).await;
        Self { cluster, s3, master_key, limits }
    }

    /// A fleet of its own that goes on from there, on a cluster without further settings.
    pub async fn fleet(&self) -> Fleet {
        let migrations = TempDir::new().unwrap();
        copy(&self.s3.data_dir().with_file_name(MIGRATIONS), migrations.path());
        let s3 = EmbeddedS3::start_scratch("backups").await.unwrap();
        copy(&self.s3.data_dir(), &s3.data_dir());
        let settings = PostgresSettings::scratch();
        let postgres = EmbeddedPostgres::start_copy(&self.cluster, settings).await.unwrap();
        let limits = Limits { migrations_dir: migrations.path().to_owned(), ..self.limits.clone() };
        Box::pin(Fleet::on(postgres, s3, migrations, self.master_key.clone(), limits)).await
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}
