package pgmigrate_test

import (
	"context"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/kolekt/commerce/internal/pgmigrate"
	"github.com/kolekt/commerce/internal/pgtest"
)

var files = fstest.MapFS{
	"001_a.sql": {Data: []byte("create table a (n int);")},
	"002_b.sql": {Data: []byte("create table b (n int); insert into b values (1);")},
}

func TestConcurrentMigrateAppliesEachFileOnce(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	require.ErrorIs(t, pgmigrate.Verify(ctx, pool, "demo", files), pgmigrate.ErrBehind)
	var g errgroup.Group
	for range 8 {
		g.Go(func() error { return pgmigrate.Migrate(ctx, pool, "demo", files) })
	}
	require.NoError(t, g.Wait())
	require.NoError(t, pgmigrate.Verify(ctx, pool, "demo", files))
	var n int
	require.NoError(t, pool.QueryRow(ctx, "select count(*) from b").Scan(&n))
	require.Equal(t, 1, n)
}

func TestFailedMigrationLeavesNothingOfItself(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	broken := fstest.MapFS{
		"001_a.sql": files["001_a.sql"],
		"002_b.sql": {Data: []byte("create table b (n int); select no_such_function();")},
	}
	require.ErrorContains(t, pgmigrate.Migrate(ctx, pool, "demo", broken), "no_such_function")
	var exists bool
	require.NoError(t, pool.QueryRow(ctx, "select to_regclass('b') is not null").Scan(&exists))
	require.False(t, exists)
	require.NoError(t, pgmigrate.Migrate(ctx, pool, "demo", files))
}

func TestTwoConcernsInOneSchemaKeepTheirOwnVersions(t *testing.T) {
	ctx := context.Background()
	pool := pgtest.Pool(t)
	require.NoError(t, pgmigrate.Migrate(ctx, pool, "one", files))
	other := fstest.MapFS{"001_c.sql": {Data: []byte("create table c (n int);")}}
	require.NoError(t, pgmigrate.Migrate(ctx, pool, "two", other))
	require.NoError(t, pgmigrate.Verify(ctx, pool, "two", other))
}
