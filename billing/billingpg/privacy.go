package billingpg

import (
	"context"
	"fmt"

	"github.com/kolekt/commerce/billing"
)

var _ billing.Remover = (*Store)(nil)

const remove = `
	with gone as (
		delete from billing_accounts where account = $1 and version = $2 returning 1
	)
	select exists (select from gone) or not exists (select from billing_accounts where account = $1)`

// Remove implements billing.Remover.
func (s *Store) Remove(ctx context.Context, account string, version int64) error {
	var done bool
	if err := s.db.QueryRow(ctx, remove, account, version).Scan(&done); err != nil {
		return wrap("remove account", err)
	}
	if !done {
		return fmt.Errorf("billingpg: account is not at version %d: %w", version, billing.ErrConflict)
	}
	return nil
}
