package billing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	cursorEvents = "events"
	// overlap is how far Reconcile reads events again that it has seen: one
	// may appear in the list later than a younger one.
	overlap = time.Hour
	// lookback is how far the first Reconcile reads: as long as Stripe
	// retries.
	lookback = 72 * time.Hour
	// maxLookback is how long the gateway keeps events.
	maxLookback = 30 * 24 * time.Hour
)

// Report is what Reconcile found.
type Report struct {
	Listed  int // events that the gateway has
	Missing int // … of which the inbox had none: their webhooks never came
	Swept   int // accounts that were fetched without an event
	Drift   []Drift
	Processed
}

// Drift is an account that differed from the gateway with no event to tell.
type Drift struct {
	Account string
	What    []string // "subscription sub_1: past_due, is active"
}

// Reconcile finds what webhooks didn't bring: it lists the gateway's events
// since the last time and puts the missing ones into the inbox, handles what
// is pending, and then fetches accounts that nothing was heard of for
// Config.SweepAfter. It can be called at any time, and twice.
func (s *Service) Reconcile(ctx context.Context) (Report, error) {
	var r Report
	if err := s.listEvents(ctx, &r); err != nil {
		return r, err
	}
	p, err := s.ProcessPending(ctx)
	r.Processed = p
	if err != nil {
		return r, err
	}
	if s.cfg.SweepAfter > 0 {
		err = s.sweep(ctx, &r)
	}
	return r, err
}

func (s *Service) listEvents(ctx context.Context, r *Report) error {
	now := s.now()
	since, err := s.store.Cursor(ctx, cursorEvents)
	if err != nil {
		return fmt.Errorf("billing: read cursor: %w", err)
	}
	if since.IsZero() {
		since = now.Add(-lookback)
	}
	since = since.Add(-overlap)
	if oldest := now.Add(-maxLookback); since.Before(oldest) {
		since = oldest
	}
	newest, after := time.Time{}, ""
	for {
		call, cancel := s.call(ctx)
		page, more, err := s.gateway.Events(call, since, after)
		cancel()
		if err != nil {
			return fmt.Errorf("billing: list events: %w", err)
		}
		for i := range page {
			added, err := s.store.PutEvent(ctx, s.received(&page[i]))
			if err != nil {
				return fmt.Errorf("billing: store event: %w", err)
			}
			if added {
				r.Missing++
			}
			r.Listed++
			newest, after = page[i].Created, page[i].ID
		}
		if !more || len(page) == 0 {
			break
		}
	}
	if newest.IsZero() {
		return nil
	}
	// Only now: a pass that broke off begins anew.
	if err := s.store.SetCursor(ctx, cursorEvents, newest); err != nil {
		return fmt.Errorf("billing: write cursor: %w", err)
	}
	return nil
}

func (s *Service) sweep(ctx context.Context, r *Report) error {
	before, after := s.now().Add(-s.cfg.SweepAfter), ""
	for {
		accounts, err := s.store.Accounts(ctx, AccountQuery{SyncedBefore: before, After: after, Limit: claimLimit})
		if err != nil {
			return fmt.Errorf("billing: list accounts: %w", err)
		}
		for _, account := range accounts {
			after = account
			old, err := s.store.Account(ctx, account)
			if err != nil {
				return fmt.Errorf("billing: read account: %w", err)
			}
			fresh, err := s.converge(ctx, account, old.CustomerID, nil, nil)
			switch {
			case errors.Is(err, ErrConflict):
				continue // somebody is at work on it
			case errors.Is(err, ErrNotFound):
				r.Drift = append(r.Drift, Drift{Account: account, What: []string{
					"customer " + old.CustomerID + ": unknown to the gateway: is the key that of another account or mode?",
				}})
				continue
			case err != nil:
				return err
			}
			r.Swept++
			if what := drift(&old, &fresh); len(what) > 0 {
				r.Drift = append(r.Drift, Drift{Account: account, What: what})
			}
		}
		if len(accounts) < claimLimit {
			return nil
		}
	}
}

func drift(old, fresh *Account) []string {
	var what []string
	for i := range fresh.Subscriptions {
		now := &fresh.Subscriptions[i]
		before := old.subscription(now.ID)
		switch {
		case before == nil:
			what = append(what, fmt.Sprintf("subscription %s: unknown, is %s", now.ID, now.Status))
		case before.Status != now.Status:
			what = append(what, fmt.Sprintf("subscription %s: %s, is %s", now.ID, before.Status, now.Status))
		case !observe("", time.Time{}, before).same(observe("", time.Time{}, now)) || before.Period != now.Period:
			what = append(what, fmt.Sprintf("subscription %s: its items, dates or end have changed", now.ID))
		}
	}
	for i := range fresh.Invoices {
		now := &fresh.Invoices[i]
		before := old.invoice(now.ID)
		switch {
		case before == nil && old.SyncedAt.IsZero():
		case before == nil:
			what = append(what, fmt.Sprintf("invoice %s: unknown, is %s", now.ID, now.Status))
		case before.progress() != now.progress():
			what = append(what, fmt.Sprintf("invoice %s: %s, is %s", now.ID, before.Status, now.Status))
		}
	}
	return what
}
