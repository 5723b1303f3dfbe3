-- State is one of mailer.State: 0 pending, 1 claimed, 2 sending, 3 sent,
-- 4 dead, 5 dropped, 6 held. Personal columns are null once scrubbed.
create table mailer_outbox (
    id           text        not null primary key,
    key_hash     bytea       not null,
    kind         text        not null,
    stream       text        not null,
    class        smallint    not null,
    state        smallint    not null,
    attempts     integer     not null default 0,
    guarded      boolean     not null,
    account      text,
    topic        text,
    grp          text,
    email        text,
    name         text,
    locale       text,
    time_zone    text,
    domain       text,
    address_hash bytea,
    data         json,
    created_at   timestamptz not null,
    run_at       timestamptz not null,
    expires_at   timestamptz not null,
    lease_until  timestamptz,
    finished_at  timestamptz,
    reason       text        not null default '',
    code         integer     not null default 0,
    enhanced     text        not null default '',
    transport    text        not null default '',
    provider_id  text        not null default '',
    -- The mail that took this one's place in it: the row is only a used key.
    merged_into  text
) with (fillfactor = 80);

create unique index mailer_outbox_key on mailer_outbox (key_hash);
create index mailer_outbox_due on mailer_outbox (run_at, id) where state = 0;
create index mailer_outbox_leased on mailer_outbox (lease_until) where state in (1, 2);
create index mailer_outbox_account on mailer_outbox (account, created_at) where account <> '';
create index mailer_outbox_look on mailer_outbox (state, id) where state in (4, 6);
create index mailer_outbox_scrub on mailer_outbox (finished_at) where email is not null and state >= 3;
create index mailer_outbox_purge on mailer_outbox (finished_at) where email is null;

create table mailer_suppression (
    address_hash bytea       not null,
    stream       text        not null,
    reason       text        not null,
    blocks       smallint    not null,
    source       text        not null,
    at           timestamptz not null,
    primary key (address_hash, stream, reason)
);

create table mailer_event (
    seq          bigint      generated always as identity primary key,
    provider     text        not null,
    event_id     text        not null,
    type         text        not null,
    reason       text        not null,
    mail_id      text        not null,
    address_hash bytea,
    code         integer     not null,
    enhanced     text        not null,
    at           timestamptz not null
);

create unique index mailer_event_once on mailer_event (provider, event_id) where event_id <> '';
create index mailer_event_address on mailer_event (address_hash, type, at);
create index mailer_event_mail on mailer_event (mail_id) where mail_id <> '';
create index mailer_event_at on mailer_event (at);
