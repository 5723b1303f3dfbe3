package referral

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Draft is a renewal invoice that isn't final yet.
type Draft struct {
	Invoice string
	Account string
	// Currency is the invoice's. Empty, it is taken for the one in which the
	// account carries most, if it carries anything.
	Currency string
}

// HandleDraft gives the account's oldest free month to a renewal invoice: one
// for each invoice. A month is granted only when it is due, at the price of
// the plan of then.
func (s *Service) HandleDraft(ctx context.Context, d Draft) error {
	if s.cfg.Biller == nil {
		return nil
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Account: d.Account, Limit: everything})
	if err != nil {
		return fmt.Errorf("referral: draft: %w", err)
	}
	now := s.now()
	for i := range rewards {
		// What an earlier invoice left under way comes first.
		if rewards[i], err = s.settle(ctx, rewards[i]); err != nil {
			return err
		}
	}
	for _, rw := range rewards {
		for _, g := range rw.Grants {
			if g.Invoice == d.Invoice {
				return nil // this invoice has its month
			}
		}
	}
	for _, rw := range rewards {
		if rw.MonthsLeft <= 0 || rw.State != RewardQualified && rw.State != RewardGranted || rw.VestsAt.After(now) {
			continue
		}
		r, err := s.store.Redemption(ctx, rw.Redemption)
		if err != nil {
			return fmt.Errorf("referral: draft: %w", err)
		}
		if forfeits(r) {
			continue // a refund came first, and takes it back
		}
		rw.Call = &Call{ID: callID(rw, fmt.Sprintf("month:%d:%s", rw.MonthsLeft, d.Invoice)), Invoice: d.Invoice, Currency: d.Currency}
		if rw, err = s.store.Begin(ctx, rw, everything); err != nil {
			return fmt.Errorf("referral: grant: %w", err)
		}
		_, err = s.settle(ctx, rw)
		return err
	}
	return nil
}

// everything is a limit that takes all that an account can have.
const everything = math.MaxInt32

// forfeits reports whether so much of the payment went back that free months
// go, too.
func forfeits(r Redemption) bool { return r.PaidAmount > 0 && 2*r.Refunded >= r.PaidAmount }

// settle finishes the call that a reward has under way, if any.
func (s *Service) settle(ctx context.Context, rw Reward) (Reward, error) {
	if rw.Call == nil || s.cfg.Biller == nil {
		return rw, nil
	}
	call, now := *rw.Call, s.now()
	if call.Reverse > 0 {
		return s.settleReversal(ctx, rw, call, now)
	}
	id := call.name()
	g := Grant{ID: id, Invoice: call.Invoice, At: now}
	var value, recovered int64
	var err error
	if call.Invoice != "" {
		g.Ref, value, g.Amount, g.Currency, err = s.cfg.Biller.DiscountInvoice(ctx, id, rw.Account, call.Invoice, call.Less)
		recovered = min(value-g.Amount, call.Less)
		value = g.Amount + recovered // what was taken off counts, whatever it should have been
	} else {
		g.Amount, g.Currency = call.Amount-call.Less, rw.Benefit.Currency
		value, recovered = call.Amount+call.Returned, call.Less+call.Returned
		if g.Amount > 0 {
			g.Ref, err = s.cfg.Biller.Credit(ctx, id, rw.Account, g.Amount, g.Currency)
		}
	}
	rw.Call = nil
	if errors.Is(err, ErrTooLate) {
		// Nothing happened: the month waits for the next invoice.
		if err := s.store.SaveReward(ctx, rw); err != nil {
			return rw, fmt.Errorf("referral: grant: %w", err)
		}
		rw.Version++
		return rw, nil
	}
	if err != nil {
		return rw, fmt.Errorf("referral: grant: %w", err)
	}
	if call.Invoice != "" {
		rw.MonthsLeft--
	}
	rw.State, rw.ChangedAt = RewardGranted, now
	rw.Amount, rw.Currency = rw.Amount+value, g.Currency
	rw.Reversed += call.Returned
	rw.Grants = append(rw.Grants, g)
	cause := call.Invoice
	if cause == "" {
		cause = g.Ref
	}
	entries := grantEntries(rw, id, cause, value, call.Returned, recovered, now)
	if err := s.store.SaveReward(ctx, rw, entries...); err != nil {
		return rw, fmt.Errorf("referral: grant: %w", err)
	}
	rw.Version++
	s.tell(ctx, "reward_granted", rw)
	return rw, nil
}

