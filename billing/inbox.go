package billing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// claimLimit is how many events or notices a worker claims at a time.
const claimLimit = 100

// Processed says what one pass over the inbox and the outbox did.
type Processed struct {
	Events    int // handled
	Retried   int // events that failed and come again
	Dead      int // events that were given up
	Delivered int // notices
}

// ProcessPending handles what is pending now, in the inbox and in the outbox,
// and returns. Run does it all the time; tests and scripts call it.
func (s *Service) ProcessPending(ctx context.Context) (Processed, error) {
	var sum Processed
	for {
		p, more, err := s.processEvents(ctx)
		sum.Events += p.Events
		sum.Retried += p.Retried
		sum.Dead += p.Dead
		if err != nil {
			return sum, err
		}
		if !more {
			break
		}
	}
	if err := s.attendDue(ctx); err != nil {
		return sum, err
	}
	for {
		n, more, err := s.deliver(ctx)
		sum.Delivered += n
		if err != nil || !more {
			return sum, err
		}
	}
}

// processEvents claims a batch and handles it, one customer at a time for each
// worker. More says that the batch was full.
func (s *Service) processEvents(ctx context.Context) (sum Processed, more bool, err error) {
	batch, err := s.store.ClaimEvents(ctx, s.now(), s.cfg.Lease, claimLimit)
	if err != nil {
		return sum, false, fmt.Errorf("billing: claim events: %w", err)
	}
	if len(batch) == 0 {
		return sum, false, nil
	}
	groups := map[string][]InboxEvent{}
	var order []string
	for _, e := range batch {
		if groups[e.CustomerID] == nil {
			order = append(order, e.CustomerID)
		}
		groups[e.CustomerID] = append(groups[e.CustomerID], e)
	}
	// A worker that outlives its lease would work beside its successor.
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	s.parallel(len(order), func(i int) {
		p, err := s.processGroup(ctx, order[i], groups[order[i]])
		mu.Lock()
		defer mu.Unlock()
		sum.Events += p.Events
		sum.Retried += p.Retried
		sum.Dead += p.Dead
		if err != nil {
			errs = append(errs, err)
		}
	})
	return sum, len(batch) == claimLimit, errors.Join(errs...)
}

