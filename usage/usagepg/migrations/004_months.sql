-- Quarters of an hour that hardly change any more: those of a month in one row,
-- see month.go. A quarter may have a row of usage_quarters beside it, of events
-- that came late: what it comes to is both together.
create table usage_months (
    month timestamptz not null,
    account text not null,
    meter text not null,
    figure text not null,
    dim text not null,
    days bytea not null,
    quarters bytea not null, -- of days that have several
    primary key (account, meter, figure, dim, month)
) partition by range (month);

-- Of a busy account the quarters are many: they are put aside, so that its days
-- are read without them.
alter table usage_months alter days set storage main, alter quarters set storage external;

-- For what is asked of all accounts. Equal keys share their entry.
create index usage_months_meter on usage_months (meter, figure);
