package billing

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// TrialAgain says what becomes of a trial whose payment method had one under
// another account.
type TrialAgain int

const (
	// RefuseTrial refuses it: Subscribe with ErrTrialUsed; where the payment
	// method is seen only afterwards, on the gateway's page, the subscription
	// ends.
	RefuseTrial TrialAgain = iota
	// ChargeTrial does without the trial: the first period is charged at once.
	// A subscription whose charge is declined ends.
	ChargeTrial
)

// maxTrial is how far ahead Stripe takes a trial's end.
const maxTrial = 730 * 24 * time.Hour

// minTrialCardKey is the least length of Config.TrialCardKey, in bytes.
const minTrialCardKey = 32

// TrialUsedError says why there is no trial. It is ErrTrialUsed.
type TrialUsedError struct {
	Card bool // the payment method had one under another account
}

// Error says what to do instead.
func (e *TrialUsedError) Error() string {
	if e.Card {
		return ErrTrialUsed.Error() + " with this payment method: order without one (Order.NoTrial), or with another payment method"
	}
	return ErrTrialUsed.Error() + " by this account"
}

// Is makes it ErrTrialUsed.
func (e *TrialUsedError) Is(target error) bool { return target == ErrTrialUsed }

// ExtendTrial moves the end of a trial that is running to a later instant, at
// most two years ahead. Nothing is charged until then. The same key has one
// effect.
func (s *Service) ExtendTrial(ctx context.Context, account string, until time.Time, why Audit) (Subscription, error) {
	until = until.UTC().Truncate(time.Second)
	return s.updateByHand(ctx, account, "trial extended to "+until.Format(time.RFC3339), why, func(a *Account) (string, UpdateRequest, error) {
		sub, err := a.trialing()
		if err == nil && (!until.After(sub.TrialEnd) || until.Sub(s.now()) > maxTrial) {
			err = fmt.Errorf("%w: a trial that ends on %s is extended to a later day, at most two years ahead, not to %s",
				ErrInvalid, sub.TrialEnd.Format(time.RFC3339), until.Format(time.RFC3339))
		}
		return sub.ID, UpdateRequest{TrialEnd: until, Proration: "none"}, err
	})
}

// ConvertTrial ends the trial now and charges the first period. A payment that
// is refused is ErrDeclined, and the trial goes on.
func (s *Service) ConvertTrial(ctx context.Context, account string) (Subscription, error) {
	return s.update(ctx, account, func(a *Account) (string, UpdateRequest, error) {
		sub, err := a.trialing()
		return sub.ID, UpdateRequest{TrialEnd: sub.TrialStart, Proration: "none"}, err // what is past means now
	})
}

// live returns the subscription that is live.
func (a *Account) live() (Subscription, error) {
	sub, ok := a.Current()
	if !ok || !sub.Status.Live() {
		return sub, fmt.Errorf("%w: %s", ErrNoSubscription, a.ID)
	}
	return sub, nil
}

func (a *Account) trialing() (Subscription, error) {
	sub, err := a.live()
	if err != nil {
		return sub, err
	}
	if sub.Status != StatusTrialing {
		return sub, fmt.Errorf("%w: subscription %s is %s, not in a trial", ErrInvalid, sub.ID, sub.Status)
	}
	return sub, nil
}

// trialClaim is the name under which a store keeps who had the trial of a
// payment method. Without the key nobody can find out which one it was, nor
// compare a number with it.
func (s *Service) trialClaim(fingerprint string) string {
	mac := hmac.New(sha256.New, s.cfg.TrialCardKey)
	mac.Write([]byte(fingerprint)) // never fails
	return "trial:" + hex.EncodeToString(mac.Sum(nil))
}

// claimTrial takes the one trial of a payment method for the account, and
// reports whether it has it. One without a fingerprint is nobody's.
func (s *Service) claimTrial(ctx context.Context, account, paymentMethod string) (bool, error) {
	p, err := s.payer()
	if err != nil {
		return false, err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	pm, err := p.PaymentMethod(call, paymentMethod)
	if err != nil || pm.Fingerprint == "" {
		return err == nil, err
	}
	holder, err := s.store.Claim(ctx, s.trialClaim(pm.Fingerprint), account, s.now())
	if err != nil {
		return false, fmt.Errorf("billing: claim trial: %w", err)
	}
	return holder == account, nil
}

// trialOf decides on the trial of an order whose payment method is known.
func (s *Service) trialOf(ctx context.Context, a *Account, o *Order) error {
	if len(s.cfg.TrialCardKey) == 0 || o.PaymentMethod == "" || s.trial(a, o) == 0 {
		return nil
	}
	ours, err := s.claimTrial(ctx, a.ID, o.PaymentMethod)
	switch {
	case err != nil || ours:
		return err
	case s.cfg.TrialAgain == ChargeTrial:
		o.NoTrial = true
		return nil
	}
	return &TrialUsedError{Card: true}
}

// trialMethod is the payment method of a trial that wasn't checked yet.
func (s *Service) trialMethod(a *Account, sub *Subscription) (paymentMethod string, unchecked bool) {
	if len(s.cfg.TrialCardKey) == 0 || sub.Status != StatusTrialing {
		return "", false
	}
	pm := sub.DefaultPaymentMethod
	if pm == "" {
		pm = a.PaymentMethod
	}
	_, checked := a.TrialCards[sub.ID] // another card later takes nothing away
	return pm, pm != "" && !checked
}

// checkTrial looks at the payment method that came into a trial, on a page of
// the gateway's: of another account's trial it ends this one. It is noted only
// then, so that a process that dies before does it again.
func (s *Service) checkTrial(ctx context.Context, a *Account, sub *Subscription) error {
	pm, unchecked := s.trialMethod(a, sub)
	if !unchecked {
		return nil
	}
	ours, err := s.claimTrial(ctx, a.ID, pm)
	if err != nil {
		return err
	}
	if !ours {
		s.cfg.Logger.InfoContext(ctx, "billing: a payment method had its trial", "account", a.ID, "subscription", sub.ID)
		if err := s.endTrial(ctx, a, sub); err != nil {
			return err
		}
	}
	_, err = s.edit(ctx, a.ID, func(a *Account) bool {
		if a.TrialCards == nil {
			a.TrialCards = map[string]string{}
		}
		a.TrialCards[sub.ID] = pm
		if !ours {
			a.mark(string(KindTrialRefused)+":"+sub.ID, Mark{At: s.now(), Subject: sub.ID, Kind: KindTrialRefused})
		}
		return true
	})
	return err
}

func (s *Service) endTrial(ctx context.Context, a *Account, sub *Subscription) error {
	if s.cfg.TrialAgain == ChargeTrial {
		_, err := s.ConvertTrial(ctx, a.ID)
		if !errors.Is(err, ErrDeclined) && !errors.Is(err, ErrActionRequired) {
			return err
		}
	}
	return s.end(ctx, a.ID, sub.ID, CancelRequest{Reason: "trial used"})
}
