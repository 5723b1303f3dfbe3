create table gdpr_requests (
    id          text primary key,
    kind        text not null,
    subject_ref text not null,
    state       text not null,
    received_at timestamptz not null,
    due_at      timestamptz not null,
    next_run    timestamptz,
    lease_until timestamptz,
    closed      boolean not null,
    version     bigint not null,
    -- json, not jsonb: a certificate is signed byte for byte.
    body        json not null,
    sealed      bytea
);

-- One open request of a kind for each subject, whoever asks at once.
create unique index gdpr_requests_open on gdpr_requests (subject_ref, kind) where not closed;
create index gdpr_requests_due on gdpr_requests (next_run) where next_run is not null;
create index gdpr_requests_received on gdpr_requests (received_at desc, id desc);

create table gdpr_tombstones (
    hash       text primary key,
    loose      text not null,
    request    text not null,
    erased_at  timestamptz not null,
    expires_at timestamptz not null
);
create index gdpr_tombstones_loose on gdpr_tombstones (loose);
create index gdpr_tombstones_expiry on gdpr_tombstones (expires_at);

create table gdpr_consents (
    id          text primary key,
    subject_ref text not null,
    purpose     text not null,
    version     int not null,
    text_hash   text not null,
    granted     boolean not null,
    at          timestamptz not null,
    method      text not null,
    locale      text not null,
    ordinal     bigint generated always as identity
);
create index gdpr_consents_subject on gdpr_consents (subject_ref, at, ordinal);

create table gdpr_keys (
    subject_ref  text primary key,
    wrapped      bytea,
    destroyed_at timestamptz
);

create table gdpr_audit (
    seq         bigint primary key,
    at          timestamptz not null,
    request     text not null,
    subject_ref text not null,
    action      text not null,
    detail      text not null,
    hash        text not null
);
