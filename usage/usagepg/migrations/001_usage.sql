-- Every key begins with the account, so that the tables can be distributed by
-- it; only the platform's totals have none.

create table usage_events (
    ts timestamptz not null,
    value bigint not null,
    key bigint not null, -- the second half; ts or id say the first
    flags smallint not null, -- 1: counted against a quota
    account text not null,
    meter text not null,
    id text, -- the caller's; null when ts and key say it all
    props jsonb,
    primary key (account, meter, ts, key)
) partition by range (ts);

create index usage_events_ts on usage_events using brin (ts) with (pages_per_range = 32);

-- The keys of events whose ID is the caller's: such an event may come again
-- with another time, which the primary key above wouldn't notice.
create table usage_keys (
    key uuid not null,
    hash bigint not null,
    at timestamptz not null,
    account text not null,
    primary key (account, key)
);

create index usage_keys_at on usage_keys using brin (at);

-- What each account's quarters of an hour come to: they fit the days of every
-- time zone.
create table usage_quarters (
    bucket timestamptz not null,
    cnt bigint not null,
    min bigint not null,
    max bigint not null,
    last bigint not null,
    last_at timestamptz not null,
    scale smallint not null,
    sum numeric not null, -- behind the other numbers: what an update leaves alone lies together
    account text not null,
    meter text not null,
    figure text not null, -- empty for the value
    dim text not null, -- empty for all, or name=value
    primary key (account, meter, figure, dim, bucket)
) partition by range (bucket);

-- Cold events, many in a row; see pack.go. An event is either here or in
-- usage_events.
create table usage_packed (
    ts timestamptz not null, -- of the first event
    until timestamptz not null, -- of the last
    key bigint not null, -- of the first
    n integer not null,
    account text not null,
    meter text not null,
    data bytea not null,
    primary key (account, meter, ts, key)
) partition by range (ts);

alter table usage_packed alter data set storage external;

-- Days (UTC) are what most questions are about. The shards keep flushes from waiting for each other.
create table usage_platform (
    bucket timestamptz not null,
    cnt bigint not null,
    min bigint not null,
    max bigint not null,
    last bigint not null,
    last_at timestamptz not null,
    scale smallint not null,
    grain smallint not null, -- 0: quarters, 1: days
    shard smallint not null,
    meter text not null,
    figure text not null,
    dim text not null,
    sum numeric not null,
    primary key (meter, figure, dim, grain, bucket, shard)
) with (fillfactor = 70);

-- What Maintain has still to make into one row.
create index usage_platform_shards on usage_platform (bucket) where shard > 0;

create table usage_counters (
    period_from timestamptz not null,
    period_to timestamptz not null,
    used bigint not null default 0,
    held bigint not null default 0,
    bare bigint not null default 0,
    lim bigint not null default 0,
    account text not null,
    meter text not null,
    primary key (account, meter, period_from)
) with (fillfactor = 50);

-- No index on used, held or lim: an update must stay on its page.
create index usage_counters_running on usage_counters (meter, period_to);

create table usage_holds (
    period_from timestamptz not null,
    period_to timestamptz not null,
    n bigint not null,
    actual bigint not null,
    at timestamptz not null,
    expires timestamptz,
    kind smallint not null,
    state smallint not null,
    account text not null,
    meter text not null,
    key text not null,
    primary key (account, key)
) with (fillfactor = 80);

create index usage_holds_open on usage_holds (account, meter, expires) where state = 0;

create table usage_notices (
    period_from timestamptz not null,
    period_to timestamptz not null,
    used bigint not null,
    lim bigint not null,
    at timestamptz not null,
    claimed_until timestamptz,
    done_at timestamptz,
    percent integer not null,
    superseded boolean not null,
    account text not null,
    meter text not null,
    id text not null,
    primary key (account, id)
);

create index usage_notices_due on usage_notices (at) where done_at is null;
