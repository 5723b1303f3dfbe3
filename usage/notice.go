package usage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// noticeLease is how long a process has for one delivery before another one
// tries.
const noticeLease = 2 * time.Minute

// DeliverNotices calls deliver for each notice that is due and marks it as
// delivered when deliver returns nil. It returns how many were. A crossing
// makes exactly one notice; its delivery is repeated after a crash or an
// error, with the same Notice.ID: pass that on as the idempotency key of the
// mail or job, and one crossing is one mail.
func (s *Service) DeliverNotices(ctx context.Context, deliver func(context.Context, Notice) error) (int, error) {
	delivered := 0
	var failed []error
	for {
		now := s.now()
		// One at a time: a slow delivery doesn't use up another one's lease.
		due, err := s.store.ClaimNotices(ctx, now, now.Add(noticeLease), 1)
		if err != nil || len(due) == 0 {
			return delivered, errors.Join(append(failed, err)...)
		}
		n := due[0]
		if err := deliver(ctx, n); err != nil {
			failed = append(failed, fmt.Errorf("usage: deliver notice %s: %w", n.ID, err))
			continue // due again when the claim ends
		}
		if err := s.store.NoticeDone(ctx, n, s.now()); err != nil {
			return delivered, errors.Join(append(failed, err)...)
		}
		delivered++
	}
}

// Notices returns the account's notices, newest first, at most n.
func (s *Service) Notices(ctx context.Context, account string, n int) ([]Notice, error) {
	return s.store.Notices(ctx, account, n)
}

// RunConfig has a good default for everything.
type RunConfig struct {
	// Every is how often Run looks for work: one second when zero.
	Every time.Duration
	// MaintainEvery is how often Run calls Maintain: one minute when zero.
	MaintainEvery time.Duration
	// Notify delivers notices; see DeliverNotices. Nil leaves them.
	Notify func(context.Context, Notice) error
}

// Run delivers notices and maintains the store until the context ends, whose
// error it returns. Several processes may run it. What fails is logged and
// tried again.
func (s *Service) Run(ctx context.Context, cfg RunConfig) error {
	setDefault(&cfg.Every, time.Second)
	setDefault(&cfg.MaintainEvery, time.Minute)
	ticks := time.NewTicker(cfg.Every)
	defer ticks.Stop()
	var maintained time.Time
	for {
		if cfg.Notify != nil {
			if _, err := s.DeliverNotices(ctx, cfg.Notify); err != nil && ctx.Err() == nil {
				s.cfg.Logger.ErrorContext(ctx, "usage: notices", "error", err)
			}
		}
		if now := s.now(); now.Sub(maintained) >= cfg.MaintainEvery {
			if err := s.Maintain(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.ErrorContext(ctx, "usage: maintenance", "error", err)
			}
			maintained = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
}

// Maintain gives expired reservations back, books the ends of grants, forgets
// keys whose time is over, and keeps the store's retention.
func (s *Service) Maintain(ctx context.Context) error {
	err := errors.Join(s.lapse(ctx), s.store.Maintain(ctx, s.now()))
	if m, ok := s.cfg.Quotas.(interface {
		Maintain(context.Context, time.Time) error
	}); ok {
		err = errors.Join(err, m.Maintain(ctx, s.now()))
	}
	return err
}
