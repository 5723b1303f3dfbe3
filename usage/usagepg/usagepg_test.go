package usagepg_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
	"github.com/kolekt/commerce/usage/usagetest"
)

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, usagepg.Migrate(t.Context(), pool))
	return pool
}

func TestStore(t *testing.T) {
	usagetest.TestStore(t, func(t *testing.T) usage.Store { return usagepg.New(migrated(t)) })
}
