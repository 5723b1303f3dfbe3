package ratelimitredis_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("RATELIMIT_TEST_PROCESS"); url != "" {
		if err := process(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The shared server's process is waited for until the binary ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/kolekt/commerce/internal/services.startProcess.func1"))
}

func newStore(t testing.TB, client redis.UniversalClient, cfg ratelimitredis.Config) *ratelimitredis.Store {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = redistest.Prefix()
	}
	store, err := ratelimitredis.New(client, cfg)
	require.NoError(t, err)
	return store
}

func newLimiter(t testing.TB, store ratelimit.Store) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(store, ratelimit.Config{})
	require.NoError(t, err)
	return l
}

func newPlan(t testing.TB, windows ...ratelimit.Window) *ratelimit.Plan {
	t.Helper()
	p, err := ratelimit.NewPlan("p", windows...)
	require.NoError(t, err)
	return p
}

// clients are the kinds of Redis that decisions are grouped for in different
// ways.
func clients(t *testing.T) map[string]redis.UniversalClient {
	_, mini := redistest.Mini(t)
	return map[string]redis.UniversalClient{
		"miniredis": mini,
		"redis":     redistest.Client(t),
		"cluster":   redistest.Cluster(t),
	}
}

// Enough callers that decisions travel in batches, with equal ones, different
// costs, plans and peeks in the same batch.
func TestBatchesAdmitExactlyTheLimit(t *testing.T) {
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			l := newLimiter(t, newStore(t, client, ratelimitredis.Config{}))
			a := newPlan(t, ratelimit.PerHour(1).WithBurst(400), ratelimit.PerMonth(300))
			b := newPlan(t, ratelimit.PerMonth(300), ratelimit.Strict("strict", 350, time.Hour))
			s := newPlan(t, ratelimit.PerMonth(300), ratelimit.PerDay(3).WithShadow())
			const keys = 3
			var admitted [keys]atomic.Int64
			var seen [keys][301]atomic.Int64
			var wg sync.WaitGroup
			for g := range 64 {
				wg.Go(func() {
					for i := range 30 {
						k := (g + i) % keys
						p, cost, window := a, int64(1), 1
						switch g % 8 {
						case 1:
							p, window = b, 0
						case 2:
							cost = 2
						case 3:
							p, window = s, 0
						case 4:
							if _, err := l.Peek(context.Background(), fmt.Sprint("k", k), a, 1); err != nil {
								t.Error(err)
							}
						}
						d, err := l.Allow(context.Background(), fmt.Sprint("k", k), p, cost)
						if err != nil {
							t.Error(err)
							return
						}
						if d.Allowed() {
							admitted[k].Add(cost)
							seen[k][d.Window(window).Remaining].Add(1)
						}
					}
				})
			}
			wg.Wait()
			for k := range admitted {
				require.EqualValues(t, 300, admitted[k].Load(), "of about 660 units asked of key %d", k)
				for left := range seen[k] {
					require.LessOrEqual(t, seen[k][left].Load(), int64(1), "two requests saw %d left of key %d", left, k)
				}
			}
		})
	}
}

// A server that has restarted doesn't know the script: single decisions,
// batches and pipelines all teach it.
func TestAForgottenScriptIsSentAgain(t *testing.T) {
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			l := newLimiter(t, newStore(t, client, ratelimitredis.Config{}))
			p := newPlan(t, ratelimit.PerMonth(1_000_000))
			forget := func() {
				if c, ok := client.(*redis.ClusterClient); ok {
					require.NoError(t, c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return c.ScriptFlush(ctx).Err() }))
					return
				}
				require.NoError(t, client.ScriptFlush(ctx).Err())
			}
			taken := int64(0)
			for range 3 {
				forget()
				_, err := l.Allow(ctx, "k0", p, 1)
				require.NoError(t, err)
				forget()
				var wg sync.WaitGroup
				for g := range 64 {
					wg.Go(func() {
						if _, err := l.Allow(ctx, fmt.Sprint("k", g%16), p, 1); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				taken += 5
			}
			d, err := l.Peek(ctx, "k0", p, 1)
			require.NoError(t, err)
			require.Equal(t, 1_000_000-taken, d.Window(0).Remaining, "each once")
			forget()
			lease, err := l.Acquire(ctx, "k", ratelimit.Concurrency{Limit: 1})
			require.NoError(t, err)
			forget()
			require.NoError(t, lease.Release(ctx))
		})
	}
}

