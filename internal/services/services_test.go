package services_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
)

func TestKilledPostgresKeepsWhatItCommitted(t *testing.T) {
	ctx := context.Background()
	server := pgtest.Server(t, services.PostgresConfig{Durable: true})
	conn, err := pgx.Connect(ctx, server.URL())
	require.NoError(t, err)
	_, err = conn.Exec(ctx, "create table kept (n int); insert into kept values (1)")
	require.NoError(t, err)

	require.NoError(t, server.Kill())
	require.Error(t, conn.Ping(ctx), "a killed server answers nobody")
	require.NoError(t, server.Start())

	conn, err = pgx.Connect(ctx, server.URL())
	require.NoError(t, err)
	defer conn.Close(ctx)
	var n int
	require.NoError(t, conn.QueryRow(ctx, "select n from kept").Scan(&n))
	require.Equal(t, 1, n)
}

func TestKilledRedisKeepsWhatItAnswered(t *testing.T) {
	ctx := context.Background()
	server := redistest.Server(t, services.RedisConfig{Durable: true})
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	require.NoError(t, client.Set(ctx, "kept", 1, 0).Err())
	require.NoError(t, server.Kill())
	require.Error(t, client.Ping(ctx).Err())
	require.NoError(t, server.Start())
	n, err := client.Get(ctx, "kept").Int()
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestRedisClusterServesEverySlot(t *testing.T) {
	ctx := context.Background()
	client := redistest.Cluster(t)
	for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		require.NoError(t, client.Set(ctx, key, key, 0).Err())
		require.Equal(t, key, client.Get(ctx, key).Val())
	}
}
