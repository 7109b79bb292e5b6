//! Holes, as somebody punches them by hand: what is done and where, what must be found about what, a word of the
//! remedy, and what takes it back.
//!
//! `;;` ends a statement that needs a transaction of its own. `{stamp:acme}`, `{database:acme}` and `{role:acme}`
//! are what a tenant had before; `{template}` and `{spare}` are the databases of those kinds.

pub struct Hole {
    /// The database in which it is punched and fixed.
    pub at: &'static str,
    pub punch: &'static str,
    pub kind: &'static str,
    pub subject: &'static str,
    pub remedy: &'static str,
    pub mend: &'static str,
}

const fn hole(
    at: &'static str,
    punch: &'static str,
    kind: &'static str,
    subject: &'static str,
    remedy: &'static str,
    mend: &'static str,
) -> Hole {
    Hole { at, punch, kind, subject, remedy, mend }
}

const SERVER: &str = "postgres";
const CATALOG: &str = "tenantry";

/// They stand beside each other: none hides another. They are fixed from the last to the first.
#[rustfmt::skip] // a hole a line: it is read as a table
pub const HOLES: &[Hole] = &[
    // Somebody else's roles, that others are about.
    hole(SERVER, "create role spy; create role middle", "", "", "", "drop role spy; drop role middle"),
    // Databases.
    hole(SERVER, "grant connect on database tenant_t01 to public", "public_right", "database tenant_t01", "revoke connect", "revoke connect on database tenant_t01 from public"),
    hole(SERVER, "grant temporary on database tenant_t02 to public", "public_right", "database tenant_t02", "revoke temporary", "revoke temporary on database tenant_t02 from public"),
    hole(SERVER, "grant connect on database tenant_t03 to tenant_t04", "reaches_database", "tenant_t04", "revoke connect on database tenant_t03", "revoke connect on database tenant_t03 from tenant_t04"),
    hole(SERVER, "grant connect on database postgres to tenant_t05", "reaches_database", "tenant_t05", "database postgres", "revoke connect on database postgres from tenant_t05"),
    hole(SERVER, "grant connect on database tenantry to tenant_t06", "reaches_database", "tenant_t06", "database tenantry", "revoke connect on database tenantry from tenant_t06"),
    hole(SERVER, "grant connect on database template1 to tenantry_app", "reaches_database", "tenantry_app", "database template1", "revoke connect on database template1 from tenantry_app"),
    hole(SERVER, "grant connect on database {template} to public", "public_right", "{template}", "revoke", "revoke connect on database {template} from public"),
    hole(SERVER, "alter database {template} allow_connections true", "accepts_connections", "{template}", "allow_connections false", "alter database {template} allow_connections false"),
    hole(SERVER, "comment on database {spare} is 'mine'", "wrong_marker", "{spare}", "by hand", "comment on database {spare} is '{comment:spare}'"),
    hole(SERVER, "create database tenant_stray", "stray_database", "tenant_stray", "by hand", "drop database tenant_stray"),
    hole(SERVER, "create database other", "open_database", "database other", "from public", "drop database other"),
    hole(SERVER, "grant temporary on database tenant_t07 to spy", "foreign_right", "database tenant_t07", "from spy", "revoke temporary on database tenant_t07 from spy"),
    hole(SERVER, "alter database tenant_t08 is_template true", "clonable", "database tenant_t08", "is_template false", "alter database tenant_t08 is_template false"),
    hole(SERVER, "alter database tenant_t09 owner to spy", "wrong_owner", "database tenant_t09", "owner to", "alter database tenant_t09 owner to postgres"),
    hole(SERVER, "alter database tenant_t10 connection limit 50", "connection_limit", "database tenant_t10", "limit -1", "alter database tenant_t10 connection limit -1"),
    hole(SERVER, "alter database tenant_t11 reset tenantry.tenant", "wrong_stamp", "database tenant_t11", "find out", "alter database tenant_t11 set tenantry.tenant = '{stamp:t11}'"),
    hole(SERVER, "alter database tenant_t12 set tenantry.tenant = '{stamp:t12}0'", "wrong_stamp", "database tenant_t12", "find out", "alter database tenant_t12 set tenantry.tenant = '{stamp:t12}'"),
    hole(SERVER, "comment on database tenant_t13 is null", "wrong_marker", "database tenant_t13", "find out", "comment on database tenant_t13 is '{database:t13}'"),
    // Two that change names: each is the other's now.
    hole(SERVER, "alter database tenant_t14 rename to aside; alter database tenant_t15 rename to tenant_t14; alter database aside rename to tenant_t15", "wrong_marker", "database tenant_t14", "changed names", "alter database tenant_t14 rename to aside; alter database tenant_t15 rename to tenant_t14; alter database aside rename to tenant_t15"),
    hole(SERVER, "", "login_elsewhere", "tenant_t15", "revoke", ""),
    hole(SERVER, "alter database tenant_t16 rename to gone", "database_missing", "tenant_t16", "restore t16 --latest", "alter database gone rename to tenant_t16"),
    hole(SERVER, "", "stray_database", "database gone", "look into it", ""),
    hole(SERVER, "alter database tenant_t30 set row_security = off", "setting", "database tenant_t30", "reset row_security", "alter database tenant_t30 reset row_security"),
    // Roles.
    hole(SERVER, "alter role tenant_t17 rename to ghost", "role_missing", "tenant_t17", "restore", "alter role ghost rename to tenant_t17"),
    hole(SERVER, "", "stray_role", "ghost", "look into it", ""),
    hole(SERVER, "alter role tenant_t18 createdb", "role_attribute", "tenant_t18", "nocreatedb", "alter role tenant_t18 nocreatedb"),
    hole(SERVER, "alter role tenant_t19 superuser", "role_attribute", "tenant_t19", "nosuperuser", "alter role tenant_t19 nosuperuser"),
    hole(SERVER, "", "forbidden_act", "tenant_t19", "attribute", ""),
    hole(SERVER, "alter role tenant_t20 bypassrls", "role_attribute", "tenant_t20", "nobypassrls", "alter role tenant_t20 nobypassrls"),
    hole(SERVER, "alter role tenantry_app login", "role_attribute", "tenantry_app", "nologin", "alter role tenantry_app nologin"),
    hole(SERVER, "grant tenantry_owner to tenant_t21", "membership", "tenant_t21", "revoke tenantry_owner", "revoke tenantry_owner from tenant_t21"),
    hole(SERVER, "", "forbidden_act", "tenant_t21", "membership", ""),
    hole(SERVER, "grant pg_read_all_data to tenant_t22", "predefined_role", "tenant_t22", "revoke pg_read_all_data", "revoke pg_read_all_data from tenant_t22"),
    hole(SERVER, "grant pg_execute_server_program to middle; grant middle to tenant_t23", "predefined_role", "tenant_t23", "leads to it", "revoke middle from tenant_t23; revoke pg_execute_server_program from middle"),
    hole(SERVER, "grant pg_signal_backend to tenantry_app", "predefined_role", "tenantry_app", "revoke pg_signal_backend", "revoke pg_signal_backend from tenantry_app"),
    hole(SERVER, "grant tenant_t24 to spy", "member", "tenant_t24", "revoke tenant_t24 from spy", "revoke tenant_t24 from spy"),
    hole(SERVER, "set password_encryption = 'md5'; alter role tenant_t25 password 'x'; reset password_encryption", "weak_password", "tenant_t25", "rotate-password", "ROTATE t25"),
    hole(SERVER, "alter role tenant_t26 password 'another'", "login_failed", "tenant_t26", "rotate-password", "ROTATE t26"),
    hole(SERVER, "alter role tenant_t27 valid until '2100-01-01'", "valid_until", "tenant_t27", "infinity", "alter role tenant_t27 valid until 'infinity'"),
    hole(SERVER, "alter role tenant_t28 connection limit 50", "connection_limit", "role tenant_t28", "limit -1", "alter role tenant_t28 connection limit -1"),
    hole(SERVER, "alter role tenant_t29 set search_path = 'elsewhere'", "setting", "role tenant_t29", "reset search_path", "alter role tenant_t29 reset search_path"),
    hole(SERVER, "set role tenant_t04; alter role tenant_t04 set idle_session_timeout = '1ms'; reset role", "setting", "role tenant_t04", "reset idle_session_timeout", "alter role tenant_t04 reset idle_session_timeout"),
    hole(SERVER, "set role tenant_t05; alter role tenant_t05 set default_transaction_read_only = on; reset role", "setting", "role tenant_t05", "reset default_transaction_read_only", "alter role tenant_t05 reset default_transaction_read_only"),
    hole(SERVER, "set role tenant_t06; alter role tenant_t06 in database tenant_t06 set statement_timeout = '1ms'; reset role", "setting", "role tenant_t06 in database tenant_t06", "in database tenant_t06 reset statement_timeout", "alter role tenant_t06 in database tenant_t06 reset statement_timeout"),
    hole(SERVER, "alter role all set row_security = on", "setting", "every role", "alter role all reset", "alter role all reset row_security"),
    hole(SERVER, "alter role tenant_t01 set tenantry.tenant = 'x'", "wrong_stamp", "role tenant_t01", "reset tenantry.tenant", "alter role tenant_t01 reset tenantry.tenant"),
    hole(SERVER, "comment on role tenant_t02 is 'mine'", "wrong_marker", "role tenant_t02", "find out", "comment on role tenant_t02 is '{role:t02}'"),
    hole(SERVER, "grant set on parameter log_statement to tenant_t03", "parameter_right", "log_statement", "from tenant_t03", "revoke set on parameter log_statement from tenant_t03"),
    hole(SERVER, "", "forbidden_act", "tenant_t03", "grant", ""),
    hole(SERVER, "grant create on tablespace pg_default to public", "tablespace_right", "pg_default", "revoke create", "revoke create on tablespace pg_default from public"),
    hole(SERVER, "create role tenant_nobody", "stray_role", "tenant_nobody", "by hand", "drop role tenant_nobody"),
    hole(SERVER, "create role boss superuser login", "powerful_role", "boss", "accept", "drop role boss"),
    // The server.
    hole(SERVER, "copy (select 'host all all 10.0.0.0/8 trust') to program 'cat >> pg_hba.conf'", "hba_trust", "pg_hba.conf", "scram-sha-256", "copy (select 1) to program 'cat >> /dev/null && sed -i /10.0.0.0/d pg_hba.conf'"),
    hole(SERVER, "copy (select 'host all all 10.0.0.0/8 password') to program 'cat >> pg_hba.conf'", "hba_cleartext", "pg_hba.conf", "scram-sha-256", ""),
    hole(SERVER, "copy (select 'host all all 10.0.0.0/8 scram-sha-256') to program 'cat >> pg_hba.conf'", "hba_no_tls", "pg_hba.conf", "hostssl", ""),
    hole(SERVER, "copy (select 'hots all all 10.0.0.0/8 md5') to program 'cat >> pg_hba.conf'", "hba_error", "pg_hba.conf", "fix the line", ""),
    hole(SERVER, "alter system set password_encryption = 'md5' ;; select pg_reload_conf()", "server_setting", "password_encryption", "scram-sha-256", "alter system reset password_encryption ;; select pg_reload_conf()"),
    hole("tenant_t03", "select pg_create_logical_replication_slot('leak', 'pgoutput')", "replication_slot", "leak", "pg_drop_replication_slot", "select pg_drop_replication_slot('leak')"),
    hole("tenant_t04", "create subscription pull connection 'dbname=nowhere' publication p with (connect = false)", "subscription", "pull", "drop the subscription", "alter subscription pull set (slot_name = none) ;; drop subscription pull"),
    // Inside of a database.
    hole("tenant_t08", "create extension dblink", "extension", "dblink in tenant_t08", "drop extension", "drop extension dblink"),
    hole("tenant_t09", "create extension postgres_fdw; create server far foreign data wrapper postgres_fdw", "foreign_server", "far in tenant_t09", "drop the server", "drop extension postgres_fdw cascade"),
    hole("tenant_t10", "create function raw(text) returns text language c as '$libdir/dblink', 'dblink_connect'", "untrusted_function", "public.raw(text) in tenant_t10", "drop the function", "drop function raw"),
    hole("tenant_t11", "create function trap() returns int security definer language sql as 'select 1'", "security_definer", "public.trap() in tenant_t11", "search_path", "drop function trap"),
    hole("tenant_t12", "create function watch() returns event_trigger language plpgsql as 'begin end'; create event trigger watch on ddl_command_end execute function watch()", "event_trigger", "watch in tenant_t12", "drop the event trigger", "drop event trigger watch; drop function watch"),
    hole("tenant_t13", "create publication leak for all tables", "publication", "leak in tenant_t13", "drop the publication", "drop publication leak"),
    hole("tenant_t18", "grant create on schema public to tenantry_app", "schema_right", "schema public in tenant_t18", "revoke CREATE", "revoke create on schema public from tenantry_app"),
    hole("tenant_t18", "", "forbidden_act", "tenant_t18", "grant", ""),
    hole("tenant_t20", "grant usage on schema tenantry to tenantry_app", "schema_right", "schema tenantry in tenant_t20", "revoke USAGE", "revoke usage on schema tenantry from tenantry_app"),
    hole("tenant_t21", "grant select on tenantry.schema_history to tenantry_app", "object_right", "tenantry.schema_history in tenant_t21", "revoke SELECT", "revoke select on tenantry.schema_history from tenantry_app"),
    hole("tenant_t22", "grant select on boards to spy", "object_right", "public.boards in tenant_t22", "from spy", "revoke select on boards from spy"),
    hole("tenant_t23", "alter table boards owner to spy", "object_owner", "public.boards in tenant_t23", "owner to tenantry_owner", "alter table boards owner to tenantry_owner"),
    hole("tenant_t24", "alter default privileges for role tenantry_owner grant select on tables to public", "default_privilege", "tenantry_owner in tenant_t24", "from public", "alter default privileges for role tenantry_owner revoke select on tables from public"),
    hole("tenant_t27", "grant select on pg_authid to tenantry_app", "catalog_right", "pg_authid in tenant_t27", "revoke SELECT", "revoke select on pg_authid from tenantry_app"),
    hole("tenant_t27", "", "forbidden_act", "tenant_t27", "grant", ""),
    hole("tenant_t28", "grant execute on function pg_read_file(text) to public", "server_function", "pg_read_file(text) in tenant_t28", "revoke execute", "revoke execute on function pg_read_file(text) from public"),
    hole("tenant_t28", "do $$ begin execute format('alter large object %s owner to spy', lo_create(0)); end $$", "large_object", "in tenant_t28", "owner to tenantry_owner", "select lo_unlink(oid) from pg_largeobject_metadata"),
    hole("tenant_t29", "update pg_language set lanpltrusted = false where lanname = 'plpgsql'", "untrusted_language", "plpgsql in tenant_t29", "drop the language", "update pg_language set lanpltrusted = true where lanname = 'plpgsql'"),
    // The catalog.
    hole(CATALOG, "update tenants set settings = settings || '{\"sso\": {\"issuer\": \"https://sso.acme.com\"}}' where slug = 't29'; insert into members (tenant_id, issuer, subject, role) select id, 'https://other.example', 'mallory', 'admin' from tenants where slug = 't29'", "member_issuer", "mallory", "remove the member", "delete from members where subject = 'mallory'; update tenants set settings = settings - 'sso' where slug = 't29'"),
    hole(CATALOG, "drop index domains_verified_key; insert into domains (tenant_id, domain, challenge, verified_at) select id, 'acme.com', 'x', now() from tenants where slug in ('t01', 't02')", "domain_twice", "acme.com", "domain remove", "delete from domains; create unique index domains_verified_key on domains (domain) where verified_at is not null"),
    hole(CATALOG, "insert into registrations (id, tenant_id, slug, organization_name, admin_email, issuer, subject, state, fulfilled_at) values (gen_random_uuid(), gen_random_uuid(), 'nobody', 'Nobody', 'a@b.example', 'i', 's', 'approved', now())", "registration_without_tenant", "", "find out", "delete from registrations"),
    hole(CATALOG, "insert into schema_checks (tenant_id, version, fingerprint, differences) select id, 1, 'x', 3 from tenants where slug = 't30'", "schema_drift", "t30", "migrate verify --tenant t30", "delete from schema_checks"),
    hole(CATALOG, "update backups set key_id = '0011223344556677'", "old_key", "0011223344556677", "key rotate", "update backups set key_id = '{key}'"),
];
