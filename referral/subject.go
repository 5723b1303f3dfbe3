package referral

import (
	"context"
	"errors"
	"fmt"
)

// ExportSubject emits what is held about an account, for package gdpr. Friends
// appear as numbers: who they are is theirs.
func (s *Service) ExportSubject(ctx context.Context, account string, emit func(record string, fields map[string]any) error) error {
	for id := range s.campaigns {
		c, err := s.store.CodeOf(ctx, id, account)
		if errors.Is(err, ErrUnknownCode) {
			continue
		}
		if err != nil {
			return fmt.Errorf("referral: export: %w", err)
		}
		if err := emit("referral_codes", map[string]any{"campaign": c.Campaign, "code": c.Text, "uses": c.Uses, "created_at": c.CreatedAt}); err != nil {
			return err
		}
	}
	mine, err := s.store.RedemptionOf(ctx, account)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("referral: export: %w", err)
	}
	if err == nil {
		if err := emit("referral_redemptions", map[string]any{
			"role": "referred", "campaign": mine.Campaign, "code": mine.Code, "state": string(mine.State), "reasons": mine.Reasons, "created_at": mine.CreatedAt,
		}); err != nil {
			return err
		}
	}
	friends, err := s.store.Redemptions(ctx, RedemptionFilter{Referrer: account, Limit: 100_000})
	if err != nil {
		return fmt.Errorf("referral: export: %w", err)
	}
	for i := len(friends) - 1; i >= 0; i-- {
		r := friends[i]
		if err := emit("referral_redemptions", map[string]any{
			"role": "referrer", "campaign": r.Campaign, "code": r.Code, "friend": len(friends) - i, "state": string(r.State), "created_at": r.CreatedAt,
		}); err != nil {
			return err
		}
	}
	rewards, err := s.store.Rewards(ctx, RewardFilter{Account: account, Limit: 100_000})
	if err != nil {
		return fmt.Errorf("referral: export: %w", err)
	}
	for _, r := range rewards {
		if err := emit("referral_rewards", map[string]any{
			"campaign": r.Campaign, "side": string(r.Side), "state": string(r.State), "amount": r.Amount, "reversed": r.Reversed,
			"currency": r.Currency, "months_left": r.MonthsLeft, "created_at": r.CreatedAt,
		}); err != nil {
			return err
		}
	}
	ledger, err := s.store.Ledger(ctx, account)
	if err != nil {
		return fmt.Errorf("referral: export: %w", err)
	}
	for _, e := range ledger {
		if err := emit("referral_ledger", map[string]any{"kind": string(e.Kind), "amount": e.Amount, "currency": e.Currency, "at": e.At}); err != nil {
			return err
		}
	}
	return nil
}

// EraseSubject takes an account out of everything, for package gdpr: a
// pseudonym stands where it stood, so that the other side's money stays right.
// The keyed hashes of its signals stay until Config.SignalTTL, so that erasing
// oneself isn't a way to be referred again (Art. 17(3)(e)). It is idempotent.
func (s *Service) EraseSubject(ctx context.Context, account string) (map[string]int64, error) {
	// The same pseudonym again after a crash; nobody can compute it without
	// the pepper.
	counts, err := s.store.Detach(ctx, account, "erased_"+s.signal("erased", account).Hash)
	if err != nil {
		return nil, fmt.Errorf("referral: erase: %w", err)
	}
	out := map[string]int64{}
	for record, n := range counts {
		out["referral_"+record] = n
	}
	return out, nil
}
