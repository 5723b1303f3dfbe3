package billing

import (
	"context"
	"fmt"
	"time"
)

// deliver hands a batch of notices to Config.Handle.
func (s *Service) deliver(ctx context.Context) (delivered int, more bool, err error) {
	if s.cfg.Handle == nil {
		return 0, false, nil
	}
	batch, err := s.store.ClaimNotices(ctx, s.now(), s.cfg.Lease, claimLimit)
	if err != nil {
		return 0, false, fmt.Errorf("billing: claim notices: %w", err)
	}
	// Those that don't get their turn within the lease belong to somebody else.
	claim, cancel := context.WithTimeout(ctx, s.cfg.Lease)
	defer cancel()
	for _, d := range batch {
		if claim.Err() != nil {
			break
		}
		err := s.handOver(claim, d.Notice)
		var ok []string
		var failed []Failure
		if err == nil {
			ok = []string{d.ID}
		} else {
			f := s.failure(d.ID, d.Attempts, err)
			f.Dead = d.Attempts >= s.cfg.Attempts
			failed = []Failure{f}
			s.cfg.Logger.WarnContext(ctx, "billing: notice comes again", "notice", d.ID, "dead", f.Dead, "error", err)
		}
		// Settled one by one: a crash repeats one notice, not a hundred.
		if err := s.store.SettleNotices(ctx, ok, failed, s.now()); err != nil {
			return delivered, false, fmt.Errorf("billing: settle notices: %w", err)
		}
		delivered += len(ok)
	}
	return delivered, len(batch) == claimLimit, ctx.Err()
}

// handOver calls the handler; a panic is an error, and the notice comes again.
func (s *Service) handOver(ctx context.Context, n Notice) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("billing: handler panicked: %v", p)
		}
	}()
	return s.cfg.Handle(ctx, n)
}

// Run does the work in the background until ctx ends: it handles events,
// delivers notices, takes up what a crash has left, reconciles at intervals
// and prunes. It starts one goroutine and Config.Workers while it works on
// events, all of which have ended when it returns. Several processes may run
// it. The error is ctx's.
func (s *Service) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.runReconcile(ctx)
	}()
	defer func() { <-done }()
	poll := time.NewTicker(s.cfg.PollEvery)
	defer poll.Stop()
	for {
		if _, err := s.ProcessPending(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.ErrorContext(ctx, "billing: work is interrupted", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-poll.C:
		}
	}
}

func (s *Service) runReconcile(ctx context.Context) {
	if s.cfg.ReconcileEvery < 0 {
		return
	}
	t := time.NewTicker(s.cfg.ReconcileEvery)
	defer t.Stop()
	for {
		report, err := s.Reconcile(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.Logger.WarnContext(ctx, "billing: reconcile", "error", err)
		case report.Missing > 0 || len(report.Drift) > 0:
			s.cfg.Logger.WarnContext(ctx, "billing: reconcile found what webhooks didn't bring", "events", report.Missing, "accounts", len(report.Drift))
		}
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "billing: prune", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// prune deletes what is older than Config.Retention, in bounded steps.
func (s *Service) prune(ctx context.Context) error {
	const step = 1000
	before := s.now().Add(-s.cfg.Retention)
	for {
		n, err := s.store.Prune(ctx, before, step)
		if err != nil || n < step {
			return err
		}
	}
}

// DeadEvents lists the events that were given up, oldest first, after the one
// with the given ID; limit 0 means 100.
func (s *Service) DeadEvents(ctx context.Context, after string, limit int) ([]InboxEvent, error) {
	if limit <= 0 {
		limit = 100
	}
	return s.store.Events(ctx, EventQuery{Status: EventDead, After: after, Limit: limit})
}

// Replay makes events pending again, dead and done ones alike, and returns how
// many there were.
func (s *Service) Replay(ctx context.Context, eventIDs ...string) (int, error) {
	n, err := s.store.ReplayEvents(ctx, eventIDs, s.now())
	if err == nil && n > 0 {
		s.poke()
	}
	return n, err
}

// Sync fetches an account's state from the gateway now: for a page that the
// customer returns to before the webhook has come. It leads to the same place
// as the webhook. An account without a customer has nothing to fetch.
func (s *Service) Sync(ctx context.Context, account string) (Account, error) {
	a, err := s.Account(ctx, account)
	if err != nil || a.CustomerID == "" {
		return a, err
	}
	return s.converge(ctx, account, a.CustomerID, nil, nil)
}
