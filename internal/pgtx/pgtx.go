// Package pgtx is what stores on PostgreSQL share: a transaction around a
// function, and instants that may be null.
package pgtx

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beginner is what *pgxpool.Pool, *pgx.Conn and pgx.Tx have in common; of a
// transaction it begins a savepoint.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Do runs a function in a transaction, which is committed when the function
// returns nil and rolled back otherwise. The function's error is returned as it
// is; the database's is prefixed with the name of the store.
func Do(ctx context.Context, db Beginner, store string, do func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", store, err)
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx)) // the connection is given up if it fails
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("%s: %w", store, err)
	}
	return nil
}

// Null returns an instant as an argument: the zero one is null.
func Null(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Instant returns an instant from a column, in UTC: null is the zero one.
func Instant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
