-- One statement decides and stores: the guarded update of the code takes the
-- row's lock and lets nobody past its cap; every other rule is a unique index
-- or a check, whose violation aborts the whole statement, the use included.
with code as (
    update referral_codes c set uses = uses + 1
    where c.code = $2 and c.active and c.account <> $4
        and (c.max_uses = 0 or c.uses < c.max_uses)
        and (c.expires_at is null or c.expires_at > $8)
        and not exists (
            select from referral_owner_signals o
            join unnest($9::text[], $10::text[]) s (kind, hash) on o.kind = s.kind and o.hash = s.hash
            where o.account = c.account
        )
        and not exists (
            with recursive up as (
                select r.referrer, 1 as depth from referral_redemptions r where r.referee = c.account
                union all
                select r.referrer, up.depth + 1 from up join referral_redemptions r on r.referee = up.referrer where up.depth < 4
            )
            select from up where up.referrer = $4
        )
    returning c.account
), signals as (
    insert into referral_signals (campaign, kind, hash, redemption, at)
    select $3, s.kind, s.hash, $1, $8
    from code, unnest($9::text[], $10::text[]) s (kind, hash)
    order by 2, 3
    on conflict do nothing
    returning kind
), cap as (
    insert into referral_caps (key, account, n, most)
    select $11, code.account, 1, $12 from code where $12::bigint > 0
    on conflict (key, account) do update set n = referral_caps.n + 1, most = excluded.most
), budget as (
    insert into referral_budgets (campaign, spent, budget)
    select $3, $14, $13 from code where $13::bigint > 0
    on conflict (campaign) do update set spent = referral_budgets.spent + excluded.spent, budget = excluded.budget
), redemption as (
    insert into referral_redemptions (id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at)
    select $1, $3, $2, code.account, $4,
        case when cardinality(same.kinds) > 0 then 'review' else $5 end,
        $6::text[] || same.kinds, $7, $8, $8, $15
    from code, lateral (
        select array(
            select 'same ' || k from unnest($9::text[]) k where k not in (select kind from signals) order by 1
        ) as kinds
    ) same
    returning id, referrer, state, reasons
), rewards as (
    insert into referral_rewards (id, redemption, campaign, account, side, benefit, state, created_at, changed_at, months_left, currency)
    select w.id, redemption.id, $3, case w.side when 'referrer' then redemption.referrer else $4 end,
        w.side, w.benefit::json, 'pending', $8, $8, w.months, w.currency
    from redemption, unnest($16::text[], $17::text[], $18::text[], $19::bigint[], $20::text[]) w (id, side, benefit, months, currency)
)
select referrer, state, reasons from redemption