// parallel calls do(0) … do(n-1) on the workers.
func (s *Service) parallel(n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, s.cfg.Workers) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// processGroup handles events of one customer with one fetch. The error is one
// of the store: the events come again when their lease is over.
func (s *Service) processGroup(ctx context.Context, customerID string, group []InboxEvent) (Processed, error) {
	var events []Event
	var failed []Failure
	for _, in := range group {
		e, err := s.gateway.Decode(in.Body)
		if err != nil {
			failed = append(failed, s.failure(in.ID, in.Attempts, fmt.Errorf("decode: %w", err)))
			continue
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		if err := s.handle(ctx, customerID, events); err != nil {
			if ctx.Err() != nil {
				return Processed{}, ctx.Err()
			}
			for _, in := range group {
				if slices.ContainsFunc(events, func(e Event) bool { return e.ID == in.ID }) {
					failed = append(failed, s.failure(in.ID, in.Attempts, err))
				}
			}
		}
	}
	p := Processed{Events: len(group) - len(failed)}
	if len(failed) == 0 {
		return p, nil
	}
	for _, f := range failed {
		if f.Dead {
			p.Dead++
			s.cfg.Logger.ErrorContext(ctx, "billing: event is dead", "event", f.ID, "customer", customerID, "error", f.Error)
		} else {
			p.Retried++
			s.cfg.Logger.WarnContext(ctx, "billing: event comes again", "event", f.ID, "customer", customerID, "next", f.Next, "error", f.Error)
		}
	}
	if err := s.store.FailEvents(ctx, failed); err != nil {
		return p, fmt.Errorf("billing: record failures: %w", err)
	}
	return p, nil
}

// handle brings the account of a customer to the gateway's state and marks the
// events as done, in one step.
func (s *Service) handle(ctx context.Context, customerID string, events []Event) error {
	if customerID == "" {
		// It touches no customer: products, prices, payouts. It was kept.
		return s.store.FinishEvents(ctx, eventIDs(events))
	}
	account, err := s.resolve(ctx, customerID, events)
	if err != nil {
		return err
	}
	a, err := s.converge(ctx, account, customerID, events, nil)
	if errors.Is(err, errMoved) {
		// Erased between the two: the customer has another account now.
		if account, err = s.resolve(ctx, customerID, events); err == nil {
			a, err = s.converge(ctx, account, customerID, events, nil)
		}
	}
	if err == nil && a.Erased {
		// Late events of an erased person still name them.
		err = s.scrub(ctx, "", customerID, map[string]int64{})
	}
	return err
}

func eventIDs(events []Event) []string {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	return ids
}

// deleted reports whether the gateway says that a customer was deleted.
func (s *Service) deleted(ctx context.Context, customerID string) bool {
	call, cancel := s.call(ctx)
	defer cancel()
	st, err := s.gateway.State(call, customerID)
	return err == nil && st.Customer.Deleted
}

// errOrphan says that nobody knows whose customer an event is about.
var errOrphan = errors.New("billing: no account for this customer yet")

// errMoved says that a customer belongs to another account than it did.
var errMoved = fmt.Errorf("%w: the customer belongs to another account now", ErrConflict)

// resolve finds the account of a customer: the one it belongs to, else the one
// that the events or the gateway's objects name. Never one with the same
// e-mail address: anybody can claim one.
func (s *Service) resolve(ctx context.Context, customerID string, events []Event) (string, error) {
	account, err := s.store.AccountOf(ctx, customerID)
	if !errors.Is(err, ErrNotFound) {
		return account, err
	}
	for _, e := range events {
		if e.Account != "" {
			return e.Account, nil
		}
	}
	call, cancel := s.call(ctx)
	defer cancel()
	st, err := s.gateway.State(call, customerID)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", errOrphan
	case err != nil:
		return "", err
	case st.Customer.Account != "":
		return st.Customer.Account, nil
	}
	for _, sub := range st.Subscriptions {
		if sub.Account != "" {
			return sub.Account, nil
		}
	}
	return "", errOrphan
}

// maxConflicts is how often somebody else may write the same account first.
const maxConflicts = 200

// converge fetches a customer's state and writes it with all that follows from
// it. It reads the account's version first and fetches then: if the version
// still stands at the write, nobody has written anything newer meanwhile; if
// not, it fetches again. So any number of workers in any order end in the
// truth, without a lock.
//
// When the gateway can't be asked, it merges the events' snapshots, and
// returns the gateway's error so that the events come again.
//
// Edit, which may be nil, changes the account in the same step; it is told
// whether the state beneath it is the gateway's.
func (s *Service) converge(ctx context.Context, account, customerID string, events []Event, edit func(a *Account, fetched bool)) (Account, error) {
	for range maxConflicts {
		before, err := s.store.Account(ctx, account)
		if err != nil {
			return Account{}, fmt.Errorf("billing: read account: %w", err)
		}
		if before.CustomerID != "" && before.CustomerID != customerID {
			if s.deleted(ctx, customerID) {
				return before, s.store.FinishEvents(ctx, eventIDs(events)) // the last words of a former customer
			}
			return Account{}, fmt.Errorf("%w: customer %s names account %q, whose customer is %s: move the subscription or correct the metadata, then replay",
				ErrConflict, customerID, account, before.CustomerID)
		}
		after := before.Clone()
		after.CustomerID = customerID
		gone := s.refresh(ctx, &after, events)
		switch {
		case gone == nil:
		case ctx.Err() != nil:
			return Account{}, ctx.Err()
		case len(events) == 0 && edit == nil:
			return Account{}, gone
		}
		if edit != nil {
			edit(&after, gone == nil)
		}
		var done []string
		if gone == nil {
			done = eventIDs(events)
			if len(done) == 0 && after.SyncedAt.Sub(before.SyncedAt) < time.Minute && sameAccount(&before, &after) {
				return before, nil // nothing to write that a reader could miss
			}
		}
		err = s.write(ctx, &before, &after, done)
		if errors.Is(err, ErrConflict) {
			if owner, err := s.store.AccountOf(ctx, customerID); err == nil && owner != account {
				return Account{}, errMoved
			}
			if err := s.pause(ctx); err != nil {
				return Account{}, err
			}
			continue
		}
		if err == nil {
			err = gone
		}
		return after, err
	}
	return Account{}, fmt.Errorf("%w: account %q is written all the time", ErrConflict, account)
}

