package referralpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kolekt/commerce/referral"
)

var (
	redeemSQL       = statement("redeem")
	redeemSharedSQL = statement("redeem_shared")
	redeemManySQL   = statement("redeem_many")
	unfoldSQL       = statement("unfold")
)

// folded is a reward as its redemption keeps it until something happens to it.
type folded struct {
	ID       string           `json:"id"`
	Side     referral.Side    `json:"side"`
	Benefit  referral.Benefit `json:"benefit"`
	Months   int64            `json:"months"`
	Currency string           `json:"currency"`
}

// row is an attempt as the statements want it.
type row struct {
	referral.Attempt
	reasons        []string
	terms, rewards []byte
	keys           []string // kind/hash, sorted, so that two writers take their locks in one order
}

func newRow(a referral.Attempt) (row, error) {
	w := row{Attempt: a, reasons: a.Redemption.Reasons, keys: keys(a.Signals)}
	if w.reasons == nil {
		w.reasons = []string{}
	}
	list := make([]folded, len(a.Rewards))
	for i, r := range a.Rewards {
		list[i] = folded{r.ID, r.Side, r.Benefit, r.MonthsLeft, r.Currency}
	}
	var err error
	if w.terms, err = json.Marshal(a.Redemption.Terms); err == nil {
		w.rewards, err = json.Marshal(list)
	}
	if err != nil {
		return w, fmt.Errorf("referralpg: redeem: %w", err)
	}
	return w, nil
}

func keys(signals []referral.Signal) []string {
	list := make([]string, len(signals))
	for i, sig := range signals {
		list[i] = sig.Kind + "/" + sig.Hash
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Redeem implements referral.Store in one statement; see sql/redeem.sql.
func (s *Store) Redeem(ctx context.Context, a referral.Attempt) (referral.Redemption, error) {
	if err := ctx.Err(); err != nil {
		return a.Redemption, err
	}
	w, err := newRow(a)
	if err != nil {
		return a.Redemption, err
	}
	if s.lanes != nil {
		return s.inLane(ctx, w)
	}
	return s.alone(ctx, w)
}

// alone redeems one attempt by a statement of its own.
func (s *Store) alone(ctx context.Context, w row) (referral.Redemption, error) {
	r := w.Redemption
	shared := w.Cap > 0 || w.Budget > 0
	for try := 0; ; try++ {
		sql, args := redeemSQL, []any{
			r.ID, r.Code, r.Campaign, r.Referee, string(r.State), w.reasons, w.terms, w.Now, w.keys, r.ClosesAt, w.rewards,
		}
		if shared {
			sql, args = redeemSharedSQL, append(args, w.CapKey, w.Cap, w.Budget, w.Cost)
		}
		done := r
		err := s.decide(ctx, sql, args, &done)
		if err == nil {
			return done, nil
		}
		constraint := violated(err)
		switch {
		case constraint == "referral_signals_pkey" && !shared:
			shared = true // somebody else left this signal: a person decides
			continue
		case deadlocked(err) && try < 5:
			continue // nothing was stored
		case !errors.Is(err, pgx.ErrNoRows) && constraint == "":
			return r, failed("redeem", err)
		}
		// Refused, or done before: a read tells which.
		done, err = s.explain(ctx, w, constraint)
		if errors.Is(err, errOther) && !shared {
			shared = true
			continue
		}
		if errors.Is(err, errOther) {
			err = referral.ErrCycle // what is left of the statement's conditions
		}
		return done, err
	}
}

// errOther is a refusal for a reason that explain doesn't look for.
var errOther = errors.New("referralpg: refused for another reason")

func (s *Store) decide(ctx context.Context, sql string, args []any, r *referral.Redemption) error {
	scan := func(db DB) error {
		if err := db.QueryRow(ctx, sql, args...).Scan(&r.Referrer, &r.State, &r.Reasons); err != nil {
			return err
		}
		r.Version = 1
		if len(r.Reasons) == 0 {
			r.Reasons = nil
		}
		return nil
	}
	if _, ok := s.db.(pgx.Tx); ok {
		// A refusal by an index aborts a transaction: not the caller's.
		return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error { return scan(tx) })
	}
	return scan(s.db)
}

func deadlocked(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "40P01" || pgErr.Code == "40001")
}

// failed says of an error of a single statement whether it may have had its
// effect: not when the server refused it, or never got it.
func failed(what string, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) || pgconn.SafeToRetry(err) {
		return fmt.Errorf("referralpg: %s: %w", what, err)
	}
	return fmt.Errorf("referralpg: %s: %w: %w", what, referral.ErrUnknownOutcome, err)
}

func (s *Store) explain(ctx context.Context, w row, constraint string) (referral.Redemption, error) {
	r := w.Redemption
	stored, err := s.Redemption(ctx, r.ID)
	if !errors.Is(err, referral.ErrNotFound) {
		return stored, err
	}
	c, err := s.Code(ctx, r.Code)
	if err != nil {
		return r, err
	}
	var referred, owner bool
	err = s.db.QueryRow(ctx, `
		select exists (select from referral_redemptions where referee = $1),
			exists (select from referral_owner_signals where account = $2 and key = any ($3::text[]))`,
		r.Referee, c.Account, w.keys).Scan(&referred, &owner)
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
	case !c.ExpiresAt.IsZero() && !w.Now.Before(c.ExpiresAt):
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
	return r, errOther
}
