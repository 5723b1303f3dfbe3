package apikeysredis_test

import (
	"bytes"
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

// TestProcessesShareWhatTheyHaveRead verifies in one process what another has
// read, revokes it there, and kills the server.
func TestProcessesShareWhatTheyHaveRead(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		_, client := redistest.Mini(t)
		share(t, client)
	})
	t.Run("redis", func(t *testing.T) { share(t, redistest.Client(t)) })
	t.Run("cluster", func(t *testing.T) { share(t, redistest.Cluster(t)) })
	t.Run("killed", func(t *testing.T) {
		server := redistest.Server(t, services.RedisConfig{})
		opts, err := redis.ParseURL(server.URL())
		require.NoError(t, err)
		client := redis.NewClient(opts)
		defer func() { require.NoError(t, client.Close()) }()
		s, token := share(t, client)
		require.NoError(t, server.Kill())
		d, err := s.Verify(ctx, token, apikeys.Client{})
		require.NoError(t, err)
		require.True(t, d.Allowed(), "the store is asked instead")
	})
}

// share returns a service on the cache that hasn't seen the token, which is good.
func share(t *testing.T, client redis.UniversalClient) (*apikeys.Service, string) {
	store, prefix := apikeysmem.New(), redistest.Prefix()
	process := func() *apikeys.Service {
		s, err := apikeys.New(store, apikeys.Config{
			Prefix: "acme", MaxKeys: -1, Peppers: []apikeys.Pepper{{ID: 1, Secret: bytes.Repeat([]byte("p"), 32)}},
			Shared: apikeysredis.NewCache(client, apikeysredis.CacheConfig{Prefix: prefix}),
		})
		require.NoError(t, err)
		require.NoError(t, s.Sync(ctx))
		return s
	}
	a := process()
	token, k, err := a.Issue(ctx, op, apikeys.NewKey{Owner: apikeys.Account("a"), Name: "n", Scopes: []string{"read"}})
	require.NoError(t, err)
	require.NoError(t, a.Sync(ctx))
	allowed := func(s *apikeys.Service) bool {
		d, err := s.Verify(ctx, token.Reveal(), apikeys.Client{})
		require.NoError(t, err)
		return d.Allowed()
	}
	require.True(t, allowed(a))
	b := process()
	require.True(t, allowed(b))
	require.EqualValues(t, 1, b.Stats().SharedHits)
	require.Zero(t, b.Stats().Lookups)
	require.NoError(t, a.Revoke(ctx, op, k.ID, ""))
	require.False(t, allowed(a))
	require.NoError(t, b.Sync(ctx))
	require.False(t, allowed(b))
	require.False(t, allowed(process()))

	token, _, err = a.Issue(ctx, op, apikeys.NewKey{Owner: apikeys.Account("a"), Name: "n"})
	require.NoError(t, err)
	return process(), token.Reveal()
}
