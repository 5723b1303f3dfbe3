// Package redistest gives tests a Redis: miniredis in the process, a real
// server, or a cluster of six.
//
// The real server is the one that REDIS_URL names; without it, a throw-away
// server from local binaries, one for each test binary. Where neither is to be
// had, the test is skipped by name, and fails under CI=true.
package redistest

import (
	"context"
	"crypto/rand"
	"os"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
)

var shared = sync.OnceValues(func() (string, error) {
	if url := os.Getenv("REDIS_URL"); url != "" {
		return url, nil
	}
	// Never closed: it dies with the test binary, as its parent.
	r, err := services.StartRedis(services.RedisConfig{})
	if err != nil {
		return "", err
	}
	return r.URL(), nil
})

// Client returns a client of the shared real server. Tests keep apart by
// Prefix.
func Client(t testing.TB) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(URL(t))
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	client := redis.NewClient(opts)
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Ping(context.Background()).Err(); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return client
}

// URL returns the connection string of the shared real server.
func URL(t testing.TB) string {
	t.Helper()
	url, err := shared()
	if err != nil {
		pgtest.Missing(t, err)
	}
	return url
}

// Prefix returns a key prefix that no other test uses.
func Prefix() string { return "test:" + rand.Text()[:12] + ":" }

// Mini returns a miniredis and a client of it. Its keys expire only by
// FastForward, and its clock stands still after SetTime.
func Mini(t testing.TB) (*miniredis.Miniredis, *redis.Client) {
	t.Helper()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	return server, client
}

// Server starts a server for this test alone, which the test may kill or
// freeze.
func Server(t testing.TB, cfg services.RedisConfig) *services.Redis {
	t.Helper()
	r, err := services.StartRedis(cfg)
	if err != nil {
		pgtest.Missing(t, err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("redistest: %v", err)
		}
	})
	return r
}

// Cluster starts a Redis Cluster of six nodes for this test and returns a
// client of it.
func Cluster(t testing.TB) *redis.ClusterClient {
	t.Helper()
	addrs, _, closeAll, err := services.StartRedisCluster()
	if err != nil {
		pgtest.Missing(t, err)
	}
	t.Cleanup(func() {
		if err := closeAll(); err != nil {
			t.Errorf("redistest: %v", err)
		}
	})
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = client.Close() })
	return client
}
