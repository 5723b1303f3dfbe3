package billingmem

import (
	"context"
	"fmt"

	"github.com/kolekt/commerce/billing"
)

var _ billing.Remover = (*Store)(nil)

// Remove implements billing.Remover.
func (s *Store) Remove(ctx context.Context, account string, version int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	old, ok := s.accounts[account]
	if !ok {
		return nil
	}
	if old.Version != version {
		return fmt.Errorf("billingmem: account is at version %d, not %d: %w", old.Version, version, billing.ErrConflict)
	}
	delete(s.accounts, account)
	delete(s.owners, old.CustomerID)
	return nil
}
