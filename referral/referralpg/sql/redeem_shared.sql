-- redeem.sql for a referee who has referred others, for a campaign with a cap
-- for each referrer or a budget, and for signals that somebody else has left
-- already: those ask for a review.
with code as (
    update referral_codes c set uses = uses + 1
    where c.code = $2 and c.active and c.account <> $4
        and (c.max_uses = 0 or c.uses < c.max_uses)
        and (c.expires_at is null or c.expires_at > $8)
        and not exists (select from referral_owner_signals o where o.account = c.account and o.key = any ($9::text[]))
        -- Four steps up from the owner; nested, so that an owner whom nobody
        -- referred costs one look into an index.
        and not exists (select from referral_redemptions r1 where r1.referee = c.account and (r1.referrer = $4
            or exists (select from referral_redemptions r2 where r2.referee = r1.referrer and (r2.referrer = $4
            or exists (select from referral_redemptions r3 where r3.referee = r2.referrer and (r3.referrer = $4
            or exists (select from referral_redemptions r4 where r4.referee = r3.referrer and r4.referrer = $4)))))))
    returning c.account
), cap as (
    insert into referral_caps (key, account, n, most)
    select $12, code.account, 1, $13 from code where $13::bigint > 0
    on conflict (key, account) do update set n = referral_caps.n + 1, most = excluded.most
    returning 1
), budget as (
    insert into referral_budgets (campaign, spent, budget)
    select $3, $15, $14 from code where $14::bigint > 0 and (select count(*) from cap) >= 0
    on conflict (campaign) do update set spent = referral_budgets.spent + excluded.spent, budget = excluded.budget
    returning 1
), signals as (
    insert into referral_signals (key, redemption, at)
    select $3 || '/' || k, $1, $8 from code, unnest($9::text[]) k where (select count(*) from budget) >= 0
    on conflict do nothing
    returning key
)
insert into referral_redemptions (id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, rewards)
select $1, $3, $2, code.account, $4,
    case when cardinality(same.kinds) > 0 then 'review' else $5 end,
    $6::text[] || same.kinds, $7::json, $8, $8, $10, $11::json
from code, lateral (
    select array(
        select 'same ' || split_part(k, '/', 1) from unnest($9::text[]) k where $3 || '/' || k not in (select key from signals) order by 1
    ) as kinds
) same
returning referrer, state, reasons
