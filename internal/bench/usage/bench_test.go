package usage_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/usage/usagepg"
)

// contender is one of the things that are measured beside each other.
type contender struct {
	name string
	do   func(ctx context.Context, worker, i int) error
	// done, when set, is run after each round and is part of its time.
	done func(ctx context.Context) error
	per  int // units of work in one call: 1 when zero
}

type figure struct {
	rates []float64 // work per second, one for each round
	p99s  []time.Duration
}

func (f figure) best() float64   { return slices.Max(f.rates) }
func (f figure) median() float64 { return middle(f.rates) }

func middle[T float64 | time.Duration](list []T) T {
	s := slices.Clone(list)
	slices.Sort(s)
	return s[len(s)/2]
}

// contest runs the contenders in turn, round by round, and prints their rates
// and the ratios to the first one, which is the floor.
func contest(b *testing.B, title string, workers, rounds int, d time.Duration, list ...contender) map[string]figure {
	b.Helper()
	figures := map[string]figure{}
	for range rounds {
		for _, c := range list {
			rate, p99 := round(b, c, workers, d)
			f := figures[c.name]
			f.rates, f.p99s = append(f.rates, rate), append(f.p99s, p99)
			figures[c.name] = f
		}
	}
	floor := figures[list[0].name]
	fmt.Fprintf(os.Stdout, "\n%s: %d callers, %d rounds of %v\n%-44s %12s %12s %10s %10s %8s %8s\n", title, workers, rounds, d,
		"", "best /s", "median /s", "p99 best", "p99 median", "best", "median")
	for _, c := range list {
		f := figures[c.name]
		fmt.Fprintf(os.Stdout, "%-44s %12.0f %12.0f %10v %10v %7.2fx %7.2fx\n", c.name, f.best(), f.median(),
			slices.Min(f.p99s).Round(10*time.Microsecond), middle(f.p99s).Round(10*time.Microsecond), f.best()/floor.best(), f.median()/floor.median())
	}
	last := list[len(list)-1]
	b.ReportMetric(figures[last.name].best()/floor.best(), "ratio")
	return figures
}

func round(b *testing.B, c contender, workers int, d time.Duration) (rate float64, p99 time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stop atomic.Bool
	var wg sync.WaitGroup
	took := make([][]time.Duration, workers)
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				at := time.Now()
				if err := c.do(ctx, w, i); err != nil {
					b.Error(c.name, err)
					return
				}
				took[w] = append(took[w], time.Since(at))
			}
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	if c.done != nil {
		if err := c.done(ctx); err != nil {
			b.Error(c.name, err)
		}
	}
	elapsed := time.Since(start)
	all := slices.Concat(took...)
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	if len(all) == 0 {
		b.Fatal(c.name, "did nothing")
	}
	return float64(len(all)*max(c.per, 1)) / elapsed.Seconds(), all[len(all)*99/100]
}

// durable starts a PostgreSQL that flushes each commit to disk.
func durable(b *testing.B, conns int32) *pgxpool.Pool {
	b.Helper()
	server := pgtest.Server(b, services.PostgresConfig{Durable: true, Settings: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "4GB", "autovacuum_naptime": "10s",
	}})
	cfg, err := pgxpool.ParseConfig(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	cfg.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	if err := usagepg.Migrate(context.Background(), pool); err != nil {
		b.Fatal(err)
	}
	return pool
}

func exec(b *testing.B, pool *pgxpool.Pool, sql string, args ...any) {
	b.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		b.Fatal(err)
	}
}
