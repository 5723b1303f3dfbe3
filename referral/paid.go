package referral

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Paid is a payment of an account, of billing's events.
type Paid struct {
	ID       string // of the invoice: the same payment counts once
	Account  string
	Amount   int64 // paid in money, minor units; 0 qualifies nobody
	Discount int64 // what a coupon took off the invoice
	Currency string
}

// HandlePaid takes note of a payment: it may qualify a redemption. Events may
// come in any order, any number of times.
func (s *Service) HandlePaid(ctx context.Context, p Paid) error {
	if p.Amount <= 0 {
		return nil // a trial's invoice is no payment
	}
	r, changed, err := s.change(ctx, s.ofReferee(p.Account), func(r *Redemption) ([]RewardMove, error) {
		known := r.PaidAmount > 0
		switch r.State {
		case RedemptionPending:
		case RedemptionReview:
			if known {
				return nil, errUnchanged
			}
		default:
			return nil, errUnchanged
		}
		if !known {
			s.takeDown(r, p)
		}
		if r.State == RedemptionReview {
			return nil, nil // kept for Approve
		}
		return s.qualified(r), nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("referral: paid: %w", err)
	}
	if changed || r.PaidBy == p.ID {
		if err := s.afterQualified(ctx, r); err != nil {
			return err
		}
	}
	return s.bookCoupon(ctx, r, p)
}

// takeDown notes the payment that qualifies a redemption, or will.
func (s *Service) takeDown(r *Redemption, p Paid) {
	if r.PaidBy != "" && r.PaidBy != p.ID || r.Currency != "" && r.Currency != p.Currency {
		r.Refunded = 0 // a refund that came first, of another payment
	}
	r.PaidBy, r.PaidAmount, r.Currency = p.ID, p.Amount, p.Currency
	r.Refunded = min(r.Refunded, r.PaidAmount)
}

// qualified starts the vesting of the referrer's reward.
func (s *Service) qualified(r *Redemption) []RewardMove {
	now := s.now()
	r.ChangedAt = now
	if r.PaidAmount > 0 && r.Refunded == r.PaidAmount {
		r.State = RedemptionVoided
		r.Reasons = append(slices.Clone(r.Reasons), "the payment was refunded")
		return lapse
	}
	r.State = RedemptionQualified
	moves := []RewardMove{{Side: Referrer, From: []RewardState{RewardPending}, To: RewardQualified, VestsAt: now.Add(r.Terms.hold()), Benefit: r.Terms.benefit}}
	if r.Terms.Referee.PercentOff == 0 {
		// The new account's own benefit needs no vesting: it is small, and its
		// owner has paid.
		moves = append(moves, RewardMove{Side: Referee, From: []RewardState{RewardPending}, To: RewardQualified, VestsAt: now})
	}
	return moves
}

// afterQualified does what follows, as often as the payment is told.
func (s *Service) afterQualified(ctx context.Context, r Redemption) error {
	if r.State != RedemptionQualified {
		return nil
	}
	rw, err := s.store.Reward(ctx, r.ID, Referrer)
	if errors.Is(err, ErrNotFound) {
		return nil // nothing for the referrer
	}
	if err != nil {
		return fmt.Errorf("referral: qualify: %w", err)
	}
	if rw.State == RewardQualified {
		s.tell(ctx, "reward_qualified", rw)
	}
	return nil
}

// bookCoupon books what the referee's coupon took off an invoice: off the first
// one, and as long as it lasts off those of the following months.
func (s *Service) bookCoupon(ctx context.Context, r Redemption, p Paid) error {
	if r.State != RedemptionQualified || r.Terms.Referee.PercentOff == 0 {
		return nil
	}
	rw, err := s.store.Reward(ctx, r.ID, Referee)
	if err != nil {
		return fmt.Errorf("referral: coupon: %w", err)
	}
	if len(rw.Grants) == 0 || rw.State != RewardPending && rw.State != RewardGranted {
		return nil
	}
	if slices.ContainsFunc(rw.Grants, func(g Grant) bool { return g.Invoice == p.ID }) {
		return nil // told before
	}
	now := s.now()
	g := Grant{ID: callID(rw, "coupon:"+p.ID), Ref: rw.Grants[0].Ref, Invoice: p.ID, Amount: p.Discount, Currency: p.Currency, At: now}
	switch {
	case rw.Grants[0].Invoice == "":
		rw.Grants[0] = g
	case p.Discount > 0 && p.Currency == rw.Currency && int64(len(rw.Grants)) < rw.Benefit.Months:
		rw.Grants = append(rw.Grants, g)
	default:
		return nil
	}
	rw.State, rw.ChangedAt, rw.Currency = RewardGranted, now, p.Currency
	rw.Amount += p.Discount
	err = s.store.SaveReward(ctx, rw, Entry{ID: g.ID, Kind: EntryGrant, Reward: rw.ID, Account: rw.Account, Amount: p.Discount, Currency: p.Currency, Cause: p.ID, At: now})
	if err != nil {
		return fmt.Errorf("referral: coupon: %w", err)
	}
	return nil
}

// Price is the price of what a new account is about to subscribe to.
type Price struct {
	Amount   int64  // for one unit and interval, minor units
	Quantity int64  // 0 means 1
	Currency string // ISO 4217, upper case
	Months   int64  // of the interval: 1, 3, 12
}

// CheckoutCoupon returns the coupon that a new account's checkout must carry,
// or "" when it has none to get. The discount is for months, whatever the
// interval: half of the first month is a twenty-fourth of a yearly price. The
// same account and price get the same coupon again; it works once.
func (s *Service) CheckoutCoupon(ctx context.Context, account string, p Price) (string, error) {
	if p.Amount <= 0 || p.Months < 1 || p.Currency == "" {
		return "", fmt.Errorf("%w: price of %d for %d months", ErrInvalid, p.Amount, p.Months)
	}
	r, err := s.store.RedemptionOf(ctx, account)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("referral: coupon: %w", err)
	}
	if r.State != RedemptionPending && r.State != RedemptionQualified {
		return "", nil // under review, or voided
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Redemption: r.ID})
	if err != nil {
		return "", fmt.Errorf("referral: coupon: %w", err)
	}
	for _, rw := range rewards {
		if rw.Side != Referee || rw.Benefit.PercentOff == 0 || rw.State != RewardPending || s.cfg.Biller == nil {
			continue
		}
		percent, months, amount := discount(rw.Benefit, p)
		call := callID(rw, fmt.Sprintf("coupon:%d:%d:%d:%s", percent, months, amount, p.Currency))
		coupon, err := s.cfg.Biller.Coupon(ctx, call, percent, months, amount, p.Currency)
		if err != nil {
			return "", fmt.Errorf("referral: coupon: %w", err)
		}
		rw.Grants = []Grant{{ID: call, Ref: coupon, At: s.now()}}
		if err := s.store.SaveReward(ctx, rw); err != nil && !errors.Is(err, ErrConflict) {
			return "", fmt.Errorf("referral: coupon: %w", err)
		}
		return coupon, nil
	}
	return "", nil
}

// discount returns what a percentage of the first months is on a price: a
// percentage for monthly prices, an amount for longer ones.
func discount(b Benefit, p Price) (percent, months, amount int64) {
	months = max(b.Months, 1)
	if p.Months == 1 {
		return b.PercentOff, months, 0
	}
	total := p.Amount * max(p.Quantity, 1)
	return 0, 0, min(rounded(total*min(months, p.Months)*b.PercentOff, 100*p.Months), total)
}

// rounded returns a / b, rounded half up, for amounts that aren't negative.
func rounded(a, b int64) int64 { return (a + b/2) / b }
