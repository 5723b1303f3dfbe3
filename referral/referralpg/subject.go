package referralpg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/internal/pgtx"
	"github.com/kolekt/commerce/referral"
)

// PutSignals implements referral.Store.
func (s *Store) PutSignals(ctx context.Context, account string, signals []referral.Signal, now time.Time) error {
	_, err := s.db.Exec(ctx, `
		insert into referral_owner_signals (account, key, at) select $1, k, $3 from unnest($2::text[]) k
		on conflict do nothing`, account, keys(signals), now)
	if err != nil {
		return fmt.Errorf("referralpg: signals: %w", err)
	}
	return nil
}

// Detach implements referral.Store. What an account gathers after it was
// detached once adds to the same pseudonym.
func (s *Store) Detach(ctx context.Context, account, pseudonym string) (map[string]int64, error) {
	counts := map[string]int64{}
	err := pgtx.Do(ctx, s.db, "referralpg", func(tx pgx.Tx) error {
		var redemptions []string
		rows, err := tx.Query(ctx, `select id from referral_redemptions where (referrer = $1 or referee = $1) and rewards is not null order by id`, account)
		if err == nil {
			redemptions, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			return fmt.Errorf("referralpg: detach: %w", err)
		}
		for _, id := range redemptions {
			if _, err := tx.Exec(ctx, unfoldSQL, id); err != nil {
				return fmt.Errorf("referralpg: detach: %w", err)
			}
		}
		for _, step := range []struct{ record, sql string }{
			{"codes", `update referral_codes set account = $2, active = false where account = $1`},
			{"redemptions", `update referral_redemptions set referrer = case referrer when $1 then $2 else referrer end,
				referee = case referee when $1 then $2 else referee end where referrer = $1 or referee = $1`},
			{"rewards", `update referral_rewards set account = $2 where account = $1`},
			{"ledger", `update referral_ledger set account = $2 where account = $1`},
			{"signals", `with gone as (delete from referral_owner_signals where account = $1 returning key, at)
				insert into referral_owner_signals (account, key, at) select $2, key, at from gone
				on conflict (account, key) do update set at = excluded.at`},
			{"", `with gone as (delete from referral_caps where account = $1 returning key, n, most)
				insert into referral_caps as c (key, account, n, most) select key, $2, n, most from gone
				on conflict (key, account) do update set n = c.n + excluded.n, most = greatest(c.most, c.n + excluded.n)`},
			{"", `with gone as (delete from referral_carries where account = $1 returning currency, amount)
				insert into referral_carries as c (account, currency, amount) select $2, currency, amount from gone
				on conflict (account, currency) do update set amount = c.amount + excluded.amount`},
			{"", `with gone as (delete from referral_standings where account = $1 returning campaign, qualified)
				insert into referral_standings as s (campaign, account, qualified) select campaign, $2, qualified from gone
				on conflict (campaign, account) do update set qualified = s.qualified + excluded.qualified`},
		} {
			tag, err := tx.Exec(ctx, step.sql, account, pseudonym)
			if err != nil {
				return fmt.Errorf("referralpg: detach %s: %w", step.record, err)
			}
			if n := tag.RowsAffected(); n > 0 && step.record != "" {
				counts[step.record] = n
			}
		}
		return nil
	})
	return counts, err
}

// ExpireSignals implements referral.Store.
func (s *Store) ExpireSignals(ctx context.Context, before time.Time) (int64, error) {
	var n int64
	for _, table := range []string{"referral_signals", "referral_owner_signals"} {
		tag, err := s.db.Exec(ctx, `delete from `+table+` where at < $1`, before)
		if err != nil {
			return n, fmt.Errorf("referralpg: signals: %w", err)
		}
		n += tag.RowsAffected()
	}
	return n, nil
}
