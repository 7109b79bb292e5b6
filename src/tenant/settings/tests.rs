//! Settings as people send them, right and wrong, and as older versions stored them.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: Value) -> Result<TenantSettings, SettingsError> {
    TenantSettings::parse(value)
}

/// One section with one field.
fn with(section: &str, field: &str, value: &Value) -> Value {
    let mut settings = json!({ section: { field: value } });
    if section == "sso" && field != "issuer" {
        settings["sso"]["issuer"] = json!("https://sso.acme.com");
    }
    settings
}

#[test]
fn every_section_reads_back() {
    let all = json!({
        "branding": {
            "logo_url": "https://acme.com/logo.svg?v=2",
            "primary_color": "#1a2B3c",
            "secondary_color": "#000000",
            "display_name": "Acme & Söhne",
        },
        "compliance": { "region": "eu", "frameworks": ["soc2"] },
        "sso": { "issuer": "https://sso.acme.com/realms/a", "audience": ["board-app"] },
        "limits": {
            "connections": 5,
            "statement_timeout": "90s",
            "idle_in_transaction_timeout": "5m",
            "queries_per_second": 100,
        },
        "backup": { "schedule": "0 2 * * *", "retention": "last=7", "goal_rpo": "26h", "legal_hold": true },
        "encryption": {
            "recipient": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        },
        "fleet": { "region": "eu", "tags": ["beta", "gold"], "server_tags": ["disk=nvme"], "apart_from": ["globex"] },
        "application": { "plan": "gold", "nothing": null },
    });

    let settings = parse(all.clone()).unwrap();

    assert_eq!(settings.to_value(), all);
    let limits = settings.limits().unwrap();
    assert_eq!(limits.connections(), Some(5));
    assert_eq!(limits.statement_timeout(), Some(Duration::from_secs(90)));
    assert_eq!(limits.idle_in_transaction_timeout(), Some(Duration::from_mins(5)));
    assert_eq!(limits.queries_per_second().map(u32::from), Some(100));
    assert_eq!(settings.sso().unwrap().audience(), ["board-app"]);
    assert_eq!(settings.branding().unwrap().display_name(), Some("Acme & Söhne"));
}

#[test]
fn what_is_not_there_is_not_written() {
    for nothing in [json!({}), json!({ "branding": null, "limits": null, "application": null })] {
        assert_eq!(parse(nothing).unwrap(), TenantSettings::default());
    }
    assert_eq!(TenantSettings::default().to_value(), json!({}));
    let one = parse(with("sso", "audience", &json!("app"))).unwrap();
    assert_eq!(one.sso().unwrap().audience(), ["app"]);
    let unset = parse(with("branding", "primary_color", &Value::Null)).unwrap();
    assert_eq!(unset.to_value(), json!({ "branding": {} }));
}

