package referralpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/internal/pgtx"
	"github.com/kolekt/commerce/referral"
)

const redemptionColumns = `id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, paid_by, paid, refunded, currency, version`

func scanRedemption(row pgx.CollectableRow) (referral.Redemption, error) {
	var r referral.Redemption
	var terms []byte
	err := row.Scan(&r.ID, &r.Campaign, &r.Code, &r.Referrer, &r.Referee, &r.State, &r.Reasons, &terms,
		&r.CreatedAt, &r.ChangedAt, &r.ClosesAt, &r.PaidBy, &r.PaidAmount, &r.Refunded, &r.Currency, &r.Version)
	if err != nil {
		return r, err
	}
	r.CreatedAt, r.ChangedAt, r.ClosesAt = r.CreatedAt.UTC(), r.ChangedAt.UTC(), r.ClosesAt.UTC()
	if len(r.Reasons) == 0 {
		r.Reasons = nil
	}
	return r, json.Unmarshal(terms, &r.Terms)
}

func (s *Store) redemptions(ctx context.Context, sql string, args ...any) ([]referral.Redemption, error) {
	rows, err := s.db.Query(ctx, sql, args...)
	if err == nil {
		var list []referral.Redemption
		if list, err = pgx.CollectRows(rows, scanRedemption); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("referralpg: redemptions: %w", err)
}

func (s *Store) oneRedemption(ctx context.Context, column, value string) (referral.Redemption, error) {
	list, err := s.redemptions(ctx, `select `+redemptionColumns+` from referral_redemptions where `+column+` = $1`, value)
	if err != nil {
		return referral.Redemption{}, err
	}
	if len(list) == 0 {
		return referral.Redemption{}, referral.ErrNotFound
	}
	return list[0], nil
}

// Redemption implements referral.Store.
func (s *Store) Redemption(ctx context.Context, id string) (referral.Redemption, error) {
	return s.oneRedemption(ctx, "id", id)
}

// RedemptionOf implements referral.Store.
func (s *Store) RedemptionOf(ctx context.Context, referee string) (referral.Redemption, error) {
	return s.oneRedemption(ctx, "referee", referee)
}

// Redemptions implements referral.Store.
func (s *Store) Redemptions(ctx context.Context, f referral.RedemptionFilter) ([]referral.Redemption, error) {
	return s.redemptions(ctx, `
		select `+redemptionColumns+` from referral_redemptions
		where ($1 = '' or campaign = $1) and ($2 = '' or referrer = $2) and ($3 = '' or state = $3)
			and ($4::timestamptz is null or closes_at < $4)
		order by created_at desc, id desc limit $5`,
		f.Campaign, f.Referrer, string(f.State), pgtx.Null(f.ClosesBefore), orDefault(f.Limit))
}

func orDefault(limit int) int {
	if limit == 0 {
		return 100
	}
	return limit
}

func text[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// MoveRedemption implements referral.Store.
func (s *Store) MoveRedemption(ctx context.Context, r referral.Redemption, moves []referral.RewardMove) error {
	reasons := r.Reasons
	if reasons == nil {
		reasons = []string{}
	}
	return pgtx.Do(ctx, s.db, "referralpg", func(tx pgx.Tx) error {
		var old, campaign, referrer string
		var version int64
		err := tx.QueryRow(ctx, `select state, campaign, referrer, version from referral_redemptions where id = $1 for update`, r.ID).
			Scan(&old, &campaign, &referrer, &version)
		if errors.Is(err, pgx.ErrNoRows) {
			return referral.ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("referralpg: move: %w", err)
		}
		if version != r.Version {
			return referral.ErrConflict
		}
		_, err = tx.Exec(ctx, `
			update referral_redemptions set state = $2, reasons = $3, changed_at = $4, closes_at = $5, paid_by = $6, paid = $7, currency = $8, refunded = $9, version = version + 1
			where id = $1`,
			r.ID, string(r.State), reasons, r.ChangedAt, r.ClosesAt, r.PaidBy, r.PaidAmount, r.Currency, r.Refunded)
		if err != nil {
			return fmt.Errorf("referralpg: move: %w", err)
		}
		nth, err := number(ctx, tx, campaign, referrer, referral.RedemptionState(old), r.State)
		if err != nil || len(moves) == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, unfoldSQL, r.ID); err != nil {
			return fmt.Errorf("referralpg: move: %w", err)
		}
		for _, m := range moves {
			if err := moveReward(ctx, tx, r, m, nth); err != nil {
				return err
			}
		}
		return nil
	})
}

// number keeps the count of a referrer's qualified redemptions, and returns it.
// The row is locked until the end of the transaction: of two that qualify at
// once, the second counts the first.
func number(ctx context.Context, tx pgx.Tx, campaign, referrer string, old, now referral.RedemptionState) (nth int64, err error) {
	step := 0
	if now == referral.RedemptionQualified {
		step++
	}
	if old == referral.RedemptionQualified {
		step--
	}
	if step == 0 && now != referral.RedemptionQualified {
		return 0, nil
	}
	err = tx.QueryRow(ctx, `
		insert into referral_standings as s (campaign, account, qualified) values ($1, $2, $3)
		on conflict (campaign, account) do update set qualified = s.qualified + $3
		returning qualified`, campaign, referrer, step).Scan(&nth)
	if err != nil {
		return 0, fmt.Errorf("referralpg: move: %w", err)
	}
	return nth, nil
}

func moveReward(ctx context.Context, tx pgx.Tx, r referral.Redemption, m referral.RewardMove, nth int64) error {
	var benefit []byte
	var months *int64
	var currency *string
	if m.Benefit != nil {
		b := m.Benefit(nth)
		var err error
		if benefit, err = json.Marshal(b); err != nil {
			return fmt.Errorf("referralpg: move: %w", err)
		}
		months, currency = &b.FreeMonths, &b.Currency
	}
	_, err := tx.Exec(ctx, `
		update referral_rewards set state = $4, changed_at = $5, vests_at = coalesce($6, vests_at), benefit = coalesce($7::json, benefit),
			months_left = coalesce($8, months_left), currency = coalesce($9, currency), version = version + 1
		where redemption = $1 and side = $2 and state = any ($3)`,
		r.ID, string(m.Side), text(m.From), string(m.To), r.ChangedAt, pgtx.Null(m.VestsAt), benefit, months, currency)
	if err != nil {
		return fmt.Errorf("referralpg: move: %w", err)
	}
	return nil
}
