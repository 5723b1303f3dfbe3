create table apikeys_head (
    singleton       boolean primary key default true check (singleton),
    seq             bigint not null,
    hash            bytea not null
);

insert into apikeys_head (seq, hash) values (0, '');

-- Apart from the head, which every change writes: every look-up reads it.
create table apikeys_epoch (
    singleton       boolean primary key default true check (singleton),
    revoked_before  timestamptz not null
);

insert into apikeys_epoch (revoked_before) values ('-infinity');

create table apikeys_keys (
    id            text collate "C" primary key,
    lineage       text collate "C" not null,
    predecessor   text collate "C" not null,
    successor     text collate "C" not null,
    owner_kind    text not null,
    owner_id      text not null,
    name          text not null,
    environment   text not null,
    hint          text not null,
    scopes        text[] not null,
    networks      text[] not null,
    metadata      jsonb not null,
    created_at    timestamptz not null,
    created_by    text not null,
    activated_at  timestamptz,
    expires_at    timestamptz,
    disabled_at   timestamptz,
    revoked_at    timestamptz,
    revoked_for   text not null,
    replaced_at   timestamptz,
    overlap_us    bigint not null,
    sunset_at     timestamptz,
    used_at       timestamptz,
    used_addr     text not null default '',
    used_agent    text not null default '',
    hash          bytea not null unique check (length(hash) = 28),
    pepper        smallint not null,
    tag           smallint not null,
    scheme        text not null,
    verifier      bytea
) with (fillfactor = 90);

create unique index apikeys_keys_predecessor on apikeys_keys (predecessor) where predecessor <> '';
create index apikeys_keys_owner on apikeys_keys (owner_id, owner_kind, id);
create index apikeys_keys_lineage on apikeys_keys (lineage, id);
create index apikeys_keys_created_by on apikeys_keys (created_by);

create table apikeys_log (
    seq         bigint primary key,
    at          timestamptz not null,
    action      text not null,
    key_id      text collate "C" not null,
    owner_kind  text not null,
    owner_id    text not null,
    actor       text not null,
    detail      jsonb not null,
    salt        bytea not null,
    digest      bytea not null,
    hash        bytea not null
);

create index apikeys_log_key on apikeys_log (key_id, seq);
create index apikeys_log_owner on apikeys_log (owner_id, seq);
create index apikeys_log_actor on apikeys_log (actor, seq);

---- create above / drop below ----

drop table apikeys_log;
drop table apikeys_keys;
drop table apikeys_epoch;
drop table apikeys_head;
