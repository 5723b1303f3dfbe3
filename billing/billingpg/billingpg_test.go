package billingpg_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/billing"
	"github.com/kolekt/commerce/billing/billingpg"
	"github.com/kolekt/commerce/billing/billingtest"
	"github.com/kolekt/commerce/internal/pgtest"
)

var (
	_ billingpg.DB = (*pgxpool.Pool)(nil)
	_ billingpg.DB = (*pgx.Conn)(nil)
	_ billingpg.DB = pgx.Tx(nil)
)

func newStore(t *testing.T) billing.Store {
	pool := pgtest.Pool(t)
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	return billingpg.New(pool)
}

func TestStore(t *testing.T) {
	billingtest.TestStore(t, newStore)
}

func TestMigrateIsRepeatableAndVerified(t *testing.T) {
	pool := pgtest.Pool(t)
	require.Error(t, billingpg.Verify(t.Context(), pool))
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	require.NoError(t, billingpg.Migrate(t.Context(), pool))
	require.NoError(t, billingpg.Verify(t.Context(), pool))
}

func TestAWriteJoinsTheCallersTransaction(t *testing.T) {
	pool := pgtest.Pool(t)
	ctx := t.Context()
	require.NoError(t, billingpg.Migrate(ctx, pool))
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, billingpg.New(tx).Save(ctx, billing.Change{Account: billing.Account{ID: "alice"}}))
	require.NoError(t, tx.Rollback(ctx))
	a, err := billingpg.New(pool).Account(ctx, "alice")
	require.NoError(t, err)
	require.Zero(t, a.Version)
}

func TestEveryOrderOfEventsConverges(t *testing.T) {
	size := billingtest.Convergence{Every: 24, Batch: 360}
	if os.Getenv("COMMERCE_PROVE") != "" {
		size.Every = 1
	}
	billingtest.TestConvergence(t, newStore, size)
}
