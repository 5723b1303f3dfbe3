package referral

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Refunded is money that went back to a referee, of billing's events.
type Refunded struct {
	ID      string // of the refund or of the lost dispute: it counts once
	Account string
	// Invoice is the one whose payment went back, as Paid.ID: a refund of
	// another payment than the qualifying one doesn't count. Empty, it is taken
	// for the qualifying one.
	Invoice  string
	Amount   int64 // given back of the payment in all, minor units
	Currency string
}

// HandleRefunded takes the referrer's reward back in proportion to what the
// referee got back: what isn't granted yet lapses, unspent credit goes, and
// the rest is carried against later rewards. It never takes back more than was
// granted, and never charges a card. Less than half of a payment doesn't touch
// free months.
func (s *Service) HandleRefunded(ctx context.Context, f Refunded) error {
	if f.Amount <= 0 {
		return nil
	}
	r, _, err := s.change(ctx, s.ofReferee(f.Account), func(r *Redemption) ([]RewardMove, error) {
		known := r.PaidAmount > 0
		switch {
		case known && (f.Currency != r.Currency || f.Invoice != "" && f.Invoice != r.PaidBy):
			return nil, errUnchanged // of another payment
		case r.State == RedemptionVoided || r.State == RedemptionQualified && !known:
			return nil, errUnchanged
		}
		part := max(f.Amount, r.Refunded)
		if known {
			part = min(part, r.PaidAmount)
		} else {
			// Told before the payment, which will find it.
			r.Currency = f.Currency
			if f.Invoice != "" {
				r.PaidBy = f.Invoice
			}
		}
		if part == r.Refunded {
			return nil, errUnchanged
		}
		// First, for a grant that is about to begin: it looks here.
		r.Refunded = part
		return nil, nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("referral: refund: %w", err)
	}
	if r.State == RedemptionVoided || r.PaidAmount <= 0 || r.Refunded <= 0 || r.Currency != f.Currency {
		return nil
	}
	rw, err := s.store.Reward(ctx, r.ID, Referrer)
	if err == nil && r.State == RedemptionQualified {
		err = s.takeBack(ctx, rw, f.ID, r.Refunded, r.PaidAmount)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if r.Refunded < r.PaidAmount {
		return nil
	}
	// Last: until then, another delivery does the above again.
	_, _, err = s.change(ctx, s.byID(r.ID), func(r *Redemption) ([]RewardMove, error) {
		if r.State == RedemptionVoided {
			return nil, errUnchanged
		}
		moves := lapse
		if r.State == RedemptionQualified {
			moves = nil // taken back above, and the referee has paid
		}
		r.State, r.ChangedAt = RedemptionVoided, s.now()
		r.Reasons = append(slices.Clone(r.Reasons), "the payment was refunded")
		return moves, nil
	})
	if err != nil {
		return fmt.Errorf("referral: refund: %w", err)
	}
	return nil
}

func (s *Service) takeBack(ctx context.Context, rw Reward, cause string, part, whole int64) error {
	// What is under way can't be taken back before it is known to be there.
	rw, err := s.settle(ctx, rw)
	if err != nil {
		return err
	}
	now := s.now()
	full := part == whole
	switch rw.State {
	case RewardPending, RewardQualified, RewardGranted:
	default:
		return nil
	}
	before := rw
	if rw.Benefit.FreeMonths > 0 && 2*part < whole {
		return nil
	}
	rw.MonthsLeft = 0
	waits := rw.State != RewardGranted && rw.Benefit.Credit > 0 && !full
	if rw.State != RewardGranted && !waits {
		rw.State = RewardReversed
	}
	if rw.Amount > 0 {
		// In all, not once more: a second partial refund of the same payment
		// brings the new total.
		if more := min(rounded(rw.Amount*part, whole), rw.Amount) - rw.Reversed; more > 0 {
			after := rw
			// Named after the new total: the same step has the same name,
			// whichever delivery takes it.
			before.Call = &Call{ID: callID(rw, reversalName(rw, rw.Reversed+more)), Reverse: more, Cause: cause}
			if rw, err = s.store.Begin(ctx, before, 0); err != nil {
				return fmt.Errorf("referral: take back: %w", err)
			}
			if rw, err = s.settle(ctx, rw); err != nil {
				return err
			}
			before = rw
			rw.State, rw.MonthsLeft = after.State, after.MonthsLeft
		}
		if full {
			rw.State = RewardReversed
		}
	}
	// A credit that waits is saved as it is: the grant subtracts the refund, and
	// one that looked before there was any loses by the version.
	if !waits && rw.State == before.State && rw.MonthsLeft == before.MonthsLeft {
		return nil
	}
	rw.ChangedAt = now
	if err := s.store.SaveReward(ctx, rw); err != nil {
		return fmt.Errorf("referral: take back: %w", err)
	}
	if rw.State == RewardReversed {
		s.tell(ctx, "reward_reversed", rw)
	}
	return nil
}

// reversalName names the reversal that brings what was taken back to a total. A
// correction may have lowered it since the same total was reached before.
func reversalName(rw Reward, total int64) string {
	if rw.Corrected > 0 {
		return fmt.Sprintf("reverse:%d:%d", total, rw.Corrected)
	}
	return fmt.Sprintf("reverse:%d", total)
}

// HandleDisputed stops the vesting of a reward while the referee's payment is
// disputed: a person decides with Approve or Reject.
func (s *Service) HandleDisputed(ctx context.Context, account string) error {
	return s.stop(ctx, account, RedemptionReview, "the payment is disputed")
}

// HandleEnded voids a redemption whose referee's subscription ended before the
// reward vested.
func (s *Service) HandleEnded(ctx context.Context, account string) error {
	return s.stop(ctx, account, RedemptionVoided, "the subscription ended within the hold")
}

func (s *Service) stop(ctx context.Context, account string, to RedemptionState, reason string) error {
	_, _, err := s.change(ctx, s.ofReferee(account), func(r *Redemption) ([]RewardMove, error) {
		if r.State != RedemptionQualified || !s.now().Before(r.ChangedAt.Add(r.Terms.hold())) {
			return nil, errUnchanged
		}
		move := RewardMove{Side: Referrer, From: []RewardState{RewardQualified}, To: RewardExpired}
		if to == RedemptionReview {
			move.To = RewardPending
		}
		r.State, r.ChangedAt = to, s.now()
		r.Reasons = append(slices.Clone(r.Reasons), reason)
		return []RewardMove{move}, nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("referral: stop: %w", err)
	}
	return nil
}
