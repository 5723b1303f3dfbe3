package billing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// trialNotice is when Stripe's own notice of a trial's end comes.
const trialNotice = 72 * time.Hour

// refetchAfter is when an account is fetched again that holds merged
// snapshots.
const refetchAfter = 30 * time.Second

// resumeAfter is when an intent is taken up again whose caller was never heard
// of: nobody's call can be under way any more.
func (s *Service) resumeAfter() time.Duration { return s.cfg.CallTimeout + 30*time.Second }

// ripen marks what has come with time alone.
func (s *Service) ripen(a *Account, now time.Time) {
	s.fillSeats(a)
	for i := range a.Subscriptions {
		s.cfg.Policy.ripen(a, &a.Subscriptions[i], now)
	}
	for _, sub := range a.Subscriptions {
		if s.tellsTrial(&sub) && !now.Before(sub.TrialEnd.Add(-s.cfg.TrialNotice)) && now.Before(sub.TrialEnd) {
			a.mark(fmt.Sprintf("%s:%s:%d", KindTrialEnding, sub.ID, sub.TrialEnd.Unix()), Mark{At: now, Subject: sub.ID, Kind: KindTrialEnding})
		}
	}
}

// tellsTrial reports whether the end of a trial is told of before it comes.
func (s *Service) tellsTrial(sub *Subscription) bool {
	return s.cfg.TrialNotice >= 0 && sub.Status == StatusTrialing && !sub.TrialEnd.IsZero()
}

// dueAt is when the account wants attention without being asked for.
func (s *Service) dueAt(a *Account) time.Time {
	var due time.Time
	for _, it := range a.Intents {
		due = earlier(due, it.Called.Add(s.resumeAfter()))
	}
	if a.Provisional {
		due = earlier(due, s.now().Add(refetchAfter))
	}
	if s.cfg.CancelDuplicates && len(a.duplicates()) > 0 {
		due = earlier(due, s.now())
	}
	if a.SeatOrder != nil {
		due = earlier(due, a.SeatOrder.Due)
	}
	if a.Retry {
		due = earlier(due, s.now())
	}
	for i := range a.Subscriptions {
		due = earlier(due, s.cfg.Policy.next(a, &a.Subscriptions[i], s.now()))
	}
	for _, sub := range a.Subscriptions {
		if _, unchecked := s.trialMethod(a, &sub); unchecked {
			due = earlier(due, s.now())
		}
		if !s.tellsTrial(&sub) || !s.now().Before(sub.TrialEnd) {
			continue // over, also when nobody was awake to tell: then it isn't ending any more
		}
		if _, told := a.Marks[fmt.Sprintf("%s:%s:%d", KindTrialEnding, sub.ID, sub.TrialEnd.Unix())]; !told {
			due = earlier(due, sub.TrialEnd.Add(-s.cfg.TrialNotice))
		}
	}
	return due
}

// attendDue takes care of accounts that are due: intents whose caller died,
// snapshots to be replaced by the truth, notices that come with time. Errors
// of the gateway leave an account due.
func (s *Service) attendDue(ctx context.Context) error {
	after := ""
	for {
		accounts, err := s.store.Accounts(ctx, AccountQuery{DueBefore: s.now(), After: after, Limit: claimLimit})
		if err != nil {
			return fmt.Errorf("billing: due accounts: %w", err)
		}
		for _, account := range accounts {
			if err := s.attend(ctx, account); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.cfg.Logger.WarnContext(ctx, "billing: account stays due", "account", account, "error", err)
			}
			after = account
		}
		if len(accounts) < claimLimit {
			return nil
		}
	}
}

func (s *Service) attend(ctx context.Context, account string) error {
	a, err := s.store.Account(ctx, account)
	if err != nil {
		return err
	}
	var errs []error
	for _, it := range a.Intents {
		if s.now().Before(it.Called.Add(s.resumeAfter())) {
			continue
		}
		errs = append(errs, s.resume(ctx, account, it))
	}
	if s.cfg.CancelDuplicates {
		for _, id := range a.duplicates() {
			errs = append(errs, s.end(ctx, account, id, CancelRequest{Prorate: true, InvoiceNow: true, Reason: "duplicate"}))
		}
	}
	for i := range a.Subscriptions {
		if level, _ := s.cfg.Policy.arrears(&a, &a.Subscriptions[i], s.now()); level == Canceled {
			errs = append(errs, s.end(ctx, account, a.Subscriptions[i].ID, CancelRequest{Reason: "payment_failed"}))
		}
	}
	for i := range a.Subscriptions {
		errs = append(errs, s.checkTrial(ctx, &a, &a.Subscriptions[i]))
	}
	errs = append(errs, s.sendSeats(ctx, &a))
	if a.Retry {
		errs = append(errs, s.retryPayments(ctx, &a))
	}
	if a.Provisional && a.CustomerID != "" {
		_, err := s.converge(ctx, account, a.CustomerID, nil, nil)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		// Due again later, so that one account in trouble doesn't take up
		// every pass.
		return errors.Join(err, s.postpone(ctx, account))
	}
	_, err = s.edit(ctx, account, func(*Account) bool { return true }) // ripens, and computes the next date
	return err
}

// postpone moves an account's attention away by a minute.
func (s *Service) postpone(ctx context.Context, account string) error {
	a, err := s.store.Account(ctx, account)
	if err != nil {
		return err
	}
	a.DueAt = s.now().Add(time.Minute)
	err = s.store.Save(ctx, Change{Account: a})
	if errors.Is(err, ErrConflict) {
		return nil // whoever wrote it computed its date
	}
	return err
}
