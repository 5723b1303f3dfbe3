package pgtx_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/pgtx"
)

func TestDoCommitsOrRollsBack(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	_, err := pool.Exec(ctx, `create table t (n int)`)
	require.NoError(t, err)
	insert := func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `insert into t values (1)`)
		return err
	}
	rows := func() (n int) {
		require.NoError(t, pool.QueryRow(ctx, `select count(*) from t`).Scan(&n))
		return n
	}
	require.NoError(t, pgtx.Do(ctx, pool, "store", insert))
	require.Equal(t, 1, rows())
	no := errors.New("no")
	require.Equal(t, no, pgtx.Do(ctx, pool, "store", func(tx pgx.Tx) error {
		require.NoError(t, insert(tx))
		return no
	}))
	require.Equal(t, 1, rows())

	// Cancelled within, it is rolled back and the connection goes on.
	cancelled, cancel := context.WithCancel(ctx)
	require.Error(t, pgtx.Do(cancelled, pool, "store", func(tx pgx.Tx) error {
		require.NoError(t, insert(tx))
		cancel()
		return nil
	}))
	require.Equal(t, 1, rows())
	require.ErrorContains(t, pgtx.Do(cancelled, pool, "store", insert), "store: ")

	// Within a transaction it is a savepoint.
	require.NoError(t, pgtx.Do(ctx, pool, "outer", func(tx pgx.Tx) error {
		require.Equal(t, no, pgtx.Do(ctx, tx, "inner", func(tx pgx.Tx) error {
			require.NoError(t, insert(tx))
			return no
		}))
		return insert(tx)
	}))
	require.Equal(t, 2, rows())
}

func TestInstants(t *testing.T) {
	require.Nil(t, pgtx.Null(time.Time{}))
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.FixedZone("", 3600))
	require.Equal(t, at, *pgtx.Null(at))
	require.Equal(t, at.UTC(), pgtx.Instant(&at))
	require.Zero(t, pgtx.Instant(nil))
}
