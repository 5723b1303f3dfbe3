package referralpg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/referral"
)

// Click implements referral.Store.
func (s *Store) Click(ctx context.Context, code string, _ time.Time) error {
	tag, err := s.db.Exec(ctx, `update referral_codes set clicks = clicks + 1 where code = $1`, code)
	if err != nil {
		return fmt.Errorf("referralpg: click: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return referral.ErrUnknownCode
	}
	return nil
}

// Funnel implements referral.Store.
func (s *Store) Funnel(ctx context.Context, campaign, account string) (referral.Funnel, error) {
	f := referral.Funnel{Granted: map[string]int64{}, Revenue: map[string]int64{}}
	err := s.db.QueryRow(ctx, `
		select (select coalesce(sum(clicks), 0)::bigint from referral_codes where campaign = $1 and ($2 = '' or account = $2)),
			count(*), count(*) filter (where state = 'qualified'), count(*) filter (where state = 'voided'), count(*) filter (where state = 'review')
		from referral_redemptions where campaign = $1 and ($2 = '' or referrer = $2)`, campaign, account).
		Scan(&f.Clicks, &f.SignUps, &f.Qualified, &f.Voided, &f.Review)
	if err != nil {
		return f, fmt.Errorf("referralpg: funnel: %w", err)
	}
	for into, sql := range map[*map[string]int64]string{
		&f.Granted: `select w.currency, sum(w.amount - w.reversed)::bigint from referral_rewards w join referral_redemptions r on r.id = w.redemption
			where r.campaign = $1 and ($2 = '' or r.referrer = $2) and w.amount <> 0 group by 1`,
		&f.Revenue: `select currency, sum(paid)::bigint from referral_redemptions
			where campaign = $1 and ($2 = '' or referrer = $2) and state = 'qualified' and currency <> '' group by 1`,
	} {
		rows, err := s.db.Query(ctx, sql, campaign, account)
		if err != nil {
			return f, fmt.Errorf("referralpg: funnel: %w", err)
		}
		var currency string
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&currency, &n}, func() error { (*into)[currency] = n; return nil }); err != nil {
			return f, fmt.Errorf("referralpg: funnel: %w", err)
		}
	}
	return f, nil
}

// Leaders implements referral.Store.
func (s *Store) Leaders(ctx context.Context, campaign string, limit int) ([]referral.Leader, error) {
	rows, err := s.db.Query(ctx, `
		select account, qualified from referral_standings where campaign = $1 and qualified > 0
		order by qualified desc, account limit $2`, campaign, limit)
	if err != nil {
		return nil, fmt.Errorf("referralpg: leaders: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[referral.Leader])
	if err != nil {
		return nil, fmt.Errorf("referralpg: leaders: %w", err)
	}
	return list, nil
}
