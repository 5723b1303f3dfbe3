package gdprpg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/gdpr"
	"github.com/kolekt/commerce/gdpr/gdprpg"
	"github.com/kolekt/commerce/gdpr/gdprtest"
	"github.com/kolekt/commerce/internal/pgtest"
)

func migrated(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, gdprpg.Migrate(context.Background(), pool))
	return pool
}

func TestStore(t *testing.T) {
	gdprtest.TestStore(t, func(t *testing.T) gdpr.Store { return gdprpg.New(migrated(t)) })
}

func TestStoreJoinsTheCallersTransaction(t *testing.T) {
	ctx := context.Background()
	pool := migrated(t)
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, gdprpg.New(tx).AppendConsent(ctx, gdpr.ConsentEvent{ID: "c", SubjectRef: "ref"}))
	require.NoError(t, tx.Rollback(ctx))
	list, err := gdprpg.New(pool).Consents(ctx, "ref")
	require.NoError(t, err)
	require.Empty(t, list)
}
