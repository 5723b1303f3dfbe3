package referralpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/internal/pgtx"
	"github.com/kolekt/commerce/referral"
)

const rewardColumns = `id, redemption, campaign, account, side, benefit, state, vests_at, created_at, changed_at, months_left, amount, reversed, currency, grants, call, corrected, next_try, attempts, version`

func scanReward(row pgx.CollectableRow) (referral.Reward, error) {
	var r referral.Reward
	var benefit, grants, call []byte
	var vests, next *time.Time
	err := row.Scan(&r.ID, &r.Redemption, &r.Campaign, &r.Account, &r.Side, &benefit, &r.State, &vests, &r.CreatedAt, &r.ChangedAt,
		&r.MonthsLeft, &r.Amount, &r.Reversed, &r.Currency, &grants, &call, &r.Corrected, &next, &r.Attempts, &r.Version)
	if err != nil {
		return r, err
	}
	r.VestsAt, r.NextTry, r.CreatedAt, r.ChangedAt = pgtx.Instant(vests), pgtx.Instant(next), r.CreatedAt.UTC(), r.ChangedAt.UTC()
	if err := json.Unmarshal(benefit, &r.Benefit); err != nil {
		return r, err
	}
	if err := json.Unmarshal(grants, &r.Grants); err != nil {
		return r, err
	}
	if len(r.Grants) == 0 {
		r.Grants = nil
	}
	if call != nil {
		return r, json.Unmarshal(call, &r.Call)
	}
	return r, nil
}