#[test]
fn a_wrong_value_is_named_with_its_path() {
    let long = "x".repeat(2001);
    let cases = [
        ("branding", "logo_url", json!("http://acme.com/logo.svg")),
        ("branding", "logo_url", json!("https:acme.com")),
        ("branding", "logo_url", json!("https:///acme.com")),
        ("branding", "logo_url", json!("https://acme.com/ logo")),
        ("branding", "logo_url", json!("https://me:hush@acme.com/")),
        ("branding", "logo_url", json!("javascript:alert(1)")),
        ("branding", "logo_url", json!(format!("https://acme.com/{long}"))),
        ("branding", "primary_color", json!("red")),
        ("branding", "primary_color", json!("#12345")),
        ("branding", "secondary_color", json!("#12345é")),
        ("branding", "secondary_color", json!(5)),
        ("branding", "display_name", json!("")),
        ("branding", "display_name", json!("a\nb")),
        ("branding", "display_name", json!("x".repeat(201))),
        ("sso", "issuer", json!("http://sso.acme.com")),
        ("sso", "issuer", json!("http://localhost.evil.com")),
        ("sso", "issuer", json!("https://sso.acme.com?a=b")),
        ("sso", "issuer", json!("https://sso.acme.com#x")),
        ("sso", "issuer", json!(" https://sso.acme.com")),
        ("sso", "issuer", Value::Null),
        ("sso", "audience", json!([])),
        ("sso", "audience", json!("")),
        ("sso", "audience", json!(["a", 5])),
        ("sso", "audience", json!(vec!["a"; 21])),
        ("limits", "connections", json!(0)),
        ("limits", "connections", json!(1001)),
        ("limits", "connections", json!("5")),
        ("limits", "connections", json!(1.5)),
        ("limits", "statement_timeout", json!("0")),
        ("limits", "statement_timeout", json!("0s")),
        ("limits", "statement_timeout", json!("24h1ms")),
        ("limits", "statement_timeout", json!(30)),
        ("limits", "idle_in_transaction_timeout", json!("soon")),
    ];
    for (section, field, value) in cases {
        let error = parse(with(section, field, &value)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{section}.{field}`: expected ")), "{value}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn issuers_are_kept_byte_by_byte() {
    for good in [
        "https://sso.acme.com",
        "https://sso.acme.com/",
        "https://SSO.acme.com:8443/a/../b",
        "http://localhost:9000",
        "http://127.0.0.1/x",
        "http://[::1]:1",
    ] {
        let settings = parse(with("sso", "issuer", &json!(good))).unwrap();
        assert_eq!(settings.sso().unwrap().issuer(), good);
    }
}

#[test]
fn unknown_names_and_other_shapes_are_refused() {
    for (bad, words) in [
        (json!({ "colour": "red" }), "`colour`: unknown field"),
        (json!({ "branding": { "colour": "red" } }), "`branding.colour`: unknown field"),
        (json!({ "sso": {} }), "`sso`: missing field `issuer`"),
        (json!({ "branding": [] }), "`branding`: expected a JSON object"),
        (json!({ "application": 5 }), "`application`: expected a JSON object"),
        (json!([]), "settings are a JSON object"),
        (Value::Null, "settings are a JSON object"),
        (json!({ "x".repeat(5000): 1 }), "…`: unknown field"),
    ] {
        let error = parse(bad.clone()).unwrap_err().to_string();
        assert!(error.contains(words) && error.len() < 1000, "{bad}: {error}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    for bad in [
        json!({ "application": { "a": { "b": "\0" } } }),
        json!({ "application": { "a": ["x", { "\0": 1 }] } }),
        json!({ "\0": 1 }),
    ] {
        let error = parse(bad.clone()).unwrap_err().to_string();
        assert!(error.contains("NUL") && !error.contains('\0'), "{bad}: {error}");
    }
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let error = parse(json!({ "application": { "deep": deep } })).unwrap_err().to_string();
    assert!(error.starts_with("`application`: expected at most 32 levels"), "{error}");
    let long = json!({ "application": { "text": "x".repeat(MAX_BYTES) } });
    assert!(matches!(parse(long), Err(SettingsError::TooLong(_))));
}

#[test]
fn what_older_versions_stored_is_never_refused_or_lost() {
    let cases = [
        (json!({ "colour": "red" }), json!({ "application": { "colour": "red" } })),
        (
            json!({ "branding": { "logo": "x" }, "application": { "branding": 1 }, "a": null }),
            json!({ "application": { "branding": 1, "branding_": { "logo": "x" }, "a": null } }),
        ),
        (
            json!({ "branding": { "primary_color": "#123456" }, "limits": { "connections": 0 } }),
            json!({
                "branding": { "primary_color": "#123456" },
                "application": { "limits": { "connections": 0 } },
            }),
        ),
        (json!({ "application": [1] }), json!({ "application": { "application": [1] } })),
        (json!([1]), json!({ "application": { "settings": [1] } })),
    ];
    for (stored, found) in cases {
        assert_eq!(TenantSettings::stored(stored.clone()).to_value(), found, "{stored}");
    }
}

/// JSON that is near to settings, so that some of it is accepted.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("branding".to_owned()),
        Just("limits".to_owned()),
        Just("sso".to_owned()),
        Just("compliance".to_owned()),
        Just("encryption".to_owned()),
        Just("recipient".to_owned()),
        Just("application".to_owned()),
        Just("primary_color".to_owned()),
        Just("issuer".to_owned()),
        Just("audience".to_owned()),
        Just("connections".to_owned()),
        Just("statement_timeout".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..1200_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!("#00ff00")),
        Just(json!("https://sso.acme.com")),
        "[0-9]{1,3}(ms|s|m|h)".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics_and_what_is_accepted_reads_back(value in any_json()) {
        if let Ok(settings) = parse(value.clone()) {
            prop_assert_eq!(parse(settings.to_value()).unwrap(), settings.clone());
            prop_assert_eq!(TenantSettings::stored(settings.to_value()), settings);
        }
        let stored = TenantSettings::stored(value);
        prop_assert_eq!(TenantSettings::stored(stored.to_value()), stored);
    }

    #[test]
    fn sections_of_any_content_are_read_or_refused(inner in any_json(), section in 0..SECTIONS.len()) {
        let value = json!({ SECTIONS[section]: inner });
        if let Ok(settings) = parse(value.clone()) {
            prop_assert_eq!(parse(settings.to_value()).unwrap(), settings);
        }
        let stored = TenantSettings::stored(value);
        prop_assert_eq!(TenantSettings::stored(stored.to_value()), stored);
    }
}
