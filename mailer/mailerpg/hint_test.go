package mailerpg_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerpg"
	"github.com/kolekt/commerce/mailer/mailertest"
)

// TestTransactionsNotifyOnlyWhoListens has a server of its own: workers of other
// tests are listeners of the same database.
func TestTransactionsNotifyOnlyWhoListens(t *testing.T) {
	pool := pgtest.PoolOn(t, pgtest.Server(t, services.PostgresConfig{}).URL())
	ctx := t.Context()
	require.NoError(t, mailerpg.Migrate(ctx, pool))
	from, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer from.Release()
	kind, svc, err := service(mailerpg.New(from.Conn()), mailer.NewCapture(), nil)
	require.NoError(t, err)
	listener, err := pool.Acquire(ctx)
	require.NoError(t, err)
	defer listener.Release()
	exec := func(conn *pgx.Conn, sql string) {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	heard := func() string {
		n, err := listener.Conn().WaitForNotification(ctx)
		require.NoError(t, err)
		return n.Payload
	}
	exec(listener.Conn(), "listen mailer_outbox")
	for i := range 3 {
		// One mail, then several: each way to enqueue has a statement of its own.
		enqueue(t, kind, svc, 10*i, i+1)
	}
	exec(from.Conn(), "notify mailer_outbox, 'end'")
	require.Equal(t, "end", heard(), "a transaction notified without a listener's lock")
	exec(listener.Conn(), "select pg_advisory_lock(1299146092, 1)")
	for i := range 3 {
		enqueue(t, kind, svc, 100+10*i, i+1)
		require.Empty(t, heard())
	}
	exec(listener.Conn(), "select pg_advisory_unlock(1299146092, 1)")
	exec(listener.Conn(), "unlisten mailer_outbox")
}

// looks tells of each claim.
type looks struct {
	*mailerpg.Store
	claimed chan struct{}
}

func (l *looks) Claim(ctx context.Context, c mailer.Claim) ([]mailer.Leased, error) {
	leased, err := l.Store.Claim(ctx, c)
	select {
	case l.claimed <- struct{}{}:
	default:
	}
	return leased, err
}

// TestAWorkerAtRestFindsWhatWasBegunBefore commits a transaction that enqueued
// while nobody listened, when the worker has already gone to rest: it comes with
// no notification, and the poll is an hour away.
func TestAWorkerAtRestFindsWhatWasBegunBefore(t *testing.T) {
	pool := migrated(t)
	ctx := t.Context()
	inbox := mailertest.NewInbox(t)
	store := &looks{mailerpg.New(pool), make(chan struct{})}
	kind, svc, err := service(store, inbox, func(cfg *mailer.Config) { cfg.Poll = time.Hour })
	require.NoError(t, err)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = kind.Enqueue(ctx, svc.WithStore(mailerpg.New(tx)), mailer.To{Account: "a", Email: "ada@example.org"}, note{1}, "k")
	require.NoError(t, err)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(running) }()
	for range 4 {
		<-store.claimed // the last of these is a look of a worker at rest
	}
	require.NoError(t, tx.Commit(ctx))
	require.Eventually(t, func() bool {
		st, err := svc.Stats(ctx)
		return err == nil && st.Pending+st.Claimed == 0
	}, time.Minute, 5*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	inbox.Says(inbox.One("ada@example.org", "test.note"), "Number 1.")
}
