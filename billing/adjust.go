package billing

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Audit says who changes an account by hand, and why. All of it is required
// and kept with the account.
type Audit struct {
	// Key names the change for good, such as "ticket-42": asked for again with
	// it, the change is not made again.
	Key    string `json:"key"`
	By     string `json:"by"`     // who does it, such as "admin:ada"
	Reason string `json:"reason"` // for whoever reads it in a year
}

// Bounds of an Audit, in bytes.
const (
	maxAuditKey    = 200
	maxAuditReason = 2000
)

func (w Audit) validate() error {
	if w.Key == "" || w.By == "" || w.Reason == "" {
		return fmt.Errorf("%w: a change by hand needs a key, who does it, and a reason", ErrInvalid)
	}
	if len(w.Key) > maxAuditKey || len(w.By) > maxAuditKey || len(w.Reason) > maxAuditReason {
		return fmt.Errorf("%w: a change by hand has a key and a name of at most %d bytes and a reason of at most %d", ErrInvalid, maxAuditKey, maxAuditReason)
	}
	return nil
}

// Adjustment is a change that was made by hand.
type Adjustment struct {
	Audit
	At     time.Time `json:"at"`
	What   string    `json:"what"`            // "trial extended to 2026-03-01T00:00:00Z"
	Amount Money     `json:"amount,omitzero"` // that was granted or given back
}

// MaxAdjustments is how many adjustments of an account are kept. The keys of
// older ones are forgotten, but for those that moved money: the gateway has
// them.
const MaxAdjustments = 500

func (a *Account) adjustment(key string) (Adjustment, bool) {
	i := slices.IndexFunc(a.Adjustments, func(d Adjustment) bool { return d.Key == key })
	if i < 0 {
		return Adjustment{}, false
	}
	return a.Adjustments[i], true
}

func (a *Account) adjust(d Adjustment) {
	if _, known := a.adjustment(d.Key); known {
		return
	}
	a.Adjustments = append(a.Adjustments, d)
	if n := len(a.Adjustments) - MaxAdjustments; n > 0 {
		a.Adjustments = slices.Delete(a.Adjustments, 0, n)
	}
}

// byHand is what every request of an adjustment has.
type byHand struct {
	Audit *Audit
	What  string
}

// adjusted records the adjustment that an intent was, if it was one.
func (a *Account) adjusted(it Intent, out *outcome, now time.Time) {
	var r byHand
	if json.Unmarshal(it.Request, &r) != nil || r.Audit == nil {
		return
	}
	d := Adjustment{Audit: *r.Audit, At: now, What: r.What}
	switch it.Op {
	case opBalance:
		d.Amount = out.balance.Amount.Neg()
	case opRefund:
		d.Amount = out.refund.Amount
	}
	a.adjust(d)
}

// repeated finds what a key has led to before: an adjustment that is done, or
// the request of one under way, which is to be joined. The same key for
// something else is an error.
func (a *Account) repeated(why Audit, what string) (request any, done bool, err error) {
	was := what
	if d, ok := a.adjustment(why.Key); ok {
		done, was = true, d.What
	} else {
		for _, it := range a.Intents {
			var r byHand
			if json.Unmarshal(it.Request, &r) == nil && r.Audit != nil && r.Audit.Key == why.Key {
				request, was = it.Request, r.What
			}
		}
	}
	if was != what {
		return nil, false, fmt.Errorf("%w: key %q was used before: %s", ErrInvalid, why.Key, was)
	}
	return request, done, nil
}

// updateByHand updates the subscription as an adjustment.
func (s *Service) updateByHand(ctx context.Context, account, what string, why Audit, decide func(a *Account) (string, UpdateRequest, error)) (Subscription, error) {
	if err := why.validate(); err != nil {
		return Subscription{}, err
	}
	out, done, err := s.act(ctx, account, opUpdate, func(a *Account) (any, bool, error) {
		request, done, err := a.repeated(why, what)
		if request != nil || done || err != nil {
			return request, done, err
		}
		id, req, err := decide(a)
		return updateIntent{SubscriptionID: id, Request: req, Audit: &why, What: what}, false, err
	})
	if done {
		return s.Subscription(ctx, account)
	}
	return out.subscription, err
}

// Comp is a plan that an account has for nothing, by somebody's decision.
type Comp struct {
	Plan  string    `json:"plan"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

func (c *Comp) at(now time.Time) bool { return c != nil && !now.Before(c.From) && now.Before(c.Until) }

// Comp gives an account a plan for nothing until an instant, whether it has a
// subscription or not: where that allows more, it stays at work, and goes on
// being charged. An empty plan takes it back. The gateway isn't told. The same
// key has one effect.
func (s *Service) Comp(ctx context.Context, account, plan string, until time.Time, why Audit) (Decision, error) {
	if err := why.validate(); err != nil {
		return Decision{}, err
	}
	what := "comp taken back"
	until = until.UTC().Truncate(time.Microsecond)
	if plan != "" {
		if _, err := s.catalog.plan(plan); err != nil {
			return Decision{}, err
		}
		what = fmt.Sprintf("plan %s for nothing until %s", plan, until.Format(time.RFC3339Nano))
	}
	var refused error
	a, err := s.edit(ctx, account, func(a *Account) bool {
		var done bool
		_, done, refused = a.repeated(why, what)
		if done || refused != nil {
			return false
		}
		now := s.now()
		switch {
		case plan == "":
			a.Comp = nil
		case !until.After(now):
			refused = fmt.Errorf("%w: a comp until %s, which is over", ErrInvalid, until.Format(time.RFC3339))
			return false
		default:
			a.Comp = &Comp{Plan: plan, From: now, Until: until}
		}
		a.adjust(Adjustment{Audit: why, At: now, What: what})
		return true
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return Decision{}, err
	}
	return Access(s.catalog, s.cfg.Policy, &a, s.now()), nil
}

// GrantCredit is Credit by hand: the amount comes off the account's next
// invoices. The same key has one effect for good.
func (s *Service) GrantCredit(ctx context.Context, account string, amount Money, why Audit) (BalanceEntry, error) {
	if err := why.validate(); err != nil {
		return BalanceEntry{}, err
	}
	if amount.Amount <= 0 {
		return BalanceEntry{}, fmt.Errorf("%w: a credit of %s", ErrInvalid, amount)
	}
	what := "credit of " + amount.String()
	a, err := s.Account(ctx, account)
	if err != nil {
		return BalanceEntry{}, err
	}
	if _, _, err := a.repeated(why, what); err != nil {
		return BalanceEntry{}, err
	}
	reference := "by hand:" + fingerprint(account+"\x00"+why.Key)
	return s.balance(ctx, reference, account, byHand{&why, what}, func(Customer) Money { return amount.Neg() })
}
