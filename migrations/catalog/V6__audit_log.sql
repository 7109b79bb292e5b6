-- What was changed and what was refused: by whom, about which tenant, when. Rows are only ever added.
create table audit_log (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default now(),
    actor       text not null,
    action      text not null,
    -- As it was named: a request may name a tenant that does not exist.
    tenant_slug text,
    -- The living tenant of that slug at the time; a slug may be given again later.
    tenant_id   uuid references tenants,
    detail      jsonb not null
);
create index audit_log_tenant on audit_log (tenant_slug, id);

create function audit_log_is_for_good() returns trigger language plpgsql as $$
begin
    raise exception 'rows of the audit log are neither changed nor removed';
end
$$;

create trigger audit_log_is_for_good before update or delete on audit_log
    for each row execute function audit_log_is_for_good();
create trigger audit_log_is_kept before truncate on audit_log
    for each statement execute function audit_log_is_for_good();
