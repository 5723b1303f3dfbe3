-- What a mail says. Rows change only when another mail takes their place and
-- when they are scrubbed: personal columns are null from then on. All that
-- moves is in mailer_delivery, so that no step of a delivery writes wide rows
-- or the index of keys.
create table mailer_outbox (
    -- 128 bits of an HMAC.
    key_hash     uuid        not null primary key,
    id           text        collate "C" not null,
    kind         text        not null,
    stream       text        not null,
    class        smallint    not null,
    guarded      boolean     not null,
    account      text        collate "C",
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
    run_at       timestamptz not null, -- as it was asked for
    expires_at   timestamptz not null,
    -- The mail that this one was merged into: the row is only a used key, and
    -- has no delivery. Its account is that mail as well, to be found by.
    merged_into  text        collate "C"
);

create index mailer_outbox_account on mailer_outbox (account, created_at) where account <> '';

-- How far a mail is. State is one of mailer.State: 0 pending, 1 claimed,
-- 2 sending, 3 sent, 4 dead, 5 dropped, 6 held; a final one is 10 more once the
-- mail is scrubbed. At is the time that counts in that state: when the mail is
-- due, when its lease ends, when it ended. So one index serves everything that
-- looks for work, and no step of a delivery writes more than it and the key's.
create table mailer_delivery (
    id           text        collate "C" not null primary key,
    key_hash     uuid        not null,
    at           timestamptz not null,
    run_at       timestamptz not null,
    attempts     integer     not null default 0,
    code         integer     not null default 0,
    state        smallint    not null,
    domain       text        collate "C", -- the mail's, for claims that pass over some
    reason       text        not null default '',
    enhanced     text        not null default '',
    transport    text        not null default '',
    provider_id  text        not null default ''
);

create index mailer_delivery_work on mailer_delivery (state, at);

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
    mail_id      text        collate "C" not null,
    address_hash bytea,
    code         integer     not null,
    enhanced     text        not null,
    at           timestamptz not null
);

create unique index mailer_event_once on mailer_event (provider, event_id) where event_id <> '';
create index mailer_event_address on mailer_event (address_hash, type, at);
create index mailer_event_mail on mailer_event (mail_id) where mail_id <> '';
create index mailer_event_at on mailer_event (at);
