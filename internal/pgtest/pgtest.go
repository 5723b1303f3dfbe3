// Package pgtest gives each test a PostgreSQL schema of its own.
//
// The server is the one that DATABASE_URL names; without it, a throw-away
// server from local binaries, one for each test binary. Where neither is to be
// had, the test is skipped by name, and fails under CI=true.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/services"
)

var shared = sync.OnceValues(func() (string, error) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, nil
	}
	// Never closed: it dies with the test binary, as its parent.
	p, err := services.StartPostgres(services.PostgresConfig{})
	if err != nil {
		return "", err
	}
	return p.URL(), nil
})

// Pool returns a pool whose connections see an empty schema, made for this
// test and dropped after it.
func Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	url, err := shared()
	if err != nil {
		Missing(t, err)
	}
	return PoolOn(t, url)
}

// PoolOn is Pool on the server with the given connection string.
func PoolOn(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	schema := "test_" + strings.ToLower(rand.Text()[:16])
	ctx := context.Background()
	exec(t, url, "create schema "+schema)
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	cfg.ConnConfig.RuntimeParams["search_path"] = schema
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		pool.Close()
		exec(t, url, "drop schema "+schema+" cascade")
	})
	return pool
}

// URL returns a connection string whose sessions see an empty schema, for
// tests that start other processes.
func URL(t testing.TB) string {
	t.Helper()
	pool := Pool(t)
	cfg := pool.Config().ConnConfig
	base, err := shared()
	if err != nil {
		Missing(t, err)
	}
	sep := "?"
	if strings.Contains(base, "?") {
		sep = "&"
	}
	return base + sep + "search_path=" + cfg.RuntimeParams["search_path"]
}

// Server starts a server for this test alone, which the test may kill.
func Server(t testing.TB, cfg services.PostgresConfig) *services.Postgres {
	t.Helper()
	p, err := services.StartPostgres(cfg)
	if err != nil {
		Missing(t, err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return p
}

// Missing skips the test because a server is missing, or fails it under
// CI=true or for any other error.
func Missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, services.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skipf("skipped, no server: %v", err)
	}
	t.Fatalf("%v", err)
}

func exec(t testing.TB, url, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Errorf("pgtest: %v", err)
		return
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Errorf("pgtest: %s: %v", sql, err)
	}
}
