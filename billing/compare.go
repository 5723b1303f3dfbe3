package billing

import (
	"context"
	"fmt"
)

// Compare says how an account differs from what the gateway holds, without
// changing either: Drift.What is empty when they agree. Reconcile mends what
// it finds, Compare only looks. A webhook that is on its way shows as a
// difference until it is handled.
func (s *Service) Compare(ctx context.Context, account string) (Drift, error) {
	d := Drift{Account: account}
	for {
		old, err := s.Account(ctx, account)
		if err != nil || old.CustomerID == "" || old.Erased {
			return d, err
		}
		call, cancel := s.call(ctx)
		state, err := s.gateway.State(call, old.CustomerID)
		cancel()
		if err != nil {
			return d, fmt.Errorf("billing: compare: %w", err)
		}
		fresh := old.Clone()
		fresh.applyState(state, old.SyncedAt)
		d.What = drift(&old, &fresh)
		if old.Deleted != fresh.Deleted {
			d.What = append(d.What, "customer "+old.CustomerID+": deleted at the gateway")
		}
		if len(d.What) == 0 {
			return d, nil
		}
		// Somebody may have written what was fetched in the meantime.
		again, err := s.Account(ctx, account)
		if err != nil || again.Version == old.Version {
			return d, err
		}
	}
}
