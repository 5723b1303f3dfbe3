-- The reference locks the login's row while a kolekt is stored: nothing can be
-- added to an account once its erasure has taken the login away, and what came
-- between the erasure of the kolekts and that of the login goes with it.
create table kolekts (
    account    text collate "C" not null references users (id) on delete cascade,
    id         text collate "C" not null,
    text       text        not null,
    tone       text        not null,
    images     jsonb       not null,
    posts      jsonb       not null,
    characters integer     not null,
    score      integer     not null,
    factors    jsonb       not null,
    created_at timestamptz not null,
    primary key (account, id)
);
