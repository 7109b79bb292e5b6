//! Which programs are taken, and which are refused.

use std::os::unix::fs::symlink;

use tenantry_backup::{CopyEnd, PgTools, ToolError, copy_database};

use crate::scene::tools_dir;

#[tokio::test]
async fn the_programs_of_the_right_major_are_taken() {
    let tools = PgTools::for_server(15, &[tools_dir()]).await.unwrap();

    assert_eq!((tools.major(), tools.version()), (15, "15.18"));
    assert!(tools.pg_dump().is_file() && tools.pg_restore().is_file() && tools.psql().is_file());
}

#[tokio::test]
async fn the_programs_of_another_major_are_refused_with_what_to_install() {
    let error = PgTools::for_server(18, &[tools_dir()]).await.unwrap_err();

    assert!(matches!(&error, ToolError::WrongMajor { major: 18, found, .. } if found == "15.18"));
    assert!(error.remedy().contains("postgresql-client-18"));
}

#[tokio::test]
async fn a_directory_without_the_programs_is_named() {
    let empty = tempfile::TempDir::new().unwrap();

    let error = PgTools::for_server(15, &[empty.path().to_owned()]).await.unwrap_err();

    assert!(matches!(error, ToolError::NotFound { .. }));
    assert!(error.to_string().contains(&empty.path().to_string_lossy().into_owned()));
}

#[tokio::test]
async fn a_program_that_is_gone_is_named_and_not_the_other_one() {
    for missing in ["pg_dump", "pg_restore"] {
        let folder = tempfile::TempDir::new().unwrap();
        for name in ["pg_dump", "pg_restore", "psql"] {
            symlink(tools_dir().join(name), folder.path().join(name)).unwrap();
        }
        let tools = PgTools::for_server(15, &[folder.path().to_owned()]).await.unwrap();
        std::fs::remove_file(folder.path().join(missing)).unwrap();

        let env = [("PGDATABASE", "boards".to_owned())];
        let end = CopyEnd { tools: &tools, libpq_env: &env };
        let error = copy_database(end, end, None, |_| {}).await.unwrap_err();

        assert_eq!(error.to_string(), format!("{missing} could not be run"));
        assert!(error.remedy().contains(missing), "{}", error.remedy());
    }
}
