// Package referralpg keeps the codes, redemptions, rewards and ledger of
// package referral in PostgreSQL.
package referralpg

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/referral"
)

// DB is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed redeem.sql
var redeemSQL string

// Migrations returns the numbered SQL files, for a migration tool of your own.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the tables to the newest version. It is safe to call from
// several processes at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "referral", Migrations())
}

// Verify returns an error when the tables lack migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "referral", Migrations())
}

// Store is a referral.Store in PostgreSQL.
type Store struct{ db DB }

var _ referral.Store = (*Store)(nil)

// New returns a store on a pool, a connection or a transaction.
func New(db DB) *Store { return &Store{db} }

func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// violated returns the constraint that a statement violated, or "".
func violated(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "23505" || pgErr.Code == "23514") {
		return pgErr.ConstraintName
	}
	return ""
}

func (s *Store) inTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("referralpg: %w", err)
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("referralpg: %w", err)
	}
	return nil
}

const codeColumns = `code, campaign, account, active, uses, max_uses, created_at, expires_at`

func scanCode(row pgx.Row) (referral.Code, error) {
	var c referral.Code
	var expires *time.Time
	err := row.Scan(&c.Text, &c.Campaign, &c.Account, &c.Active, &c.Uses, &c.MaxUses, &c.CreatedAt, &expires)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, referral.ErrUnknownCode
	}
	if err != nil {
		return c, fmt.Errorf("referralpg: code: %w", err)
	}
	c.CreatedAt, c.ExpiresAt = c.CreatedAt.UTC(), utc(expires)
	return c, nil
}

const insertCode = `
	insert into referral_codes (code, campaign, account, active, max_uses, created_at, expires_at)
	values ($1, $2, $3, true, $4, $5, $6)
	on conflict do nothing
	returning ` + codeColumns

// CreateCode implements referral.Store.
func (s *Store) CreateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	for {
		stored, err := scanCode(s.db.QueryRow(ctx, insertCode, c.Text, c.Campaign, c.Account, c.MaxUses, c.CreatedAt, nullable(c.ExpiresAt)))
		if !errors.Is(err, referral.ErrUnknownCode) {
			return stored, err
		}
		// Nothing was inserted: the account has a code, or the text is taken.
		have, err := s.CodeOf(ctx, c.Campaign, c.Account)
		if !errors.Is(err, referral.ErrUnknownCode) {
			return have, err
		}
		if _, err := s.Code(ctx, c.Text); err == nil {
			return c, referral.ErrCodeTaken
		} else if !errors.Is(err, referral.ErrUnknownCode) {
			return c, err
		}
		// The account's code was disabled in between: there is room now.
	}
}

// RotateCode implements referral.Store.
func (s *Store) RotateCode(ctx context.Context, c referral.Code) (referral.Code, error) {
	var stored referral.Code
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		// Two rotations of one account at once wait for each other here.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtextextended($1, 0))`, "referral code "+c.Campaign+" "+c.Account); err != nil {
			return fmt.Errorf("referralpg: rotate: %w", err)
		}
		if _, err := tx.Exec(ctx, `update referral_codes set active = false where campaign = $1 and account = $2 and active`, c.Campaign, c.Account); err != nil {
			return fmt.Errorf("referralpg: rotate: %w", err)
		}
		var err error
		stored, err = scanCode(tx.QueryRow(ctx, insertCode, c.Text, c.Campaign, c.Account, c.MaxUses, c.CreatedAt, nullable(c.ExpiresAt)))
		if errors.Is(err, referral.ErrUnknownCode) {
			return referral.ErrCodeTaken
		}
		return err
	})
	return stored, err
}

// Code implements referral.Store.
func (s *Store) Code(ctx context.Context, text string) (referral.Code, error) {
	return scanCode(s.db.QueryRow(ctx, `select `+codeColumns+` from referral_codes where code = $1`, text))
}