// Every key has a time to live, and none outlives what it holds.
func TestKeysExpire(t *testing.T) {
	ctx := context.Background()
	client := redistest.Client(t)
	prefix := redistest.Prefix()
	l := newLimiter(t, newStore(t, client, ratelimitredis.Config{Prefix: prefix}))
	for name, c := range map[string]struct {
		plan *ratelimit.Plan
		most time.Duration
	}{
		"bucket":  {newPlan(t, ratelimit.PerMinute(60)), 2 * time.Second},
		"rolling": {newPlan(t, ratelimit.Strict("strict", 60, 8*time.Second)), 10 * time.Second},
		"both":    {newPlan(t, ratelimit.PerMinute(60), ratelimit.PerMonth(60)), 32 * 24 * time.Hour},
	} {
		_, err := l.Allow(ctx, name, c.plan, 1)
		require.NoError(t, err)
		ttl, err := client.PTTL(ctx, prefix+"s:default:"+name).Result()
		require.NoError(t, err)
		require.Positive(t, ttl, name)
		require.LessOrEqual(t, ttl, c.most, name)
	}
	_, err := l.Acquire(ctx, "lease", ratelimit.Concurrency{Limit: 1, TTL: time.Minute})
	require.NoError(t, err)
	ttl, err := client.PTTL(ctx, prefix+"c:default:lease").Result()
	require.NoError(t, err)
	require.Positive(t, ttl)
	require.LessOrEqual(t, ttl, time.Minute+time.Second)

	refused := newPlan(t, ratelimit.PerMonth(0))
	_, err = l.Allow(ctx, "refused", refused, 1)
	require.NoError(t, err)
	n, err := client.Exists(ctx, prefix+"s:default:refused").Result()
	require.NoError(t, err)
	require.Zero(t, n, "a refusal writes nothing")
}

// What a key holds doesn't grow with what is done to it.
func TestAKeyKeepsItsSize(t *testing.T) {
	ctx := context.Background()
	client := redistest.Client(t)
	prefix := redistest.Prefix()
	l := newLimiter(t, newStore(t, client, ratelimitredis.Config{Prefix: prefix}))
	a := newPlan(t, ratelimit.PerHour(1_000_000), ratelimit.PerMonth(1_000_000))
	b := newPlan(t, ratelimit.PerMonth(1_000_000), ratelimit.PerHour(1_000_000))
	size := int64(0)
	for i := range 200 {
		p := a
		if i%10 == 9 {
			p = b // the order of windows doesn't matter
		}
		_, err := l.Allow(ctx, "k", p, 1)
		require.NoError(t, err)
		n, err := client.StrLen(ctx, prefix+"s:default:k").Result()
		require.NoError(t, err)
		if size == 0 {
			size = n
		}
		require.Equal(t, size, n, "after %d decisions", i+1)
	}
	require.EqualValues(t, 48, size, "a count, two IDs, an instant, a count and an end")
}