// grantEntries are the rows of a grant: what it is worth, what of that a refund
// had taken back before, and what was recovered by it.
func grantEntries(rw Reward, call, cause string, value, returned, recovered int64, at time.Time) []Entry {
	entry := func(tail string, kind EntryKind, amount int64, cause string) Entry {
		return Entry{ID: call + tail, Kind: kind, Reward: rw.ID, Account: rw.Account, Amount: amount, Currency: rw.Currency, Cause: cause, At: at}
	}
	entries := []Entry{entry("", EntryGrant, value, cause)}
	if returned > 0 {
		entries = append(entries, entry(":reversal", EntryReversal, -returned, call))
	}
	if recovered > 0 {
		entries = append(entries, entry(":recovery", EntryRecovery, recovered, call))
	}
	return entries
}

// lessMark stands in a call's name before what it recovers, so that the
// provider's list of calls tells what each was worth.
const lessMark = ":less:"

// name is the ID by which the provider knows the call.
func (c Call) name() string {
	if c.Less > 0 {
		return c.ID + lessMark + strconv.FormatInt(c.Less, 10)
	}
	return c.ID
}

// settleReversal takes unspent credit back and enters the reversal. Months that
// reached an invoice stay there: the whole is carried.
func (s *Service) settleReversal(ctx context.Context, rw Reward, call Call, now time.Time) (Reward, error) {
	var taken int64
	if rw.Benefit.Credit > 0 {
		var err error
		if taken, err = s.cfg.Biller.Debit(ctx, call.ID, rw.Account, call.Reverse, rw.Currency); err != nil {
			return rw, fmt.Errorf("referral: take back: %w", err)
		}
	}
	rw.Call = nil
	rw.Reversed += call.Reverse
	rw.ChangedAt = now
	entries := []Entry{{ID: call.ID, Kind: EntryReversal, Reward: rw.ID, Account: rw.Account, Amount: -call.Reverse, Currency: rw.Currency, Cause: call.Cause, At: now}}
	if taken > 0 {
		entries = append(entries, Entry{
			ID: call.ID + ":recovery", Kind: EntryRecovery, Reward: rw.ID, Account: rw.Account, Amount: min(taken, call.Reverse), Currency: rw.Currency, Cause: call.Cause, At: now,
		})
	}
	if err := s.store.SaveReward(ctx, rw, entries...); err != nil {
		return rw, fmt.Errorf("referral: take back: %w", err)
	}
	rw.Version++
	return rw, nil
}

// grant gives a vested credit or custom benefit.
func (s *Service) grant(ctx context.Context, rw Reward) error {
	switch {
	case rw.Benefit.Credit > 0 && s.cfg.Biller != nil:
		if rw.Call == nil {
			r, err := s.store.Redemption(ctx, rw.Redemption)
			if err != nil {
				return err
			}
			call := Call{ID: callID(rw, "grant"), Currency: rw.Benefit.Currency}
			if r.PaidAmount > 0 {
				call.Returned = rounded(rw.Benefit.Credit*r.Refunded, r.PaidAmount)
			}
			call.Amount = rw.Benefit.Credit - call.Returned
			rw.Call = &call
			if rw, err = s.store.Begin(ctx, rw, call.Amount); err != nil {
				return err
			}
		}
		_, err := s.settle(ctx, rw)
		return err
	default:
		// The application gives it, when it is told.
		if s.cfg.Notify == nil {
			return fmt.Errorf("%w: reward %s needs Config.Biller or Config.Notify", ErrInvalid, rw.ID)
		}
		if err := s.cfg.Notify(ctx, Notice{ID: rw.ID + ":reward_granted", Event: "reward_granted", Account: rw.Account, Reward: rw}); err != nil {
			return err
		}
		rw.State, rw.ChangedAt = RewardGranted, s.now()
		return s.store.SaveReward(ctx, rw)
	}
}
