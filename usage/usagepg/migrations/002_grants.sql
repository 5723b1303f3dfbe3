alter table usage_counters
    add column drawn bigint not null default 0, -- the part of used that comes from grants
    add column drawn_held bigint not null default 0, -- and of held
    add column granted boolean not null default false; -- there may be grants: no step goes by this row alone

alter table usage_holds add column draws jsonb; -- what a hold holds of which lot

-- The row that whoever changes an account's grants locks first: the lots
-- themselves come and go while a statement waits.
create table usage_wallets (
    account text not null,
    meter text not null,
    primary key (account, meter)
);

-- Each row is a lot: the whole of a one-off grant, or an interval's share of a
-- recurring one.
create table usage_grants (
    starts timestamptz not null,
    ends timestamptz,
    anchor timestamptz not null, -- the grant's own beginning
    expires timestamptz,
    granted_at timestamptz not null,
    revoked_at timestamptz,
    amount bigint not null,
    rollover bigint not null,
    issued bigint not null,
    carried bigint not null,
    burned bigint not null,
    held bigint not null,
    expired bigint not null,
    voided bigint not null,
    rolled bigint not null,
    seq integer not null,
    priority integer not null,
    passed boolean not null,
    closed boolean not null,
    account text not null,
    meter text not null,
    key text not null,
    every text not null,
    note text not null,
    primary key (account, meter, key, seq),
    check (issued + carried - burned - held - expired - voided - rolled >= 0
        and burned >= 0 and held >= 0 and expired >= 0 and voided >= 0 and rolled >= 0)
) with (fillfactor = 70);

create index usage_grants_open on usage_grants (account, meter) where not closed;
create index usage_grants_ending on usage_grants (ends) where not passed and ends is not null;

-- The ledger: only ever appended to.
create table usage_grant_entries (
    at timestamptz not null,
    period_from timestamptz, -- of the counter for which units were moved
    units bigint not null,
    n bigint not null generated always as identity,
    seq integer not null,
    move smallint not null,
    account text not null,
    meter text not null,
    key text not null,
    step text,
    primary key (account, meter, at, n)
);