// Several processes take ahead of the same key and never admit more than its
// limit; what they don't spend comes back.
func TestTakingAheadNeverAdmitsTooMany(t *testing.T) {
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			prefix := redistest.Prefix()
			p := newPlan(t, ratelimit.PerHour(1).WithBurst(5000), ratelimit.PerMonth(4000), ratelimit.Strict("strict", 6000, time.Hour))
			var admitted atomic.Int64
			seen := make([]atomic.Int64, 4001)
			var wg sync.WaitGroup
			for range 3 {
				l := newLimiter(t, newStore(t, client, ratelimitredis.Config{Prefix: prefix, AheadTTL: time.Hour, MaxAhead: 100}))
				for range 32 {
					wg.Go(func() {
						for range 60 {
							d, err := l.Allow(ctx, "hot", p, 1)
							if err != nil {
								t.Error(err)
								return
							}
							if d.Allowed() {
								admitted.Add(1)
								seen[d.Window(1).Remaining].Add(1)
							}
						}
					})
				}
			}
			wg.Wait()
			n := admitted.Load()
			require.LessOrEqual(t, n, int64(4000), "of 5760 requests against a limit of 4000")
			require.GreaterOrEqual(t, n, int64(4000-3*200), "what is held ahead is all that may be missing")
			for left := range seen {
				require.LessOrEqual(t, seen[left].Load(), int64(1), "two requests saw %d left", left)
			}
		})
	}
}

