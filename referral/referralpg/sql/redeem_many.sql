-- Many redemptions of one code in one statement. The locks are taken in the
-- order of the other statements: code, cap, budget, signals, redemptions. What
-- is locked is read as it is now, so the ranks below are final; those within
-- what is left are accepted, in the order in which they came. A rule that only
-- an index can decide aborts the statement, and each goes by itself.
with code as materialized (
    select account, active, uses, max_uses, expires_at from referral_codes where code = $1 for update
), cap as materialized (
    select n from referral_caps, code where key = $3 and referral_caps.account = code.account and $4::bigint > 0 for update of referral_caps
), budget as materialized (
    select spent from referral_budgets where campaign = $2 and $5::bigint > 0 and (select count(*) from cap) >= 0 for update
), given as materialized (
    select g.*, case
        when exists (select from referral_redemptions r where r.id = g.id) then 'stored'
        when exists (select from referral_redemptions r where r.referee = g.referee) then 'referred'
        when code.account = g.referee or exists (
            select from referral_owner_signals o where o.account = code.account and o.key = any (string_to_array(g.keys, ' '))
        ) then 'self'
        when not code.active then 'disabled'
        when code.expires_at <= g.at then 'expired'
        when exists (select from referral_redemptions r1 where r1.referee = code.account and (r1.referrer = g.referee
            or exists (select from referral_redemptions r2 where r2.referee = r1.referrer and (r2.referrer = g.referee
            or exists (select from referral_redemptions r3 where r3.referee = r2.referrer and (r3.referrer = g.referee
            or exists (select from referral_redemptions r4 where r4.referee = r3.referrer and r4.referrer = g.referee))))))) then 'cycle'
        else '' end as verdict
    from code, unnest($7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[], $14::text[], $15::text[])
        with ordinality as g (id, referee, state, reasons, terms, at, closes_at, rewards, keys, ordinal)
), ranked as (
    select id, row_number() over (order by ordinal) as rank from given where verdict = ''
), judged as materialized (
    select g.*, case
        when g.verdict <> '' then g.verdict
        when code.max_uses > 0 and code.uses + ranked.rank > code.max_uses then 'exhausted'
        when $4::bigint > 0 and coalesce((select n from cap), 0) + ranked.rank > $4 then 'capped'
        when $5::bigint > 0 and coalesce((select spent from budget), 0) + ranked.rank * $6 > $5 then 'budget'
        else 'ok' end as outcome
    from code, given g left join ranked using (id)
), accepted as (
    select count(*) as n from judged where outcome = 'ok'
), used as (
    update referral_codes set uses = uses + accepted.n from accepted where code = $1 and accepted.n > 0
), capped as (
    insert into referral_caps (key, account, n, most)
    select $3, code.account, accepted.n, $4 from code, accepted where $4::bigint > 0 and accepted.n > 0
    on conflict (key, account) do update set n = referral_caps.n + excluded.n, most = excluded.most
), budgeted as (
    insert into referral_budgets (campaign, spent, budget)
    select $2, accepted.n * $6, $5 from accepted where $5::bigint > 0 and accepted.n > 0
    on conflict (campaign) do update set spent = referral_budgets.spent + excluded.spent, budget = excluded.budget
), signals as (
    insert into referral_signals (key, redemption, at)
    select $2 || '/' || k, j.id, j.at from judged j, unnest(string_to_array(j.keys, ' ')) k where j.outcome = 'ok'
    order by 1
    on conflict do nothing
    returning key, redemption
), stored as (
    insert into referral_redemptions (id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, rewards)
    select j.id, $2, $1, code.account, j.referee,
        case when cardinality(same.kinds) > 0 then 'review' else j.state end,
        array(select json_array_elements_text(j.reasons::json)) || same.kinds, j.terms::json, j.at, j.at, j.closes_at, j.rewards::json
    from code, judged j, lateral (
        select array(
            select 'same ' || split_part(k, '/', 1) from unnest(string_to_array(j.keys, ' ')) k
            where ($2 || '/' || k, j.id) not in (select key, redemption from signals) order by 1
        ) as kinds
    ) same
    where j.outcome = 'ok'
    returning id, referrer, state, reasons
)
select j.ordinal, j.outcome, coalesce(s.referrer, ''), coalesce(s.state, ''), coalesce(s.reasons, '{}')
from judged j left join stored s using (id)
