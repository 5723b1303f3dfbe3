-- Days that hardly change any more: those of a month in one row, see month.go.
-- A day may have a row of usage_days beside it, of events that came late: what
-- it comes to is both together.
create table usage_months (
    month timestamptz not null,
    account text not null,
    meter text not null,
    figure text not null,
    dim text not null,
    data bytea not null,
    primary key (account, meter, figure, dim, month)
) partition by range (month);

alter table usage_months alter data set storage external;

-- For what is asked of all accounts. Equal keys share their entry.
create index usage_months_meter on usage_months (meter, figure);