func TestWhatWasTakenAheadIsGivenBack(t *testing.T) {
	ctx := context.Background()
	client := redistest.Client(t)
	store := newStore(t, client, ratelimitredis.Config{AheadTTL: time.Nanosecond})
	l := newLimiter(t, store)
	p := newPlan(t, ratelimit.PerMonth(1_000_000))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 30 {
				if _, err := l.Allow(ctx, "hot", p, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d, err := l.Allow(ctx, "hot", p, 1) // finds what is too old
	require.NoError(t, err)
	require.LessOrEqual(t, d.Window(0).Remaining, int64(1_000_000-64*30-1), "nothing was given back twice")
	_, err = l.Reset(ctx, "hot")
	require.NoError(t, err)
	d, err = l.Peek(ctx, "hot", p, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1_000_000, d.Window(0).Remaining)
}

// A flood of refused requests reaches Redis once; whatever could let the key
// pass asks it again.
func TestDenialsAreRemembered(t *testing.T) {
	ctx := context.Background()
	server, client := redistest.Mini(t)
	store := newStore(t, client, ratelimitredis.Config{DenialTTL: time.Hour, MaxDenials: 10})
	l := newLimiter(t, store)
	p := newPlan(t, ratelimit.PerHour(3), ratelimit.PerMonth(5))
	allow := func(cost int64, key string, p *ratelimit.Plan) *ratelimit.Decision {
		d, err := l.Allow(ctx, key, p, cost)
		require.NoError(t, err)
		return &d
	}
	first := allow(3, "k", p)
	require.True(t, first.Allowed())
	refused := allow(1, "k", p)
	require.False(t, refused.Allowed())
	asked := server.TotalConnectionCount() + server.CommandCount()
	for range 100 {
		d := allow(1, "k", p)
		require.False(t, d.Allowed())
		require.Equal(t, "hour", d.Violated())
		require.LessOrEqual(t, d.RetryAfter(), refused.RetryAfter())
		require.Positive(t, d.RetryAfter())
		require.EqualValues(t, 2, d.Window(1).Remaining)
	}
	require.Equal(t, asked, server.TotalConnectionCount()+server.CommandCount(), "no command for 100 refusals")
	require.False(t, allow(2, "k", p).Allowed(), "another cost asks")
	require.Greater(t, server.TotalConnectionCount()+server.CommandCount(), asked)
	require.True(t, allow(1, "k", newPlan(t, ratelimit.PerMonth(5))).Allowed(), "another plan asks")
	require.True(t, allow(1, "other", p).Allowed())

	require.False(t, allow(1, "k", p).Allowed())
	require.NoError(t, l.Refund(ctx, "k", *first))
	require.True(t, allow(1, "k", p).Allowed(), "after a refund")
	require.True(t, allow(2, "k", p).Allowed())
	require.False(t, allow(1, "k", p).Allowed())
	_, err := l.Reset(ctx, "k")
	require.NoError(t, err)
	require.True(t, allow(1, "k", p).Allowed(), "after a reset")
	for i := range 100 { // more than are remembered
		require.False(t, allow(4, fmt.Sprint("flood-", i), p).Allowed())
	}
}

// A server that hangs holds nobody longer than his context, and all goroutines
// end once it goes on.
func TestCallersOfAHungServerLeaveWithTheirContext(t *testing.T) {
	server := redistest.Server(t, services.RedisConfig{})
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	store := newStore(t, client, ratelimitredis.Config{Timeout: 100 * time.Millisecond})
	require.True(t, store.HonoursContext())
	l := newLimiter(t, store)
	p := newPlan(t, ratelimit.PerMonth(10))
	_, err := l.Allow(context.Background(), "k", p, 1)
	require.NoError(t, err)
	require.NoError(t, server.Freeze())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if _, err := l.Allow(ctx, "k", p, 1); err == nil {
				t.Error("a frozen server answered")
			}
		})
	}
	wg.Wait()
	require.NoError(t, server.Thaw())
	require.Eventually(t, func() bool {
		_, err := l.Peek(context.Background(), "k", p, 1)
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

// While the server is stopped, a month goes on from what is known of it; the
// control, a process that has just begun, starts from nothing.
func TestAMonthGoesOnWhileTheServerIsStopped(t *testing.T) {
	server := redistest.Server(t, services.RedisConfig{})
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	ctx := context.Background()
	plan := newPlan(t, ratelimit.PerMinute(1000), ratelimit.PerMonth(100))
	prefix := redistest.Prefix()
	instance := func() *ratelimit.Limiter {
		g, err := ratelimit.NewGuard(newStore(t, client, ratelimitredis.Config{Prefix: prefix}), ratelimitmem.New(ratelimitmem.Config{}),
			ratelimit.GuardConfig{Budget: time.Second, Misses: 1, Probe: time.Hour})
		require.NoError(t, err)
		return newLimiter(t, g)
	}
	take := func(l *ratelimit.Limiter, n int) (admitted int, source ratelimit.Source) {
		for range n {
			d, err := l.Allow(ctx, "k", plan, 1)
			require.NoError(t, err)
			if source = d.Source(); d.Allowed() {
				admitted++
			}
		}
		return admitted, source
	}
	one, control := instance(), instance()
	admitted, source := take(one, 70)
	require.Equal(t, 70, admitted)
	require.Equal(t, ratelimit.FromStore, source)

	server.Freeze()
	defer server.Thaw()
	admitted, source = take(one, 200)
	require.Equal(t, ratelimit.FromLocal, source)
	require.Equal(t, 30, admitted)
	admitted, _ = take(control, 200)
	require.Equal(t, 100, admitted, "it hadn't asked about the key")
}

// A server that dies under a batch answers every caller in it.
func TestABatchThatFailsTellsAllItsCallers(t *testing.T) {
	server := redistest.Server(t, services.RedisConfig{})
	single := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DialerRetries: 1})
	defer single.Close()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": server.Addr()}, MaxRetries: -1})
	defer ring.Close()
	p := newPlan(t, ratelimit.PerMonth(1_000_000))
	limiters := []*ratelimit.Limiter{
		newLimiter(t, newStore(t, single, ratelimitredis.Config{})),
		newLimiter(t, newStore(t, ring, ratelimitredis.Config{})),
	}
	for _, l := range limiters {
		_, err := l.Allow(context.Background(), "k", p, 1)
		require.NoError(t, err)
	}
	require.NoError(t, server.Kill())
	for _, l := range limiters {
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				if _, err := l.Allow(context.Background(), fmt.Sprint("k", g%4), p, 1); !errors.Is(err, ratelimit.ErrUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
	}
}

func TestErrorsSayThatNobodyKnows(t *testing.T) {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	store := newStore(t, client, ratelimitredis.Config{})
	require.False(t, store.HonoursContext())
	l := newLimiter(t, store)
	p := newPlan(t, ratelimit.PerMonth(10))
	_, err := l.Allow(ctx, "k", p, 1)
	require.ErrorIs(t, err, ratelimit.ErrUnavailable)
	_, err = l.Reset(ctx, "k")
	require.ErrorIs(t, err, ratelimit.ErrUnavailable)
	require.ErrorIs(t, l.ExportSubject(ctx, "k", nil), ratelimit.ErrUnavailable)
	lease, err := l.Acquire(ctx, "k", ratelimit.Concurrency{Limit: 1})
	require.ErrorIs(t, err, ratelimit.ErrUnavailable)
	require.Nil(t, lease)
	_, err = store.Release(ctx, "s", "k", "id")
	require.ErrorIs(t, err, ratelimit.ErrUnavailable)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = l.Allow(gone, "k", p, 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAForeignValueIsAnError(t *testing.T) {
	ctx := context.Background()
	client := redistest.Client(t)
	prefix := redistest.Prefix()
	l := newLimiter(t, newStore(t, client, ratelimitredis.Config{Prefix: prefix}))
	for _, v := range []string{"", "x", "12345678", "2 1", "1 1", "1 7 1", "9999999999"} {
		require.NoError(t, client.Set(ctx, prefix+"s:default:k", v, time.Minute).Err())
		require.ErrorContains(t, l.ExportSubject(ctx, "k", func(string, map[string]any) error { return nil }), "a Prefix of its own", "%q", v)
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := ratelimitredis.New(nil, ratelimitredis.Config{})
	require.ErrorContains(t, err, "needs a client")
	_, client := redistest.Mini(t)
	_, err = ratelimitredis.New(client, ratelimitredis.Config{Timeout: -1})
	require.ErrorContains(t, err, "Config.Timeout")
	_, err = newStore(t, client, ratelimitredis.Config{}).Prepare("s", newPlan(t))
	require.ErrorContains(t, err, "a plan with a window")
}

// process is one of the processes of TestProcessesNeverAdmitTooMany: it asks as
// often and as fast as it can and prints how often it was admitted.
func process(url string) error {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	client := redis.NewClient(opts)
	defer client.Close()
	store, err := ratelimitredis.New(client, ratelimitredis.Config{Prefix: os.Getenv("RATELIMIT_TEST_PREFIX")})
	if err != nil {
		return err
	}
	l, err := ratelimit.New(store, ratelimit.Config{})
	if err != nil {
		return err
	}
	p, err := ratelimit.NewPlan("p", ratelimit.PerHour(1).WithBurst(100_000), ratelimit.PerMonth(50_000))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv("RATELIMIT_TEST_REQUESTS"))
	if err != nil {
		return err
	}
	var admitted atomic.Int64
	errs := make(chan error, 64)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range n / 64 {
				d, err := l.Allow(context.Background(), "one", p, 1)
				if err != nil {
					errs <- err
					return
				}
				if d.Allowed() {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		fmt.Println("admitted", admitted.Load())
		return nil
	}
}

// Under COMMERCE_PROVE, 8 processes ask a million times each.
func TestProcessesNeverAdmitTooMany(t *testing.T) {
	processes, requests := 4, 20_000
	if os.Getenv("COMMERCE_PROVE") == "1" {
		processes, requests = 8, 1_000_000
	}
	url, prefix := redistest.URL(t), redistest.Prefix()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "RATELIMIT_TEST_PROCESS="+url, "RATELIMIT_TEST_PREFIX="+prefix, "RATELIMIT_TEST_REQUESTS="+strconv.Itoa(requests))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
			for lines := bufio.NewScanner(strings.NewReader(string(out))); lines.Scan(); {
				var n int64
				if _, err := fmt.Sscanf(lines.Text(), "admitted %d", &n); err == nil {
					admitted.Add(n)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 50_000, admitted.Load(), "of %d requests from %d processes", processes*requests, processes)
}
