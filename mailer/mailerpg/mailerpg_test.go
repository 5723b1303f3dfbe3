package mailerpg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/mailer"
	"github.com/kolekt/commerce/mailer/mailerpg"
	"github.com/kolekt/commerce/mailer/mailertest"
)

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, mailerpg.Migrate(context.Background(), pool))
	return pool
}

func TestStore(t *testing.T) {
	mailertest.TestStore(t, func(t *testing.T) mailer.Store { return mailerpg.New(migrated(t)) })
}

func TestMigrateCanBeRepeatedAndVerified(t *testing.T) {
	pool := pgtest.Pool(t)
	require.Error(t, mailerpg.Verify(context.Background(), pool))
	require.NoError(t, mailerpg.Migrate(context.Background(), pool))
	require.NoError(t, mailerpg.Migrate(context.Background(), pool))
	require.NoError(t, mailerpg.Verify(context.Background(), pool))
}