func (s *Store) rewards(ctx context.Context, sql string, args ...any) ([]referral.Reward, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err == nil {
		var list []referral.Reward
		if list, err = pgx.CollectRows(rows, scanReward); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("referralpg: rewards: %w", err)
}

// foldedRewards are the rewards that stand with their redemptions.
const foldedRewards = `
	select w.id, r.id, r.campaign, case w.side when 'referrer' then r.referrer else r.referee end, w.side, w.benefit, 'pending',
		null::timestamptz, r.created_at, r.created_at, w.months, 0::bigint, 0::bigint, w.currency, '[]'::json, null::json, 0::bigint, null::timestamptz, 0, 1::bigint
	from referral_redemptions r, json_to_recordset(r.rewards) as w (id text, side text, benefit json, months bigint, currency text)`

// Reward implements referral.Store.
func (s *Store) Reward(ctx context.Context, redemption string, side referral.Side) (referral.Reward, error) {
	list, err := s.rewards(ctx, `
		select `+rewardColumns+` from referral_rewards where redemption = $1 and side = $2
		union all`+foldedRewards+` where r.id = $1 and w.side = $2`, redemption, string(side))
	if err != nil {
		return referral.Reward{}, err
	}
	if len(list) == 0 {
		return referral.Reward{}, referral.ErrNotFound
	}
	return list[0], nil
}

// Rewards implements referral.Store.
func (s *Store) Rewards(ctx context.Context, f referral.RewardFilter) ([]referral.Reward, error) {
	return s.rewards(ctx, `
		select * from (
			select `+rewardColumns+` from referral_rewards
			where ($1 = '' or account = $1) and ($2 = '' or redemption = $2) and ($3 = '' or state = $3)
			union all`+foldedRewards+`
			where ($1 = '' or r.referrer = $1 or r.referee = $1) and ($1 = '' or (w.side = 'referrer') = (r.referrer = $1))
				and ($2 = '' or r.id = $2) and $3 in ('', 'pending')
		) both_kinds
		order by created_at, id limit $4`, f.Account, f.Redemption, string(f.State), orDefault(f.Limit))
}

// Accounts implements referral.Store.
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]string, error) {
	rows, err := s.db.Query(ctx, `
		select distinct account from referral_rewards where account > $1 and version > 1 order by account limit $2`, after, limit)
	if err == nil {
		var list []string
		if list, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("referralpg: accounts: %w", err)
}

// DueRewards implements referral.Store.
func (s *Store) DueRewards(ctx context.Context, now time.Time, limit int) ([]referral.Reward, error) {
	return s.rewards(ctx, `
		select `+rewardColumns+` from referral_rewards
		where state = 'qualified' and months_left = 0 and vests_at <= $1 and (next_try is null or next_try <= $1)
		order by created_at, id limit $2`, now, limit)
}

// SaveReward implements referral.Store.
func (s *Store) SaveReward(ctx context.Context, r referral.Reward, entries ...referral.Entry) error {
	return pgtx.Do(ctx, s.db, "referralpg", func(tx pgx.Tx) error {
		old, err := stored(ctx, tx, r)
		if err != nil {
			return err
		}
		if err := update(ctx, tx, r); err != nil {
			return err
		}
		carry := map[string]int64{}
		if old.Call != nil {
			carry[old.Call.Currency] += old.Call.Less
		}
		if r.Call != nil {
			carry[r.Call.Currency] -= r.Call.Less
		}
		for _, e := range entries {
			tag, err := tx.Exec(ctx, `
				insert into referral_ledger (id, kind, reward, account, amount, currency, cause, at)
				values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (id) do nothing`,
				e.ID, string(e.Kind), e.Reward, e.Account, e.Amount, e.Currency, e.Cause, e.At)
			if err != nil {
				return fmt.Errorf("referralpg: ledger: %w", err)
			}
			if tag.RowsAffected() == 1 && e.Kind.Carried() {
				carry[e.Currency] -= e.Amount
			}
		}
		for _, currency := range slices.Sorted(maps.Keys(carry)) {
			if carry[currency] == 0 {
				continue
			}
			_, err := tx.Exec(ctx, `
				insert into referral_carries as c (account, currency, amount) values ($1, $2, $3)
				on conflict (account, currency) do update set amount = c.amount + excluded.amount`, old.Account, currency, carry[currency])
			if err != nil {
				return fmt.Errorf("referralpg: carry: %w", err)
			}
		}
		return nil
	})
}

// Begin implements referral.Store. The carry's row is locked from the update to
// the end of the transaction: of two calls that begin at once, the second finds
// what the first has left.
func (s *Store) Begin(ctx context.Context, r referral.Reward, most int64) (referral.Reward, error) {
	call := *r.Call
	r.Call = &call
	err := pgtx.Do(ctx, s.db, "referralpg", func(tx pgx.Tx) error {
		old, err := stored(ctx, tx, r)
		if err == nil && old.Call != nil {
			err = referral.ErrConflict
		}
		if err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			with c as (
				select account, currency, amount from referral_carries
				where account = $1 and ($2 = '' or currency = $2) and amount > 0
				order by amount desc limit 1 for update
			)
			update referral_carries u set amount = u.amount - least(c.amount, $3) from c
			where u.account = c.account and u.currency = c.currency
			returning u.currency, least(c.amount, $3)`, old.Account, call.Currency, max(most, 0)).Scan(&call.Currency, &call.Less)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("referralpg: carry: %w", err)
		}
		return update(ctx, tx, r)
	})
	if err != nil {
		return r, err
	}
	r.Version++
	return r, nil
}

// stored locks a reward's row and returns what is needed of it; one that isn't
// of the version is ErrConflict. A reward that stands with its redemption gets
// its row here.
func stored(ctx context.Context, tx pgx.Tx, r referral.Reward) (referral.Reward, error) {
	var old referral.Reward
	var call []byte
	for unfolded := false; ; unfolded = true {
		err := tx.QueryRow(ctx, `select account, version, call from referral_rewards where id = $1 for update`, r.ID).Scan(&old.Account, &old.Version, &call)
		if errors.Is(err, pgx.ErrNoRows) && !unfolded {
			if _, err := tx.Exec(ctx, unfoldSQL, r.Redemption); err != nil {
				return old, fmt.Errorf("referralpg: reward: %w", err)
			}
			continue
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return old, referral.ErrNotFound
		}
		if err != nil {
			return old, fmt.Errorf("referralpg: reward: %w", err)
		}
		break
	}
	if old.Version != r.Version {
		return old, referral.ErrConflict
	}
	if call == nil {
		return old, nil
	}
	return old, json.Unmarshal(call, &old.Call)
}

func update(ctx context.Context, tx pgx.Tx, r referral.Reward) error {
	benefit, err := json.Marshal(r.Benefit)
	if err != nil {
		return fmt.Errorf("referralpg: reward: %w", err)
	}
	if r.Grants == nil {
		r.Grants = []referral.Grant{}
	}
	grants, err := json.Marshal(r.Grants)
	if err != nil {
		return fmt.Errorf("referralpg: reward: %w", err)
	}
	var call []byte
	if r.Call != nil {
		if call, err = json.Marshal(r.Call); err != nil {
			return fmt.Errorf("referralpg: reward: %w", err)
		}
	}
	_, err = tx.Exec(ctx, `
		update referral_rewards set benefit = $2, state = $3, vests_at = $4, changed_at = $5, months_left = $6, amount = $7, reversed = $8,
			currency = $9, grants = $10, next_try = $11, attempts = $12, call = $13, corrected = $14, version = version + 1
		where id = $1`,
		r.ID, benefit, string(r.State), pgtx.Null(r.VestsAt), r.ChangedAt, r.MonthsLeft, r.Amount, r.Reversed, r.Currency, grants, pgtx.Null(r.NextTry), r.Attempts, call, r.Corrected)
	if err != nil {
		return fmt.Errorf("referralpg: reward: %w", err)
	}
	return nil
}

// Ledger implements referral.Store.
func (s *Store) Ledger(ctx context.Context, account string) ([]referral.Entry, error) {
	rows, err := s.db.Query(ctx, `select id, kind, reward, account, amount, currency, cause, at from referral_ledger where account = $1 order by ordinal`, account)
	if err != nil {
		return nil, fmt.Errorf("referralpg: ledger: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e referral.Entry, err error) {
		err = row.Scan(&e.ID, &e.Kind, &e.Reward, &e.Account, &e.Amount, &e.Currency, &e.Cause, &e.At)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("referralpg: ledger: %w", err)
	}
	return list, nil
}
