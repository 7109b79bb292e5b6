//! Settings as people give them, right and wrong.

use std::path::PathBuf;

use super::*;
use crate::resolve::TrustedProxies;

fn read(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    read_with(None, environment, &[])
}

fn read_with(
    file: Option<&Path>,
    environment: &[(&str, &str)],
    flags: &[(&'static str, String)],
) -> Result<Settings, ConfigError> {
    let environment: Vec<(OsString, OsString)> =
        environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Settings::read(file, &environment, flags)
}

/// Text, and remedy, of the one thing that is wrong.
fn refused(result: Result<Settings, ConfigError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    format!("{error}; {}", error.remedy())
}

fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tenantry.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn nothing_set_means_defaults() {
    let settings = read(&[("PATH", "/bin"), ("TENANTRY_S3_BUCKET", "")]).unwrap();

    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.restore_keep, Duration::from_hours(168));
    assert_eq!(settings.s3_bucket, None);
    assert!(settings.explain().iter().all(|explained| explained.origin == Origin::Default));
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let (_folder, path) = write("pool_max_size = 3\nwarm_spares = 5\nlisten = \"127.0.0.1:1\"\n");
    let environment = [("TENANTRY_WARM_SPARES", "6"), ("TENANTRY_LISTEN", "127.0.0.1:2")];
    let flags = [("listen", "127.0.0.1:3".to_owned())];

    let settings = read_with(Some(&path), &environment, &flags).unwrap();

    assert_eq!((settings.pool_max_size, settings.warm_spares, settings.listen.port()), (3, 6, 3));
    let origin = |name| {
        settings
            .explain()
            .iter()
            .find(|explained| explained.key.name == name)
            .unwrap()
            .origin
            .clone()
    };
    assert_eq!(origin("pool_max_size"), Origin::File(path));
    assert_eq!(origin("warm_spares"), Origin::Environment);
    assert_eq!(origin("listen"), Origin::Flag);
}

#[test]
fn the_environment_may_name_the_file() {
    let (_folder, path) = write("warm_spares = 0\n");

    let settings = read(&[("TENANTRY_CONFIG", path.to_str().unwrap())]).unwrap();

    assert_eq!(settings.warm_spares, 0);
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let text = refused(read(&[("TENANTRY_CATALOG_ULR", "x")]));
    assert!(
        text.contains("TENANTRY_CATALOG_ULR")
            && text.contains("did you mean TENANTRY_CATALOG_URL?"),
        "{text}"
    );

    let (_folder, path) = write("s3_bukket = \"b\"\n");
    let text = refused(read_with(Some(&path), &[], &[]));
    assert!(text.contains("`s3_bukket` in") && text.contains("`s3_bucket`"), "{text}");

    let (_folder, path) = write("[s3]\nbucket = \"b\"\n");
    assert!(refused(read_with(Some(&path), &[], &[])).contains("unknown setting `s3`"));
}

#[test]
fn only_secrets_may_be_files() {
    assert!(refused(read(&[("TENANTRY_LISTEN_FILE", "/x")])).contains("unknown setting"));
}

#[test]
fn kubernetes_own_variables_are_not_ours() {
    let links = [
        ("TENANTRY_SERVICE_HOST", "10.0.0.1"),
        ("TENANTRY_SERVICE_PORT_HTTP", "8080"),
        ("TENANTRY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(read(&links).is_ok());
    assert!(read(&links[2..]).is_err(), "without a Service it is a mistake");
}

#[test]
fn a_wrong_value_is_named_with_its_setting() {
    let cases = [
        ("TENANTRY_POOL_MAX_SIZE", "many", "whole number"),
        ("TENANTRY_POOL_MAX_SIZE", "0", "whole number"),
        ("TENANTRY_POOL_IDLE_TIMEOUT", "5 parsecs", "duration"),
        ("TENANTRY_LISTEN", "localhost", "address with a port"),
        ("TENANTRY_MULTI_TENANT_MODE", "maybe", "`true` or `false`"),
        ("TENANTRY_TENANT_SLUG", "Acme", "lowercase"),
        ("TENANTRY_ENVIRONMENT", "prod", "production"),
        ("TENANTRY_AUTH_PROVIDER", "ldap", "`jwt` or `oidc`"),
        ("TENANTRY_LOG_LEVEL", "a=b=c", "log level"),
    ];
    for (name, value, expected) in cases {
        let text = refused(read(&[(name, value)]));
        for part in [name, value, expected] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn everything_wrong_is_found_in_one_go() {
    let error =
        read(&[("TENANTRY_LISTEN", "x"), ("TENANTRY_FOO", "x"), ("TENANTRY_LOG_FORMAT", "x")])
            .unwrap_err();

    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn no_error_shows_a_secret() {
    let (_folder, path) = write("catalog_url = hush hush\n");
    let wrong = [
        read(&[("TENANTRY_CATALOG_URL", "mysql://me:hush@host/x")]),
        read_with(Some(&path), &[], &[]),
    ];
    for result in wrong {
        let text = refused(result);
        assert!(!text.contains("hush"), "{text}");
    }
    let settings = read(&[("TENANTRY_MASTER_KEY", "hush")]).unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
    let catalog =
        read(&[("TENANTRY_MASTER_KEY", "hush"), ("TENANTRY_CATALOG_URL", "postgres://me@host/x")]);
    assert!(!catalog.unwrap().catalog().unwrap_err().to_string().contains("hush"));
}

#[test]
fn a_syntax_error_is_named_with_its_line() {
    let (_folder, path) = write("warm_spares = 1\nlisten = 127.0.0.1\n");

    let text = refused(read_with(Some(&path), &[], &[]));

    assert!(text.contains("line 2") && !text.contains("127.0.0.1"), "{text}");
}

#[test]
fn a_missing_settings_file_is_named() {
    let text = refused(read_with(Some(Path::new("/nowhere/tenantry.toml")), &[], &[]));

    assert!(text.contains("/nowhere/tenantry.toml"), "{text}");
}

#[test]
fn a_secret_may_be_a_file_but_not_both() {
    let (_folder, path) = write("hush\n");
    let path = path.to_str().unwrap();

    let settings = read(&[("TENANTRY_MASTER_KEY_FILE", path)]).unwrap();
    assert_eq!(settings.master_key.unwrap().expose_secret(), "hush");

    let text = refused(read(&[("TENANTRY_MASTER_KEY_FILE", path), ("TENANTRY_MASTER_KEY", "x")]));
    assert!(text.contains("both TENANTRY_MASTER_KEY and TENANTRY_MASTER_KEY_FILE"), "{text}");

    let text = refused(read(&[("TENANTRY_MASTER_KEY_FILE", "/nowhere/key")]));
    assert!(text.contains("TENANTRY_MASTER_KEY_FILE: /nowhere/key"), "{text}");
}

#[test]
fn a_missing_master_key_comes_with_how_to_make_one() {
    let settings = read(&[("TENANTRY_CATALOG_URL", "postgres://me@host/tenantry")]).unwrap();

    let error = settings.catalog().unwrap_err();

    assert_eq!(error.to_string(), "TENANTRY_MASTER_KEY is not set");
    assert!(error.remedy().contains("openssl rand -base64 32"));
}

#[test]
fn single_tenant_mode_needs_its_tenant() {
    assert!(
        refused(read(&[("TENANTRY_MULTI_TENANT_MODE", "false")]))
            .contains("TENANTRY_TENANT_SLUG is not set")
    );
}

#[test]
fn without_a_provider_the_data_plane_stays_at_home() {
    assert!(read(&[]).unwrap().refuse_open_data_plane().is_ok());
    for wrong in [("TENANTRY_LISTEN", "0.0.0.0:80"), ("TENANTRY_ENVIRONMENT", "production")] {
        assert!(read(&[wrong]).unwrap().refuse_open_data_plane().is_err());
    }
}

#[test]
fn a_certificate_needs_its_key_and_clients_of_the_admin_api_need_tls() {
    let certificate = ("TENANTRY_TLS_CERT", "/tls/tls.crt");
    let key = ("TENANTRY_TLS_KEY", "/tls/tls.key");
    let client_ca = ("TENANTRY_ADMIN_TLS_CLIENT_CA", "/tls/ca.crt");

    let edge = read(&[certificate, key, client_ca]).unwrap().edge;
    assert_eq!(edge.tls.unwrap().key, Path::new("/tls/tls.key"));
    assert_eq!(edge.admin_client_ca.unwrap(), Path::new("/tls/ca.crt"));
    assert!(read(&[]).unwrap().edge.tls.is_none());

    for one in [&[certificate][..], &[key]] {
        assert!(refused(read(one)).contains("set both"));
    }
    assert!(refused(read(&[client_ca])).contains("TENANTRY_TLS_CERT and TENANTRY_TLS_KEY"));
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let origins = |text| read(&[("TENANTRY_CORS_ORIGINS", text)]);
    let good = "https://app.example.com, http://localhost:3000,https://[::1]:8443";
    assert_eq!(origins(good).unwrap().edge.cors_origins.len(), 3);
    assert_eq!(origins("*").unwrap().edge.cors_origins, ["*"]);

    for (text, words) in [
        ("https://app.example.com/", "trailing slash"),
        ("https://app.example.com/login", "path"),
        ("https://app.example.com?x", "path"),
        ("app.example.com", "does not begin with"),
        ("null", "does not begin with"),
        ("capacitor://localhost", "does not begin with"),
        ("https://", "no host"),
        ("https://:443", "no host"),
        ("https://App.example.com", "lower-case"),
        ("https://\u{fc}.example", "lower-case"),
        ("https://*.example.com", "no host"),
        ("https://me@app.example.com", "no host"),
        ("https://app.example.com:", "no port"),
        ("https://app.example.com:443", "usual port"),
        ("http://app.example.com:80", "usual port"),
        ("https://app.example.com,", "list of origins"),
        ("https://app.example.com, *", "stands alone"),
    ] {
        let error = refused(origins(text));
        assert!(error.contains(words) && error.contains("TENANTRY_CORS_ORIGINS"), "{error}");
    }
    let open = [("TENANTRY_CORS_ORIGINS", "*"), ("TENANTRY_ENVIRONMENT", "production")];
    assert!(refused(read(&open)).contains("production"));
}

#[test]
fn passwords_come_encrypted_in_production() {
    let with = |listen: &'static str, more: &[(&'static str, &'static str)]| {
        let own = [("TENANTRY_SQL_PASSWORD_AUTH", "true"), ("TENANTRY_LISTEN", listen)];
        read(&[&own[..], more].concat())
    };
    let production = ("TENANTRY_ENVIRONMENT", "production");
    let (open, loopback) = ("0.0.0.0:80", "127.0.0.1:80");

    assert!(!read(&[]).unwrap().sql.password_auth);
    assert!(with(open, &[]).unwrap().sql.password_auth);
    assert!(refused(with(open, &[production])).contains("TENANTRY_SQL_PASSWORD_AUTH"));
    with(open, &[production, ("TENANTRY_TRUSTED_PROXIES", "10.0.0.7")]).unwrap();
    with(loopback, &[production]).unwrap();
}

#[test]
fn proxies_are_addresses_and_networks() {
    let proxies = |text| read(&[("TENANTRY_TRUSTED_PROXIES", text)]);
    let both = proxies("10.0.0.0/8, 2001:db8::7").unwrap().edge.trusted_proxies;
    assert_eq!(Ok(both), TrustedProxies::parse(["10.0.0.0/8", "2001:db8::7"]));

    for text in ["proxy.example", "10.0.0.0/33", "10.0.0.1 10.0.0.2", "10.0.0.1,", "*"] {
        assert!(refused(proxies(text)).contains("addresses and networks"), "{text}");
    }
}

#[test]
fn a_jwt_provider_needs_issuer_audience_and_one_key() {
    let secret = "x".repeat(32);
    let all = [
        ("TENANTRY_AUTH_PROVIDER", "jwt"),
        ("TENANTRY_JWT_ISSUER", "https://id.example"),
        ("TENANTRY_JWT_AUDIENCE", "one, two"),
        ("TENANTRY_JWT_SECRET", secret.as_str()),
    ];
    read(&all).unwrap();

    for left_out in 1..all.len() {
        let mut some = all.to_vec();
        some.remove(left_out);
        refused(read(&some));
    }
    let mut two_keys = all.to_vec();
    two_keys.push(("TENANTRY_JWT_PUBLIC_KEY_URL", "https://id.example/keys"));
    assert!(refused(read(&two_keys)).contains("one key"));
    let mut weak = all;
    weak[3].1 = "short";
    assert!(refused(read(&weak)).contains("256 bits"));
}

#[test]
fn a_setting_of_another_kind_of_provider_is_refused() {
    let idle = refused(read(&[("TENANTRY_OIDC_ISSUER", "https://id.example")]));

    assert!(idle.contains("TENANTRY_AUTH_PROVIDER=oidc"), "{idle}");
}

#[test]
fn the_file_may_have_several_providers() {
    let provider = |more: &str| {
        format!(
            "[[auth.provider]]\nissuer = \"https://id.acme.com\"\naudience = [\"a\", \"b\"]\n{more}\n"
        )
    };
    let other = "[[auth.provider]]\nissuer = \"https://id.example\"\naudience = \"a\"";
    let (_folder, good) =
        write(&format!("{}{other}", provider("tenants = [\"acme\", \"globex\"]")));
    let settings = read_with(Some(&good), &[("TENANTRY_LISTEN", "0.0.0.0:80")], &[]).unwrap();
    settings.refuse_open_data_plane().unwrap();

    for (text, words) in [
        (provider("") + &provider(""), "the same issuer"),
        (provider("tenants = [\"Acme\"]"), "`tenants` of [[auth.provider]] number 1"),
        (provider("public_key_url = \"http://id.acme.com\""), "https"),
        (provider("isuer = \"x\""), "unknown setting `isuer`"),
        (provider("secret = \"short\""), "256 bits"),
        ("[[auth.provider]]\naudience = \"a\"".to_owned(), "`issuer` of"),
        ("auth = 1".to_owned(), "[[auth.provider]]"),
    ] {
        let (_folder, path) = write(&text);
        let error = refused(read_with(Some(&path), &[], &[]));
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn what_a_request_needs_can_be_told() {
    let oidc = [
        ("TENANTRY_AUTH_PROVIDER", "oidc"),
        ("TENANTRY_OIDC_ISSUER", "https://id.example"),
        ("TENANTRY_OIDC_CLIENT_ID", "app"),
    ];
    let one = [("TENANTRY_MULTI_TENANT_MODE", "false"), ("TENANTRY_TENANT_SLUG", "main")];
    let base = [("TENANTRY_BASE_DOMAIN", "app.example")];
    let needed = |parts: &[&[(&str, &str)]]| read(&parts.concat()).unwrap().identity_needed();

    assert_eq!(
        needed(&[]),
        "needs a token of ours with the scope `data`, and names its tenant by X-Tenant or by a domain \
         of the tenant's"
    );
    assert_eq!(needed(&[&one]), "needs no token, and is for `main`");
    assert_eq!(
        needed(&[&oidc, &one]),
        "needs a token of https://id.example, or one of ours, and is for `main`"
    );
    assert!(needed(&[&oidc, &base]).contains("by a host under app.example"));
}

#[test]
fn who_may_ask_for_a_tenant_is_told() {
    let oidc = [
        ("TENANTRY_AUTH_PROVIDER", "oidc"),
        ("TENANTRY_OIDC_ISSUER", "https://id.example"),
        ("TENANTRY_OIDC_CLIENT_ID", "app"),
    ];
    let open = [
        ("TENANTRY_TENANT_REGISTRATION_REQUIRES_APPROVAL", "false"),
        ("TENANTRY_TENANT_REGISTRATION_ALLOWED_DOMAINS", "acme.com, acme.co.uk"),
        ("TENANTRY_TENANT_REGISTRATION_RATE", "10/day"),
    ];
    let told = |parts: &[&[(&str, &str)]]| read(&parts.concat()).unwrap().registration_needed();

    assert_eq!(told(&[]), "nobody: there is no identity provider");
    assert_eq!(
        told(&[&oidc]),
        "every user of an identity provider, 3 times an hour; an operator decides"
    );
    assert_eq!(
        told(&[&oidc, &open]),
        "users with a confirmed address at acme.com or acme.co.uk, 10 times a day; nobody needs to decide"
    );
    for wrong in [
        ("TENANTRY_TENANT_REGISTRATION_RATE", "often"),
        ("TENANTRY_TENANT_REGISTRATION_RATE", "0/hour"),
        ("TENANTRY_TENANT_REGISTRATION_RATE", "3/week"),
        ("TENANTRY_TENANT_REGISTRATION_ALLOWED_DOMAINS", "@acme.com"),
        ("TENANTRY_MAX_TENANTS_PER_USER", "0"),
        ("TENANTRY_FRONTEND_BASE_URL", "app.example"),
        ("TENANTRY_FRONTEND_BASE_URL", "https://app.example/{tenant}"),
        ("TENANTRY_DNS_SERVER", "9.9.9.9"),
    ] {
        assert!(read(&[wrong]).is_err(), "{wrong:?}");
    }
}

#[test]
fn sql_over_http_has_bounds() {
    let usual = read(&[]).unwrap().sql;
    let own = read(&[
        ("TENANTRY_SQL_MAX_RESPONSE_BYTES", "2048"),
        ("TENANTRY_SQL_MAX_ROWS", "5"),
        ("TENANTRY_SQL_STATEMENT_TIMEOUT", "500ms"),
    ]);
    let own = own.unwrap().sql;

    assert_eq!((usual.max_response_bytes, usual.max_rows), (16 << 20, 100_000));
    assert_eq!((own.max_response_bytes, own.max_rows), (2048, 5));
    assert_eq!(own.statement_timeout, Duration::from_millis(500));
    for wrong in ["0", "76s", "5m"] {
        let error = refused(read(&[("TENANTRY_SQL_STATEMENT_TIMEOUT", wrong)]));
        assert!(error.contains("at most 75s"), "{error}");
    }
    assert!(refused(read(&[("TENANTRY_SQL_MAX_ROWS", "0")])).contains("1 to 100000000"));
}

#[test]
fn the_mode_of_migrations_is_one_of_three() {
    let mode = |mode| read(&[("TENANTRY_MIGRATION_MODE", mode)]);

    assert_eq!(read(&[]).unwrap().limits().catch_up, None);
    let settings = mode("on-demand").unwrap();
    assert_eq!(settings.limits().catch_up, Some(CatchUpMode::OnDemand));
    assert!(settings.router().migrates_on_demand);
    let settings = mode("background").unwrap();
    assert_eq!(settings.limits().catch_up, Some(CatchUpMode::Background));
    assert!(!settings.router().migrates_on_demand);
    assert!(refused(mode("lazy")).contains("`manual`, `on-demand` or `background`"));
}
