create table referral_codes (
    code       text primary key,
    campaign   text not null,
    account    text not null,
    active     boolean not null,
    uses       bigint not null default 0,
    max_uses   bigint not null,
    clicks     bigint not null default 0,
    created_at timestamptz not null,
    expires_at timestamptz,
    constraint referral_codes_uses check (max_uses = 0 or uses <= max_uses)
);
-- One active code for an account and campaign.
create unique index referral_codes_active on referral_codes (campaign, account) where active;

create table referral_redemptions (
    id         text primary key,
    campaign   text not null,
    code       text not null,
    referrer   text not null,
    referee    text not null,
    state      text not null,
    reasons    text[] not null,
    terms      json not null,
    created_at timestamptz not null,
    changed_at timestamptz not null,
    closes_at  timestamptz not null,
    paid_by    text not null default '',
    paid       bigint not null default 0,
    refunded   bigint not null default 0,
    currency   text not null default '',
    constraint referral_redemptions_self check (referrer <> referee)
);
-- An account is referred once, ever; and two accounts meet once, in one
-- direction, however many click at the same instant.
create unique index referral_redemptions_referee on referral_redemptions (referee);
create unique index referral_redemptions_pair on referral_redemptions (least(referrer, referee), greatest(referrer, referee));
create index referral_redemptions_referrer on referral_redemptions (campaign, referrer, state);
create index referral_redemptions_open on referral_redemptions (closes_at) where state = 'pending';
create index referral_redemptions_created on referral_redemptions (created_at desc, id desc);

create table referral_rewards (
    id          text primary key,
    redemption  text not null references referral_redemptions,
    campaign    text not null,
    account     text not null,
    side        text not null,
    benefit     json not null,
    state       text not null,
    vests_at    timestamptz,
    created_at  timestamptz not null,
    changed_at  timestamptz not null,
    months_left bigint not null,
    amount      bigint not null default 0,
    reversed    bigint not null default 0,
    currency    text not null default '',
    grants      json not null default '[]',
    call        json,
    next_try    timestamptz,
    attempts    int not null default 0,
    version     bigint not null default 1,
    unique (redemption, side),
    constraint referral_rewards_reversed check (reversed between 0 and amount)
);
create index referral_rewards_account on referral_rewards (account, created_at, id);
create index referral_rewards_due on referral_rewards (vests_at) where state = 'qualified' and months_left = 0;

create table referral_ledger (
    id       text primary key,
    ordinal  bigint generated always as identity,
    kind     text not null,
    reward   text not null,
    account  text not null,
    amount   bigint not null,
    currency text not null,
    cause    text not null,
    at       timestamptz not null
);
create index referral_ledger_account on referral_ledger (account, ordinal);

-- What referees left behind, for the review of others: the first one has it.
create table referral_signals (
    campaign   text not null,
    kind       text not null,
    hash       text not null,
    redemption text not null,
    at         timestamptz not null,
    primary key (campaign, kind, hash)
);
create index referral_signals_at on referral_signals (at);

-- What owners of codes are known by, against redeeming their own.
create table referral_owner_signals (
    account text not null,
    kind    text not null,
    hash    text not null,
    at      timestamptz not null,
    primary key (account, kind, hash)
);
create index referral_owner_signals_at on referral_owner_signals (at);

create table referral_caps (
    key     text not null,
    account text not null,
    n       bigint not null,
    most    bigint not null,
    primary key (key, account),
    constraint referral_caps_reached check (n <= most)
);

create table referral_budgets (
    campaign text primary key,
    spent    bigint not null,
    budget   bigint not null,
    constraint referral_budgets_reached check (spent <= budget)
);
