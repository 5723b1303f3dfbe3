create table ledger_changes (
    id      text collate "C" primary key,
    account text collate "C" not null,
    change  jsonb not null
);

create index ledger_changes_account on ledger_changes (account);
