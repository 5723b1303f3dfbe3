package apikeysredis_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/apikeys"
	"github.com/kolekt/commerce/apikeys/apikeysmem"
	"github.com/kolekt/commerce/apikeys/apikeysredis"
	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
)

func TestMain(m *testing.M) {
	// The shared test server lives as long as the test binary.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/kolekt/commerce/internal/services.startProcess.func1"))
}

var (
	ctx = context.Background()
	op  = apikeys.Operator("op")
)

// node returns a service that hears of changes by the bus alone, and runs it.
func node(t *testing.T, store apikeys.Store, bus apikeys.Bus) *apikeys.Service {
	s, err := apikeys.New(store, apikeys.Config{
		Prefix: "acme", Bus: bus, PollInterval: time.Hour, MaxStaleness: time.Hour, LookupTimeout: 10 * time.Second, MaxKeys: -1,
	})
	require.NoError(t, err)
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Run(run) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return s
}

// requireNews revokes keys on a until b hears of one: until the subscription
// stands, news is lost.
func requireNews(t *testing.T, a, b *apikeys.Service) {
	t.Helper()
	require.Eventually(t, func() bool {
		token, k, err := a.Issue(ctx, op, apikeys.NewKey{Owner: apikeys.Account("a"), Name: "n"})
		require.NoError(t, err)
		d, err := b.Verify(ctx, token.Reveal(), apikeys.Client{})
		require.NoError(t, err)
		require.True(t, d.Allowed())
		require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
		for range 200 {
			d, err := b.Verify(ctx, token.Reveal(), apikeys.Client{})
			require.NoError(t, err)
			if !d.Allowed() {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}, time.Minute, time.Millisecond)
}

func TestNewsArrives(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		_, client := redistest.Mini(t)
		news(t, client)
	})
	t.Run("redis", func(t *testing.T) { news(t, redistest.Client(t)) })
	t.Run("cluster", func(t *testing.T) { news(t, redistest.Cluster(t)) })
}

func news(t *testing.T, client redis.UniversalClient) {
	bus := apikeysredis.NewBus(client, apikeysredis.Config{Channel: redistest.Prefix()})
	store := apikeysmem.New()
	a, b := node(t, store, bus), node(t, store, bus)
	requireNews(t, a, b)
}

// TestNewsArrivesAfterTheServerWasKilled loses the server and finds it again.
func TestNewsArrivesAfterTheServerWasKilled(t *testing.T) {
	server := redistest.Server(t, services.RedisConfig{})
	opts, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	client := redis.NewClient(opts)
	defer func() { require.NoError(t, client.Close()) }()
	bus := apikeysredis.NewBus(client, apikeysredis.Config{})
	store := apikeysmem.New()
	a, b := node(t, store, bus), node(t, store, bus)
	requireNews(t, a, b)
	require.NoError(t, server.Kill())
	require.Error(t, bus.Announce(ctx))
	_, _, err = a.Issue(ctx, op, apikeys.NewKey{Owner: apikeys.Account("a"), Name: "n"})
	require.NoError(t, err, "a change doesn't depend on the bus")
	require.NoError(t, server.Start())
	requireNews(t, a, b)
}
