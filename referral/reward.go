package referral

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Biller is what this package asks of billing. Every call has an ID and is
// idempotent by it for good, not just as long as the payment provider keeps
// idempotency keys: an implementation looks for the ID in the provider's
// metadata, or makes objects with IDs of their own, before it acts. Amounts
// are minor units of currency, an ISO 4217 code in upper case.
type Biller interface {
	// Coupon makes a coupon for one checkout: percent off the first months
	// months, or, when percent is 0, amount off once. It returns the coupon's
	// ID.
	Coupon(ctx context.Context, call string, percent, months, amount int64, currency string) (coupon string, err error)
	// DiscountInvoice takes one month's price of the account's plan, less what
	// is to be recovered, off a draft renewal invoice, and no more than the
	// invoice's amount. It returns the month's value and what was taken off.
	// An invoice that is no longer a draft is ErrTooLate, and nothing happens.
	DiscountInvoice(ctx context.Context, call, account, invoice string, less int64) (ref string, value, taken int64, currency string, err error)
	// Credit adds to the account's balance, for its next invoices.
	Credit(ctx context.Context, call, account string, amount int64, currency string) (ref string, err error)
	// Debit takes back of the balance what of the amount isn't spent yet, and
	// returns how much that was. It never makes the account owe anything.
	Debit(ctx context.Context, call, account string, amount int64, currency string) (taken int64, err error)
}

// ErrTooLate says that an invoice can't be changed any more: the reward waits
// for the next one.
var ErrTooLate = errors.New("referral: invoice is final")

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
	r, err := s.store.RedemptionOf(ctx, p.Account)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("referral: paid: %w", err)
	}
	switch r.State {
	case RedemptionPending:
		err = s.qualify(ctx, r, p)
	case RedemptionReview:
		if r.PaidBy != "" {
			return nil
		}
		// Kept for Approve.
		r.PaidBy, r.PaidAmount, r.Currency = p.ID, p.Amount, p.Currency
		err = s.store.MoveRedemption(ctx, r, []RedemptionState{RedemptionReview}, nil)
	default:
		return nil
	}
	if errors.Is(err, ErrConflict) {
		return nil // another delivery of the same event was faster
	}
	return err
}

