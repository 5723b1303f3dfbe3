create table billing_accounts (
    account     text primary key,
    customer_id text unique,
    version     bigint not null check (version > 0),
    synced_at   timestamptz,
    due_at      timestamptz,
    data        json not null
);
create index billing_accounts_due on billing_accounts (due_at) where due_at is not null;
create index billing_accounts_synced on billing_accounts (synced_at) where customer_id is not null;

create table billing_events (
    id          text primary key,
    type        text not null,
    customer_id text not null,
    account     text not null,
    created     timestamptz not null,
    received    timestamptz not null,
    body        bytea not null,
    status      text not null default 'pending' check (status in ('pending', 'done', 'dead')),
    attempts    integer not null default 0,
    next_at     timestamptz not null,
    last_error  text not null default ''
);
create index billing_events_pending on billing_events (next_at, id) where status = 'pending';
create index billing_events_received on billing_events (received, id);
create index billing_events_customer on billing_events (customer_id, received, id);

-- A notice that was pruned keeps its ID, so that it is never added again.
create table billing_notices (
    id           text primary key,
    sequence     bigint generated always as identity,
    account      text,
    data         json,
    attempts     integer not null default 0,
    next_at      timestamptz not null,
    delivered_at timestamptz,
    dead         boolean not null default false,
    last_error   text not null default ''
);
create index billing_notices_pending on billing_notices (sequence) where delivered_at is null and not dead and data is not null;
create index billing_notices_account on billing_notices (account, sequence) where data is not null;
create index billing_notices_delivered on billing_notices (delivered_at) where data is not null;

-- What only one account may have, such as the trial of a card.
create table billing_claims (
    name    text collate "C" primary key,
    account text not null,
    at      timestamptz not null
);
create index billing_claims_account on billing_claims (account);

create table billing_cursors (
    name text primary key,
    at   timestamptz not null
);

---- create above / drop below ----

drop table billing_cursors;
drop table billing_claims;
drop table billing_notices;
drop table billing_events;
drop table billing_accounts;
