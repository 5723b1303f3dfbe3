-- Gives the rewards of a redemption rows of their own, before the first of them
-- changes. The lock lets one of several do it.
with r as (
    select id, campaign, referrer, referee, created_at, rewards from referral_redemptions
    where id = $1 and rewards is not null for update
), folded as (
    update referral_redemptions u set rewards = null from r where u.id = r.id
)
insert into referral_rewards (id, redemption, campaign, account, side, benefit, state, created_at, changed_at, months_left, currency)
select w.id, r.id, r.campaign, case w.side when 'referrer' then r.referrer else r.referee end, w.side,
    w.benefit, 'pending', r.created_at, r.created_at, w.months, w.currency
from r, json_to_recordset(r.rewards) as w (id text, side text, benefit json, months bigint, currency text)
