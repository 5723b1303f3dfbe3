package billingpg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/billing"
)

// acquirer is what *pgxpool.Pool has: LISTEN needs a connection of its own.
type acquirer interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

var _ billing.Watcher = (*Store)(nil)

// Watch implements billing.Watcher by LISTEN: Save and Detach notify in their
// own statement, so that a change is told when it can be read, and not before.
// It takes one connection of the pool; on another kind of DB it is
// billing.ErrUnsupported.
func (s *Store) Watch(ctx context.Context, ready func(), changed func(account string)) error {
	pool, ok := s.db.(acquirer)
	if !ok {
		return fmt.Errorf("billingpg: watch needs a pool: %w", billing.ErrUnsupported)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return wrap("watch", err)
	}
	// Not back into the pool: it would go on listening there.
	c := conn.Hijack()
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "listen billing_accounts"); err != nil {
		return wrap("watch", err)
	}
	ready()
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return wrap("watch", err)
		}
		changed(n.Payload)
	}
}
