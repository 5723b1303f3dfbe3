-- One statement decides and stores what most redemptions are: of an account
-- that has referred nobody, and so closes no cycle, with signals of its own, in
-- a campaign without caps over several codes. The guarded update takes the
-- row's lock and lets nobody past the code's cap. What isn't a condition of it
-- is a unique index, whose violation aborts the whole statement, the use
-- included. All else is for redeem_shared.sql.
with code as (
    update referral_codes c set uses = uses + 1
    where c.code = $2 and c.active and c.account <> $4
        and (c.max_uses = 0 or c.uses < c.max_uses)
        and (c.expires_at is null or c.expires_at > $8)
        and not exists (select from referral_owner_signals o where o.account = c.account and o.key = any ($9::text[]))
        and not exists (select from referral_redemptions r where r.referrer = $4)
    returning c.account
), signals as (
    insert into referral_signals (key, redemption, at)
    select $3 || '/' || unnest($9::text[]), $1, $8 from code
)
insert into referral_redemptions (id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, rewards)
select $1, $3, $2, code.account, $4, $5, $6::text[], $7::json, $8, $8, $10, $11::json from code
returning referrer, state, reasons
