//! Who may import whom, as a table. A new edge is a new line here, for a reviewer to see.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each module, and the modules of this crate that it may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "api",
            "audit",
            "catalog",
            "config",
            "doctor",
            "domains",
            "duration",
            "embedded",
            "extract",
            "metrics",
            "operations",
            "resolve",
            "router",
            "sealing",
            "telemetry",
            "tenant",
            "worker",
        ],
    ),
    (
        "config",
        &[
            "api",
            "catalog",
            "domains",
            "duration",
            "oidc",
            "operations",
            "registration",
            "resolve",
            "router",
            "sealing",
            "sql",
            "tenant",
        ],
    ),
    (
        "api",
        &[
            "audit",
            "catalog",
            "domains",
            "extract",
            "metrics",
            "operations",
            "problem",
            "registration",
            "resolve",
            "router",
            "sql",
            "telemetry",
            "tenant",
        ],
    ),
    ("worker", &["audit", "catalog", "metrics", "operations", "tenant"]),
    ("audit", &["catalog", "doctor", "operations", "tenant"]),
    ("doctor", &["catalog", "operations", "tenant"]),
    ("domains", &["catalog", "tenant"]),
    // A server of then is restored and started as an embedded one is.
    ("operations", &["catalog", "embedded", "metrics", "tenant"]),
    ("registration", &["catalog", "oidc", "problem", "resolve", "tenant"]),
    ("sql", &["catalog", "metrics", "resolve", "router", "tenant"]),
    ("extract", &["problem", "resolve", "router", "tenant"]),
    ("resolve", &["catalog", "metrics", "oidc", "problem", "tenant"]),
    ("oidc", &[]),
    ("router", &["catalog", "metrics", "tenant"]),
    ("catalog", &["metrics", "sealing", "tenant"]),
    ("sealing", &[]),
    ("tenant", &["duration"]),
    ("duration", &[]),
    ("problem", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("embedded", &[]),
];

/// Each module, and the leaf crates that it may name.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cli", &["tenantry_provisioning", "tenantry_backup"]),
    ("config", &["tenantry_provisioning", "tenantry_backup"]),
    // What a schema has otherwise than it should.
    ("api", &["tenantry_provisioning"]),
    ("operations", &["tenantry_provisioning", "tenantry_backup"]),
    ("catalog", &["tenantry_provisioning", "tenantry_backup"]),
    ("doctor", &["tenantry_provisioning"]),
    ("audit", &["tenantry_provisioning", "tenantry_backup"]),
    ("router", &["tenantry_provisioning"]),
    // Where a session goes, and how it is encrypted.
    ("sql", &["tenantry_provisioning"]),
    // A key that a tenant may give is one that dumps can be encrypted to.
    ("tenant", &["tenantry_provisioning", "tenantry_backup"]),
];

const MAX_LINES: usize = 450;

#[test]
fn modules_name_only_what_the_picture_allows() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let (_, allowed) = MAY_NAME
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} is not in the picture"));
        for named in names_after(&code(&file), "crate::") {
            if named != module && !allowed.contains(&named.as_str()) && is_module(&named) {
                wrong.push(format!("{} names crate::{named}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_some_modules_know_the_leaf_crates() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let module = module_of(&file);
        let allowed =
            MAY_USE.iter().find(|(name, _)| *name == module).map_or(&[][..], |(_, leaves)| leaves);
        for leaf in ["tenantry_provisioning", "tenantry_backup"] {
            if code(&file).contains(&format!("{leaf}::")) && !allowed.contains(&leaf) {
                wrong.push(format!("{} uses {leaf}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_two_planes_never_name_each_other() {
    let planes: [&[&str]; 2] = [
        &["router", "resolve", "extract", "registration", "sql"],
        &["operations", "worker", "doctor", "audit", "domains"],
    ];
    for (one, other) in [(0, 1), (1, 0)] {
        for &module in planes[one] {
            let (_, allowed) = MAY_NAME.iter().find(|(name, _)| *name == module).unwrap();
            assert!(allowed.iter().all(|name| !planes[other].contains(name)), "{module}");
        }
    }
}

#[test]
fn leaf_crates_know_neither_each_other_nor_tenants() {
    for (leaf, foreign) in [
        ("provisioning", ["tenantry_backup", "TenantSlug"]),
        ("backup", ["tenantry_provisioning", "TenantSlug"]),
    ] {
        for file in sources(&format!("{leaf}/src")) {
            for name in foreign {
                assert!(!code(&file).contains(name), "{} knows {name}", file.display());
            }
        }
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let mut long = Vec::new();
    for root in ["src", "provisioning", "backup", "tests", "benches", "examples"] {
        for file in sources(root) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            if lines > MAX_LINES {
                long.push(format!("{}: {lines}", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

fn sources(root: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(root == "benches" || !found.is_empty(), "nothing in {root}");
    found
}

fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The file without comments and without its tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn names_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let list = if let Some(group) = rest.strip_prefix('{') {
            group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect()
        } else {
            vec![rest]
        };
        for item in list {
            names
                .insert(item.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect());
        }
    }
    names
}

fn is_module(name: &str) -> bool {
    MAY_NAME.iter().any(|(module, _)| *module == name)
}
