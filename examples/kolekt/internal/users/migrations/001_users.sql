create table users (
    id          text collate "C" primary key,
    email       text collate "C" not null unique,
    name        text        not null,
    hash        text        not null,
    admin       boolean     not null,
    created_at  timestamptz not null,
    verified_at timestamptz
);

-- The names are those that github.com/alexedwards/scs/pgxstore expects.
create table sessions (
    token  text primary key,
    data   bytea       not null,
    expiry timestamptz not null
);

create index sessions_expiry on sessions (expiry);
