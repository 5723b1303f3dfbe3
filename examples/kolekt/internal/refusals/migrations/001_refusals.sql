create table refusals (
    account text collate "C" not null,
    hour    timestamptz not null,
    reason  text collate "C" not null,
    plan    text collate "C" not null,
    n       bigint not null,
    primary key (account, hour, reason, plan)
);

create index refusals_hour on refusals (hour);
