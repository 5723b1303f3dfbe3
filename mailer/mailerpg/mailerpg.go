// Package mailerpg keeps the outbox of package mailer in PostgreSQL (12 or
// later).
//
//	if err := mailerpg.Migrate(ctx, pool); err != nil { … }
//	mails, err := mailer.New(mailerpg.New(pool), transport, cfg)
//
// A store made of a transaction writes in it: the mail exists if the
// transaction commits. Several processes may work on one outbox.
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
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Store implements mailer.Store, and mailer.Waiter on a pool. It is as safe
// for concurrent use as its DB.
type Store struct{ db DB }

var (
	_ mailer.Store  = (*Store)(nil)
	_ mailer.Waiter = (*Store)(nil)
)

// New returns a store on a pool, a connection or a transaction.
func New(db DB) *Store { return &Store{db} }

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

// errNoPool sends the worker to its poll.
var errNoPool = errors.New("mailerpg: waiting for a notification needs a pool")

// Wait implements mailer.Waiter with LISTEN. It borrows a connection of the
// pool for as long.
func (s *Store) Wait(ctx context.Context, atMost time.Duration) error {
	pool, ok := s.db.(*pgxpool.Pool)
	if !ok {
		return errNoPool
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return err
	}
	_, err = conn.Conn().WaitForNotification(ctx)
	if _, unlistenErr := conn.Exec(context.WithoutCancel(ctx), "unlisten "+channel); unlistenErr != nil {
		return unlistenErr
	}
	if ctx.Err() != nil {
		return nil // time is up: that is an answer
	}
	return err
}