// refresh notes the events and fetches the gateway's state, or merges the
// events' snapshots and returns why it couldn't fetch.
func (s *Service) refresh(ctx context.Context, a *Account, events []Event) error {
	for i := range events {
		a.note(&events[i])
	}
	at := s.now()
	call, cancel := s.call(ctx)
	defer cancel()
	st, err := s.gateway.State(call, a.CustomerID)
	if err == nil {
		a.applyState(st, at)
		return nil
	}
	if errors.Is(err, ErrNotFound) {
		// A deleted customer is found, as deleted. One that was never there
		// means another account's key: nobody loses access for that.
		return err
	}
	for i := range events {
		a.merge(&events[i])
	}
	return err
}

// sameAccount reports whether two contents of an account are equal.
func sameAccount(x, y *Account) bool {
	if x.Version != y.Version || x.CustomerID != y.CustomerID {
		return false
	}
	xs, errX := json.Marshal(x)
	ys, errY := json.Marshal(y)
	return errX == nil && errY == nil && bytes.Equal(xs, ys)
}

// edit changes an account in one step. Change reports whether there is
// something to write.
func (s *Service) edit(ctx context.Context, account string, change func(a *Account) bool) (Account, error) {
	for range maxConflicts {
		before, err := s.store.Account(ctx, account)
		if err != nil {
			return Account{}, fmt.Errorf("billing: read account: %w", err)
		}
		after := before.Clone()
		if !change(&after) {
			return before, nil
		}
		err = s.write(ctx, &before, &after, nil)
		if !errors.Is(err, ErrConflict) {
			return after, err
		}
		if err := s.pause(ctx); err != nil {
			return Account{}, err
		}
	}
	return Account{}, fmt.Errorf("%w: account %q is written all the time", ErrConflict, account)
}

// write saves an account with the notices that follow from the change, and
// sets after's version. ErrConflict says that somebody else was first.
func (s *Service) write(ctx context.Context, before, after *Account, done []string) error {
	now := s.now()
	if after.Created.IsZero() {
		after.Created = now
	}
	s.ripen(after, now)
	after.DueAt = s.dueAt(after)
	notices := noticesBetween(s.catalog, before, after, now)
	if err := s.store.Save(ctx, Change{Account: *after, Done: done, Notices: notices}); err != nil {
		return fmt.Errorf("billing: save account: %w", err)
	}
	after.Version++
	s.feeds.forget(after.ID)
	if len(notices) > 0 {
		s.poke()
	}
	return nil
}

// pause waits a moment, at random, so that writers that collided don't again.
func (s *Service) pause(ctx context.Context) error {
	t := time.NewTimer(time.Duration(rand.Int64N(int64(5 * time.Millisecond))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failure schedules the next attempt. An unavailable gateway is no reason to
// give an event up.
func (s *Service) failure(id string, attempts int, err error) Failure {
	return Failure{
		ID: id, Error: clip(err.Error(), 500), Next: s.now().Add(backoff(attempts)),
		Dead: attempts >= s.cfg.Attempts && !retryable(err),
	}
}

// backoff doubles from 5 s to at most 6 h, and takes between half and all of
// it: 20 attempts reach over a day and a half.
func backoff(attempts int) time.Duration {
	d := min(5*time.Second<<min(max(attempts-1, 0), 20), 6*time.Hour)
	return d/2 + rand.N(d/2+1)
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
