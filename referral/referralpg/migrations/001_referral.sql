-- Identifiers compare as bytes: that is what they are, and what an index does
-- fastest.
create table referral_codes (
    code       text collate "C" primary key,
    campaign   text collate "C" not null,
    account    text collate "C" not null,
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
    id         text collate "C" primary key,
    campaign   text collate "C" not null,
    code       text collate "C" not null,
    referrer   text collate "C" not null,
    referee    text collate "C" not null,
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
    version    bigint not null default 1,
    -- The rewards as long as nothing has happened to them: most redemptions
    -- never come to more, and those that do get rows of referral_rewards then.
    rewards    json,
    constraint referral_redemptions_self check (referrer <> referee)
);
-- An account is referred once, ever; and two accounts meet once, in one
-- direction, however many click at the same instant.
create unique index referral_redemptions_referee on referral_redemptions (referee);
create unique index referral_redemptions_pair on referral_redemptions (least(referrer, referee), greatest(referrer, referee));
create index referral_redemptions_referrer on referral_redemptions (referrer);
create index referral_redemptions_open on referral_redemptions (closes_at) where state = 'pending';
create index referral_redemptions_created on referral_redemptions (created_at desc, id desc);

create table referral_rewards (
    id          text collate "C" primary key,
    redemption  text collate "C" not null references referral_redemptions,
    campaign    text collate "C" not null,
    account     text collate "C" not null,
    side        text collate "C" not null,
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
    corrected   bigint not null default 0,
    next_try    timestamptz,
    attempts    int not null default 0,
    version     bigint not null default 1,
    unique (redemption, side),
    constraint referral_rewards_reversed check (reversed between 0 and amount)
);
create index referral_rewards_account on referral_rewards (account, created_at, id);
create index referral_rewards_due on referral_rewards (vests_at) where state = 'qualified' and months_left = 0;

create table referral_ledger (
    id       text collate "C" primary key,
    ordinal  bigint generated always as identity,
    kind     text not null,
    reward   text not null,
    account  text collate "C" not null,
    amount   bigint not null,
    currency text not null,
    cause    text not null,
    at       timestamptz not null
);
create index referral_ledger_account on referral_ledger (account, ordinal);

-- What was taken back of an account and isn't recovered, less what a call
-- under way is about to recover: two calls that begin at once share this row.
create table referral_carries (
    account  text collate "C" not null,
    currency text collate "C" not null,
    amount   bigint not null,
    primary key (account, currency)
);

-- How many of a referrer's redemptions are qualified: the row numbers those
-- that qualify at once.
create table referral_standings (
    campaign  text collate "C" not null,
    account   text collate "C" not null,
    qualified bigint not null,
    primary key (campaign, account)
);
create index referral_standings_leaders on referral_standings (campaign, qualified desc, account);

-- What referees left behind, for the review of others: campaign/kind/hash. The
-- first one has it.
create table referral_signals (
    key        text collate "C" primary key,
    redemption text not null,
    at         timestamptz not null
);
create index referral_signals_at on referral_signals using brin (at);

-- What owners of codes are known by, kind/hash, against redeeming their own.
create table referral_owner_signals (
    account text collate "C" not null,
    key     text collate "C" not null,
    at      timestamptz not null,
    primary key (account, key)
);
create index referral_owner_signals_at on referral_owner_signals using brin (at);

create table referral_caps (
    key     text collate "C" not null,
    account text collate "C" not null,
    n       bigint not null,
    most    bigint not null,
    primary key (key, account),
    constraint referral_caps_reached check (n <= most)
);

create table referral_budgets (
    campaign text collate "C" primary key,
    spent    bigint not null,
    budget   bigint not null,
    constraint referral_budgets_reached check (spent <= budget)
);