// qualify starts the vesting of the referrer's reward.
func (s *Service) qualify(ctx context.Context, r Redemption, p Paid) error {
	n, err := s.store.CountQualified(ctx, r.Campaign, r.Referrer)
	if err != nil {
		return fmt.Errorf("referral: qualify: %w", err)
	}
	now := s.now()
	benefit := r.Terms.benefit(n + 1)
	r.State, r.ChangedAt = RedemptionQualified, now
	if p.Amount > 0 {
		r.PaidBy, r.PaidAmount, r.Currency = p.ID, p.Amount, p.Currency
	}
	moves := []RewardMove{{Side: Referrer, From: []RewardState{RewardPending}, To: RewardQualified, VestsAt: now.Add(r.Terms.hold()), Benefit: &benefit}}
	if r.Terms.Referee.PercentOff == 0 {
		// The new account's own benefit needs no vesting: it is small, and its
		// owner has paid.
		moves = append(moves, RewardMove{Side: Referee, From: []RewardState{RewardPending}, To: RewardQualified, VestsAt: now})
	}
	if err := s.store.MoveRedemption(ctx, r, []RedemptionState{RedemptionPending}, moves); err != nil {
		return fmt.Errorf("referral: qualify: %w", err)
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Redemption: r.ID})
	if err != nil {
		return fmt.Errorf("referral: qualify: %w", err)
	}
	for _, rw := range rewards {
		if rw.Side == Referrer && rw.State == RewardQualified {
			s.tell(ctx, "reward_qualified", rw)
		}
		if rw.Side == Referee && rw.Benefit.PercentOff > 0 && len(rw.Grants) > 0 && rw.State == RewardPending {
			if err := s.settleCoupon(ctx, rw, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleCoupon books what the referee's coupon took off the invoice.
func (s *Service) settleCoupon(ctx context.Context, rw Reward, p Paid) error {
	now := s.now()
	rw.State, rw.ChangedAt, rw.Amount, rw.Currency = RewardGranted, now, p.Discount, p.Currency
	rw.Grants[0].Amount, rw.Grants[0].Currency, rw.Grants[0].Invoice = p.Discount, p.Currency, p.ID
	err := s.store.SaveReward(ctx, rw, Entry{
		ID: callID(rw, "coupon"), Kind: EntryGrant, Reward: rw.ID, Account: rw.Account, Amount: p.Discount, Currency: p.Currency, Cause: p.ID, At: now,
	})
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

// Draft is a renewal invoice that isn't final yet.
type Draft struct {
	Invoice string
	Account string
}

// HandleDraft gives the account's oldest free month to a renewal invoice: one
// for each invoice. A month is granted only when it is due, at the price of
// the plan of then.
func (s *Service) HandleDraft(ctx context.Context, d Draft) error {
	if s.cfg.Biller == nil {
		return nil
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Account: d.Account})
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
		carry, err := s.carried(ctx, rw.Account)
		if err != nil {
			return err
		}
		call := Call{ID: callID(rw, fmt.Sprintf("month:%d", rw.MonthsLeft)), Invoice: d.Invoice, Less: carry}
		if rw, err = s.begin(ctx, rw, call); err != nil {
			return err
		}
		_, err = s.settle(ctx, rw)
		return err
	}
	return nil
}

// begin writes a call down before it is made.
func (s *Service) begin(ctx context.Context, rw Reward, call Call) (Reward, error) {
	rw.Call = &call
	if err := s.store.SaveReward(ctx, rw); err != nil {
		return rw, fmt.Errorf("referral: grant: %w", err)
	}
	rw.Version++
	return rw, nil
}

// settle finishes the call that a reward has under way, if any.
func (s *Service) settle(ctx context.Context, rw Reward) (Reward, error) {
	if rw.Call == nil || s.cfg.Biller == nil {
		return rw, nil
	}
	call, now := *rw.Call, s.now()
	if call.Reverse > 0 {
		return s.settleReversal(ctx, rw, call, now)
	}
	g := Grant{ID: call.ID, Invoice: call.Invoice, At: now}
	var value, recovered int64
	var err error
	if call.Invoice != "" {
		g.Ref, value, g.Amount, g.Currency, err = s.cfg.Biller.DiscountInvoice(ctx, call.ID, rw.Account, call.Invoice, call.Less)
		recovered = min(value-g.Amount, call.Less)
	} else {
		g.Amount, g.Currency = call.Amount, rw.Benefit.Currency
		value, recovered = call.Amount+call.Less+call.Returned, call.Less+call.Returned
		if call.Amount > 0 {
			g.Ref, err = s.cfg.Biller.Credit(ctx, call.ID, rw.Account, call.Amount, g.Currency)
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
	entries := []Entry{{ID: call.ID, Kind: EntryGrant, Reward: rw.ID, Account: rw.Account, Amount: value, Currency: g.Currency, Cause: cause, At: now}}
	if call.Returned > 0 {
		entries = append(entries, Entry{
			ID: call.ID + ":reversal", Kind: EntryReversal, Reward: rw.ID, Account: rw.Account, Amount: -call.Returned, Currency: g.Currency, Cause: call.ID, At: now,
		})
	}
	if recovered > 0 {
		entries = append(entries, Entry{
			ID: call.ID + ":recovery", Kind: EntryRecovery, Reward: rw.ID, Account: rw.Account, Amount: recovered, Currency: g.Currency, Cause: call.ID, At: now,
		})
	}
	if err := s.store.SaveReward(ctx, rw, entries...); err != nil {
		return rw, fmt.Errorf("referral: grant: %w", err)
	}
	rw.Version++
	s.tell(ctx, "reward_granted", rw)
	return rw, nil
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

// carried returns what was taken back from an account and isn't recovered.
func (s *Service) carried(ctx context.Context, account string) (int64, error) {
	ledger, err := s.store.Ledger(ctx, account)
	if err != nil {
		return 0, fmt.Errorf("referral: ledger: %w", err)
	}
	var carry int64
	for _, e := range ledger {
		if e.Kind != EntryGrant {
			carry -= e.Amount
		}
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Account: account, Limit: 1000})
	if err != nil {
		return 0, fmt.Errorf("referral: ledger: %w", err)
	}
	for _, rw := range rewards {
		if rw.Call != nil {
			carry -= rw.Call.Less // under way to be recovered
		}
	}
	return max(carry, 0), nil
}

// Refunded is money that went back to a referee, of billing's events.
type Refunded struct {
	ID       string // of the refund or of the lost dispute: it counts once
	Account  string
	Amount   int64 // given back of the qualifying payment in all, minor units
	Currency string
}

// HandleRefunded takes the referrer's reward back in proportion to what the
// referee got back: what isn't granted yet lapses, unspent credit goes, and
// the rest is carried against later rewards. It never takes back more than was
// granted, and never charges a card. Less than half of a payment doesn't touch
// free months.
func (s *Service) HandleRefunded(ctx context.Context, f Refunded) error {
	r, err := s.store.RedemptionOf(ctx, f.Account)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("referral: refund: %w", err)
	}
	if r.State != RedemptionQualified || r.PaidAmount <= 0 || f.Amount <= 0 || f.Currency != r.Currency {
		return nil
	}
	part := min(max(f.Amount, r.Refunded), r.PaidAmount)
	if part > r.Refunded {
		// First, for a grant that is about to begin: it looks here.
		r.Refunded = part
		if err := s.store.MoveRedemption(ctx, r, []RedemptionState{RedemptionQualified}, nil); err != nil {
			return fmt.Errorf("referral: refund: %w", err)
		}
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Redemption: r.ID})
	if err != nil {
		return fmt.Errorf("referral: refund: %w", err)
	}
	for _, rw := range rewards {
		if rw.Side != Referrer {
			continue
		}
		if err := s.takeBack(ctx, rw, f.ID, part, r.PaidAmount); err != nil {
			return err
		}
	}
	if part == r.PaidAmount {
		r.State, r.ChangedAt = RedemptionVoided, s.now()
		r.Reasons = append(r.Reasons, "the payment was refunded")
		if err := s.store.MoveRedemption(ctx, r, []RedemptionState{RedemptionQualified}, nil); err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("referral: refund: %w", err)
		}
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
			if rw, err = s.begin(ctx, before, Call{ID: callID(rw, "reverse:"+cause), Reverse: more, Cause: cause}); err != nil {
				return err
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
	r, err := s.store.RedemptionOf(ctx, account)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("referral: stop: %w", err)
	}
	if r.State != RedemptionQualified || !s.now().Before(r.ChangedAt.Add(r.Terms.hold())) {
		return nil
	}
	move := RewardMove{Side: Referrer, From: []RewardState{RewardQualified}, To: RewardExpired}
	if to == RedemptionReview {
		move.To = RewardPending
	}
	r.State, r.ChangedAt = to, s.now()
	r.Reasons = append(r.Reasons, reason)
	err = s.store.MoveRedemption(ctx, r, []RedemptionState{RedemptionQualified}, []RewardMove{move})
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("referral: stop: %w", err)
	}
	return nil
}

// Run grants vested rewards and closes windows until the context ends. Any
// number of processes may run it. It starts no goroutine.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if _, err := s.Work(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.ErrorContext(ctx, "referral: work", "err", err)
		}
		timer.Reset(s.cfg.Poll)
	}
}

