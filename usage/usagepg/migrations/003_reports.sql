-- Days with events of which the payment provider is to be told. Whoever stores
-- such an event locks its row and raises the version, so that no commit is
-- overlooked.
create table usage_report_days (
    day timestamptz not null,
    due timestamptz not null,
    version bigint not null,
    done bigint not null default 0,
    account text not null,
    meter text not null,
    primary key (account, meter, day)
) with (fillfactor = 70);

create index usage_report_days_due on usage_report_days (due) where version <> done;

create table usage_reports (
    hour_from timestamptz not null,
    hour_to timestamptz not null,
    cut_at timestamptz not null,
    due timestamptz not null,
    first_try timestamptz,
    quantity bigint not null,
    tries integer not null,
    seq integer not null,
    state smallint not null, -- 1 pending, 2 delivered, 3 dead
    account text not null,
    meter text not null,
    id text not null,
    reason text not null,
    primary key (account, meter, hour_from, seq)
) with (fillfactor = 80);

-- At most one of an hour is under way.
create unique index usage_reports_pending on usage_reports (account, meter, hour_from) where state = 1;
create index usage_reports_due on usage_reports (due) where state = 1;
create index usage_reports_dead on usage_reports (hour_from) where state = 3;
