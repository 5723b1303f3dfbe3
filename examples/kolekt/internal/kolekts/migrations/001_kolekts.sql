create table kolekts (
    account    text collate "C" not null,
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
