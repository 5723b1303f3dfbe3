package apikeyspg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/apikeys"
)

// channel is the one on which every change of a Store notifies, in its own
// transaction.
const channel = "apikeys_changed"

const (
	heartbeat     = 5 * time.Second
	heartbeatWait = 2 * time.Second
)

// Bus is an apikeys.Bus on LISTEN and NOTIFY. It keeps one connection of the
// pool to itself. LISTEN needs a session: behind PgBouncer in transaction mode
// give it a pool that goes past it, or use another bus.
type Bus struct{ pool *pgxpool.Pool }

var _ apikeys.Bus = (*Bus)(nil)

// NewBus returns a bus on the database in which the Store is.
func NewBus(pool *pgxpool.Pool) *Bus { return &Bus{pool: pool} }

// Announce does nothing: Store notifies in the transaction of the change.
func (b *Bus) Announce(context.Context) error { return nil }

// Listen implements apikeys.Bus. A connection that has died in silence is
// noticed within 7 seconds.
func (b *Bus) Listen(ctx context.Context, wake func()) error {
	pooled, err := b.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("apikeyspg: listen: %w", err)
	}
	// It leaves the pool, and is closed: nobody must get it while it listens.
	conn := pooled.Hijack()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), heartbeatWait)
		defer cancel()
		_ = conn.Close(end) // of no more use either way
	}()
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return fmt.Errorf("apikeyspg: listen: %w", err)
	}
	wake() // for what was missed
	for {
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		_, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			wake()
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("apikeyspg: listen: %w", err)
		}
		ping, cancel := context.WithTimeout(ctx, heartbeatWait)
		err = conn.Ping(ping)
		cancel()
		if err != nil {
			return fmt.Errorf("apikeyspg: listen: no heartbeat: %w", err)
		}
	}
}
