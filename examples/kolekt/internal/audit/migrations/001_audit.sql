create table audit (
    id      text collate "C" primary key,
    at      timestamptz not null,
    actor   text collate "C" not null,
    account text collate "C" not null,
    action  text collate "C" not null,
    detail  text not null,
    reason  text not null,
    outcome text not null
);

create index audit_account on audit (account, id);
create index audit_actor on audit (actor);