// Work does what is due now, and returns how much that was. Free months don't
// wait for it: they are given to invoices by HandleDraft.
func (s *Service) Work(ctx context.Context) (int, error) {
	n := 0
	now := s.now()
	for {
		due, err := s.store.DueRewards(ctx, now, 50)
		if err != nil {
			return n, fmt.Errorf("referral: work: %w", err)
		}
		if len(due) == 0 {
			break
		}
		for _, rw := range due {
			n++
			if err := s.grant(ctx, rw, now); err != nil && !errors.Is(err, ErrConflict) {
				s.cfg.Logger.ErrorContext(ctx, "referral: grant", "reward", rw.ID, "err", err)
				// As it is stored now: the call that failed was written down.
				stored, err := s.store.Reward(ctx, rw.ID)
				if err != nil {
					return n, fmt.Errorf("referral: work: %w", err)
				}
				stored.Attempts++
				stored.NextTry = now.Add(min(time.Minute<<min(stored.Attempts-1, 6), time.Hour))
				if err := s.store.SaveReward(ctx, stored); err != nil && !errors.Is(err, ErrConflict) {
					return n, fmt.Errorf("referral: work: %w", err)
				}
			}
		}
	}
	open, err := s.store.Redemptions(ctx, RedemptionFilter{State: RedemptionPending, ClosesBefore: now})
	if err != nil {
		return n, fmt.Errorf("referral: work: %w", err)
	}
	for _, r := range open {
		n++
		if err := s.void(ctx, r, []RedemptionState{RedemptionPending}, "the time to qualify has passed"); err != nil && !errors.Is(err, ErrConflict) {
			return n, err
		}
	}
	if _, err := s.store.ExpireSignals(ctx, now.Add(-s.cfg.SignalTTL)); err != nil {
		return n, fmt.Errorf("referral: work: %w", err)
	}
	return n, nil
}

// grant gives a vested credit or custom benefit.
func (s *Service) grant(ctx context.Context, rw Reward, now time.Time) error {
	switch {
	case rw.Benefit.Credit > 0 && s.cfg.Biller != nil:
		if rw.Call == nil {
			carry, err := s.carried(ctx, rw.Account)
			if err != nil {
				return err
			}
			r, err := s.store.Redemption(ctx, rw.Redemption)
			if err != nil {
				return err
			}
			call := Call{ID: callID(rw, "grant"), Amount: rw.Benefit.Credit}
			if r.PaidAmount > 0 {
				call.Returned = rounded(rw.Benefit.Credit*r.Refunded, r.PaidAmount)
			}
			call.Less = min(carry, rw.Benefit.Credit-call.Returned)
			call.Amount -= call.Returned + call.Less
			if rw, err = s.begin(ctx, rw, call); err != nil {
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
		rw.State, rw.ChangedAt = RewardGranted, now
		return s.store.SaveReward(ctx, rw)
	}
}
