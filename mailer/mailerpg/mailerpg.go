// Package mailerpg keeps the outbox of package mailer in PostgreSQL (12 or
// later).
//
//	if err := mailerpg.Migrate(ctx, pool); err != nil { … }
//	mails, err := mailer.New(mailerpg.New(pool), transport, cfg)
//
// A store made of a transaction writes in it: the mail exists if the
// transaction commits. [Store.Along] does both in one round trip. Several
// processes may work on one outbox.
//
// A worker that waits for mail needs a session, for LISTEN and a lock: behind
// PgBouncer in transaction mode, run it on a pool of direct connections.
package mailerpg

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/mailer"
)

//go:embed migrations/*.sql
var migrations embed.FS

// DB is what the store needs: *pgxpool.Pool, *pgx.Conn and pgx.Tx all have it.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Store implements mailer.Store, and mailer.Waiter on a pool. It is as safe
// for concurrent use as its DB.
type Store struct {
	db    DB
	along func(*pgx.Batch) // see Along
}

var (
	_ mailer.Store  = (*Store)(nil)
	_ mailer.Waiter = (*Store)(nil)
)

// New returns a store on a pool, a connection or a transaction.
func New(db DB) *Store { return &Store{db: db} }

// Migrations returns the numbered SQL files, for a migration tool of your own.
func Migrations() fs.FS { return pgmigrate.Files(migrations) }

// Migrate brings the schema up to date. It is safe to call from several
// processes at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Migrate(ctx, pool, "mailer", Migrations())
}

// Verify returns an error when the schema lacks migrations.
func Verify(ctx context.Context, pool *pgxpool.Pool) error {
	return pgmigrate.Verify(ctx, pool, "mailer", Migrations())
}

// channel is what Enqueue notifies and Wait listens on.
const channel = "mailer_outbox"

// listeners is the advisory lock that tells a transaction whether anybody
// listens: those that enqueue share it until they end, a listener has it for
// itself.
const listeners = "1299146092, 1"

// hint notifies those who listen, if there are any. NOTIFY makes transactions
// commit one after the other in the whole cluster, so that it is left out while
// all workers are busy: they look again by themselves.
const hint = `case when pg_try_advisory_xact_lock_shared(` + listeners + `) then '' else pg_notify('` + channel + `', '')::text end`

// errNoPool sends the worker to its poll.
var errNoPool = errors.New("mailerpg: waiting for a notification needs a pool")

// While the lock can't be had, the outbox is looked at after firstLook, then
// half as often each time, down to lastLook.
const firstLook, lastLook = 10 * time.Millisecond, 100 * time.Millisecond

// Wait implements mailer.Waiter with LISTEN. It borrows a connection of the
// pool for as long.
//
// It misses no mail: it looks once more when it has the lock, which is after all
// transactions that have enqueued without a notification, and those that come
// later notify. Without the lock, which another listener has or a transaction
// that has not ended, it looks again and again.
func (s *Store) Wait(ctx context.Context, atMost time.Duration, look func(context.Context) bool) error {
	pool, ok := s.db.(*pgxpool.Pool)
	if !ok {
		return errNoPool
	}
	until, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	conn, err := pool.Acquire(until)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(until, "listen "+channel); err != nil {
		return err
	}
	alone, err := listen(until, conn.Conn(), look)
	end := "unlisten " + channel
	if alone {
		end += "; select pg_advisory_unlock(" + listeners + ")"
	}
	if _, endErr := conn.Exec(context.WithoutCancel(ctx), end, pgx.QueryExecModeSimpleProtocol); endErr != nil {
		return endErr
	}
	if until.Err() != nil {
		return nil // time is up: that is an answer
	}
	return err
}

// listen returns when look has found mail or there was a notification, and
// whether it has the lock.
func listen(ctx context.Context, conn *pgx.Conn, look func(context.Context) bool) (alone bool, err error) {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		if err := conn.QueryRow(ctx, "select pg_try_advisory_lock("+listeners+")").Scan(&alone); err != nil {
			return false, err
		}
		if look(ctx) {
			return alone, nil
		}
		step, cancel := ctx, context.CancelFunc(func() {})
		if !alone {
			step, cancel = context.WithTimeout(ctx, pause)
		}
		_, err := conn.WaitForNotification(step)
		again := step.Err() != nil && ctx.Err() == nil
		cancel()
		if !again {
			return alone, err
		}
	}
}