// CodeOf implements referral.Store.
func (s *Store) CodeOf(ctx context.Context, campaign, account string) (referral.Code, error) {
	return scanCode(s.db.QueryRow(ctx, `select `+codeColumns+` from referral_codes where campaign = $1 and account = $2 and active`, campaign, account))
}

// DisableCode implements referral.Store.
func (s *Store) DisableCode(ctx context.Context, text string) error {
	tag, err := s.db.Exec(ctx, `update referral_codes set active = false where code = $1`, text)
	if err != nil {
		return fmt.Errorf("referralpg: disable: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return referral.ErrUnknownCode
	}
	return nil
}

// Redeem implements referral.Store in one statement; see redeem.sql.
func (s *Store) Redeem(ctx context.Context, a referral.Attempt) (referral.Redemption, error) {
	r := a.Redemption
	terms, err := json.Marshal(r.Terms)
	if err != nil {
		return r, fmt.Errorf("referralpg: redeem: %w", err)
	}
	var kinds, hashes []string
	for _, sig := range a.Signals {
		kinds, hashes = append(kinds, sig.Kind), append(hashes, sig.Hash)
	}
	var ids, sides, benefits, currencies []string
	var months []int64
	for _, w := range a.Rewards {
		b, err := json.Marshal(w.Benefit)
		if err != nil {
			return r, fmt.Errorf("referralpg: redeem: %w", err)
		}
		ids, sides, benefits = append(ids, w.ID), append(sides, string(w.Side)), append(benefits, string(b))
		months, currencies = append(months, w.MonthsLeft), append(currencies, w.Currency)
	}
	reasons := r.Reasons
	if reasons == nil {
		reasons = []string{}
	}
	err = s.db.QueryRow(ctx, redeemSQL,
		r.ID, r.Code, r.Campaign, r.Referee, string(r.State), reasons, terms, a.Now, kinds, hashes,
		a.CapKey, a.Cap, a.Budget, a.Cost, r.ClosesAt, ids, sides, benefits, months, currencies,
	).Scan(&r.Referrer, &r.State, &r.Reasons)
	if err == nil {
		if len(r.Reasons) == 0 {
			r.Reasons = nil
		}
		return r, nil
	}
	constraint := violated(err)
	if !errors.Is(err, pgx.ErrNoRows) && constraint == "" {
		return r, fmt.Errorf("referralpg: redeem: %w", err)
	}
	// Refused, or done before: a read tells which.
	return s.explain(ctx, a, constraint)
}

func (s *Store) explain(ctx context.Context, a referral.Attempt, constraint string) (referral.Redemption, error) {
	r := a.Redemption
	stored, err := s.Redemption(ctx, r.ID)
	if !errors.Is(err, referral.ErrNotFound) {
		return stored, err
	}
	var kinds, hashes []string
	for _, sig := range a.Signals {
		kinds, hashes = append(kinds, sig.Kind), append(hashes, sig.Hash)
	}
	c, err := s.Code(ctx, r.Code)
	if err != nil {
		return r, err
	}
	var referred, owner bool
	err = s.db.QueryRow(ctx, `
		select exists (select from referral_redemptions where referee = $1),
			exists (select from referral_owner_signals o join unnest($3::text[], $4::text[]) s (kind, hash) on o.kind = s.kind and o.hash = s.hash where o.account = $2)`,
		r.Referee, c.Account, kinds, hashes).Scan(&referred, &owner)
	if err != nil {
		return r, fmt.Errorf("referralpg: redeem: %w", err)
	}
	switch {
	case referred || constraint == "referral_redemptions_referee":
		return r, referral.ErrAlreadyReferred
	case c.Account == r.Referee || owner:
		return r, referral.ErrSelf
	case !c.Active:
		return r, referral.ErrDisabled
	case !c.ExpiresAt.IsZero() && !a.Now.Before(c.ExpiresAt):
		return r, referral.ErrExpired
	case constraint == "referral_caps_reached":
		return r, referral.ErrCapped
	case constraint == "referral_budgets_reached":
		return r, referral.ErrBudget
	case constraint == "referral_redemptions_pair":
		return r, referral.ErrCycle
	case c.MaxUses > 0 && c.Uses >= c.MaxUses:
		return r, referral.ErrExhausted
	}
	// What is left of the statement's conditions.
	return r, referral.ErrCycle
}

// PutSignals implements referral.Store.
func (s *Store) PutSignals(ctx context.Context, account string, signals []referral.Signal, now time.Time) error {
	var kinds, hashes []string
	for _, sig := range signals {
		kinds, hashes = append(kinds, sig.Kind), append(hashes, sig.Hash)
	}
	_, err := s.db.Exec(ctx, `
		insert into referral_owner_signals (account, kind, hash, at)
		select $1, s.kind, s.hash, $4 from unnest($2::text[], $3::text[]) s (kind, hash) order by 2, 3
		on conflict do nothing`, account, kinds, hashes, now)
	if err != nil {
		return fmt.Errorf("referralpg: signals: %w", err)
	}
	return nil
}

const redemptionColumns = `id, campaign, code, referrer, referee, state, reasons, terms, created_at, changed_at, closes_at, paid_by, paid, refunded, currency`

func scanRedemption(row pgx.CollectableRow) (referral.Redemption, error) {
	var r referral.Redemption
	var terms []byte
	err := row.Scan(&r.ID, &r.Campaign, &r.Code, &r.Referrer, &r.Referee, &r.State, &r.Reasons, &terms,
		&r.CreatedAt, &r.ChangedAt, &r.ClosesAt, &r.PaidBy, &r.PaidAmount, &r.Refunded, &r.Currency)
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
		f.Campaign, f.Referrer, string(f.State), nullable(f.ClosesBefore), orDefault(f.Limit))
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
func (s *Store) MoveRedemption(ctx context.Context, r referral.Redemption, from []referral.RedemptionState, moves []referral.RewardMove) error {
	reasons := r.Reasons
	if reasons == nil {
		reasons = []string{}
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update referral_redemptions set state = $2, reasons = $3, changed_at = $4, closes_at = $5, paid_by = $6, paid = $7, currency = $8, refunded = $10
			where id = $1 and state = any ($9)`,
			r.ID, string(r.State), reasons, r.ChangedAt, r.ClosesAt, r.PaidBy, r.PaidAmount, r.Currency, text(from), r.Refunded)
		if err != nil {
			return fmt.Errorf("referralpg: move: %w", err)
		}
		if tag.RowsAffected() == 0 {
			var known bool
			if err := tx.QueryRow(ctx, `select exists (select from referral_redemptions where id = $1)`, r.ID).Scan(&known); err != nil {
				return fmt.Errorf("referralpg: move: %w", err)
			}
			if !known {
				return referral.ErrNotFound
			}
			return referral.ErrConflict
		}
		for _, m := range moves {
			var benefit []byte
			var months *int64
			var currency *string
			if m.Benefit != nil {
				if benefit, err = json.Marshal(*m.Benefit); err != nil {
					return fmt.Errorf("referralpg: move: %w", err)
				}
				months, currency = &m.Benefit.FreeMonths, &m.Benefit.Currency
			}
			_, err := tx.Exec(ctx, `
				update referral_rewards set state = $4, changed_at = $5, vests_at = coalesce($6, vests_at), benefit = coalesce($7::json, benefit),
					months_left = coalesce($8, months_left), currency = coalesce($9, currency), version = version + 1
				where redemption = $1 and side = $2 and state = any ($3)`,
				r.ID, string(m.Side), text(m.From), string(m.To), r.ChangedAt, nullable(m.VestsAt), benefit, months, currency)
			if err != nil {
				return fmt.Errorf("referralpg: move: %w", err)
			}
		}
		return nil
	})
}

// CountQualified implements referral.Store.
func (s *Store) CountQualified(ctx context.Context, campaign, referrer string) (n int64, err error) {
	err = s.db.QueryRow(ctx, `select count(*) from referral_redemptions where campaign = $1 and referrer = $2 and state = 'qualified'`, campaign, referrer).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("referralpg: count: %w", err)
	}
	return n, nil
}

const rewardColumns = `id, redemption, campaign, account, side, benefit, state, vests_at, created_at, changed_at, months_left, amount, reversed, currency, grants, call, next_try, attempts, version`

func scanReward(row pgx.CollectableRow) (referral.Reward, error) {
	var r referral.Reward
	var benefit, grants, call []byte
	var vests, next *time.Time
	err := row.Scan(&r.ID, &r.Redemption, &r.Campaign, &r.Account, &r.Side, &benefit, &r.State, &vests, &r.CreatedAt, &r.ChangedAt,
		&r.MonthsLeft, &r.Amount, &r.Reversed, &r.Currency, &grants, &call, &next, &r.Attempts, &r.Version)
	if err != nil {
		return r, err
	}
	r.VestsAt, r.NextTry, r.CreatedAt, r.ChangedAt = utc(vests), utc(next), r.CreatedAt.UTC(), r.ChangedAt.UTC()
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

// Reward implements referral.Store.
func (s *Store) Reward(ctx context.Context, id string) (referral.Reward, error) {
	list, err := s.rewards(ctx, `select `+rewardColumns+` from referral_rewards where id = $1`, id)
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
		select `+rewardColumns+` from referral_rewards
		where ($1 = '' or account = $1) and ($2 = '' or redemption = $2) and ($3 = '' or state = $3)
		order by created_at, id limit $4`, f.Account, f.Redemption, string(f.State), orDefault(f.Limit))
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
	return s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			update referral_rewards set benefit = $3, state = $4, vests_at = $5, changed_at = $6, months_left = $7, amount = $8, reversed = $9,
				currency = $10, grants = $11, next_try = $12, attempts = $13, call = $14, version = version + 1
			where id = $1 and version = $2`,
			r.ID, r.Version, benefit, string(r.State), nullable(r.VestsAt), r.ChangedAt, r.MonthsLeft, r.Amount, r.Reversed, r.Currency, grants, nullable(r.NextTry), r.Attempts, call)
		if err != nil {
			return fmt.Errorf("referralpg: reward: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return referral.ErrConflict
		}
		for _, e := range entries {
			_, err := tx.Exec(ctx, `
				insert into referral_ledger (id, kind, reward, account, amount, currency, cause, at)
				values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (id) do nothing`,
				e.ID, string(e.Kind), e.Reward, e.Account, e.Amount, e.Currency, e.Cause, e.At)
			if err != nil {
				return fmt.Errorf("referralpg: ledger: %w", err)
			}
		}
		return nil
	})
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
		select referrer, count(*) from referral_redemptions where campaign = $1 and state = 'qualified'
		group by 1 order by 2 desc, 1 limit $2`, campaign, limit)
	if err != nil {
		return nil, fmt.Errorf("referralpg: leaders: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[referral.Leader])
	if err != nil {
		return nil, fmt.Errorf("referralpg: leaders: %w", err)
	}
	return list, nil
}

// Detach implements referral.Store.
func (s *Store) Detach(ctx context.Context, account, pseudonym string) (map[string]int64, error) {
	counts := map[string]int64{}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		for _, step := range []struct{ record, sql string }{
			{"codes", `update referral_codes set account = $2, active = false where account = $1`},
			{"redemptions", `update referral_redemptions set referrer = case referrer when $1 then $2 else referrer end,
				referee = case referee when $1 then $2 else referee end where referrer = $1 or referee = $1`},
			{"rewards", `update referral_rewards set account = $2 where account = $1`},
			{"ledger", `update referral_ledger set account = $2 where account = $1`},
			{"signals", `update referral_owner_signals set account = $2 where account = $1`},
			{"caps", `update referral_caps set account = $2 where account = $1`},
		} {
			tag, err := tx.Exec(ctx, step.sql, account, pseudonym)
			if err != nil {
				return fmt.Errorf("referralpg: detach %s: %w", step.record, err)
			}
			if n := tag.RowsAffected(); n > 0 && step.record != "caps" {
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
