package ratelimitredis_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
	"github.com/kolekt/commerce/ratelimit/ratelimittest"
)

func TestStoreOnMiniredis(t *testing.T) {
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		server, client := redistest.Mini(t)
		store, err := ratelimitredis.New(client, ratelimitredis.Config{})
		require.NoError(t, err)
		return ratelimittest.Harness{Store: store, SetNow: server.SetTime}
	})
}

func TestStoreOnRedis(t *testing.T) {
	client := redistest.Client(t)
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		store, err := ratelimitredis.New(client, ratelimitredis.Config{Prefix: redistest.Prefix()})
		require.NoError(t, err)
		return ratelimittest.Harness{Store: store}
	})
}

func TestStoreOnACluster(t *testing.T) {
	client := redistest.Cluster(t)
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		store, err := ratelimitredis.New(client, ratelimitredis.Config{Prefix: redistest.Prefix()})
		require.NoError(t, err)
		return ratelimittest.Harness{Store: store}
	})
}
