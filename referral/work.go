package referral

import (
	"context"
	"errors"
	"fmt"
	"time"
)

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
			if err := s.grant(ctx, rw); err != nil && !errors.Is(err, ErrConflict) {
				s.cfg.Logger.ErrorContext(ctx, "referral: grant", "reward", rw.ID, "err", err)
				// As it is stored now: the call that failed was written down.
				stored, err := s.store.Reward(ctx, rw.Redemption, rw.Side)
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
		if _, err := s.void(ctx, r.ID, RedemptionPending, "the time to qualify has passed"); err != nil && !errors.Is(err, ErrConflict) {
			return n, err
		}
	}
	if _, err := s.store.ExpireSignals(ctx, now.Add(-s.cfg.SignalTTL)); err != nil {
		return n, fmt.Errorf("referral: work: %w", err)
	}
	return n, nil
}
