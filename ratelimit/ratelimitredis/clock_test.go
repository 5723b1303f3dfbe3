package ratelimitredis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
	"github.com/kolekt/commerce/ratelimit/ratelimittest"
)

// movedClock is a client's hook that lets scripts read another clock than the
// server's, which a test can't move: TIME becomes two keys. Lives are made a
// thousand times longer, for it is still the server's clock that ends them.
type movedClock struct{ seconds, micros string }

func (c movedClock) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c movedClock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch cmd.Name() {
		case "evalsha":
			// So that the source comes along.
			cmd.SetErr(errors.New("NOSCRIPT of the test"))
			return cmd.Err()
		case "eval":
			source := cmd.Args()[1].(string)
			moved := strings.NewReplacer(
				"redis.call('TIME')", fmt.Sprintf("{redis.call('GET', '%s'), redis.call('GET', '%s')}", c.seconds, c.micros),
				"call('TIME')", fmt.Sprintf("{call('GET', '%s'), call('GET', '%s')}", c.seconds, c.micros),
				"'PX'", "'EX'", "'PEXPIRE'", "'EXPIRE'").Replace(source)
			if moved == source || strings.Contains(moved, "TIME'") {
				return errors.New("the script reads its time in a way that this hook doesn't know")
			}
			cmd.Args()[1] = moved
		case "time":
			get := func(key string) (int64, error) {
				get := redis.NewIntCmd(ctx, "get", key)
				err := next(ctx, get)
				return get.Val(), err
			}
			seconds, err1 := get(c.seconds)
			micros, err2 := get(c.micros)
			cmd.(*redis.TimeCmd).SetVal(time.Unix(seconds, micros*1000))
			return errors.Join(err1, err2)
		}
		return next(ctx, cmd)
	}
}

func (c movedClock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var errs []error
		for _, cmd := range cmds {
			errs = append(errs, c.ProcessHook(func(ctx context.Context, cmd redis.Cmder) error {
				return next(ctx, []redis.Cmder{cmd})
			})(ctx, cmd))
		}
		return errors.Join(errs...)
	}
}

// clocked returns a store on the real server, whose clock can be moved.
func clocked(t *testing.T) (store *ratelimitredis.Store, setNow func(time.Time)) {
	client, prefix := redistest.Client(t), redistest.Prefix()
	clock := movedClock{prefix + "seconds", prefix + "micros"}
	setter := redistest.Client(t)
	client.AddHook(clock)
	return newStore(t, client, ratelimitredis.Config{Prefix: prefix}), func(now time.Time) {
		require.NoError(t, setter.MSet(context.Background(), clock.seconds, now.Unix(), clock.micros, now.Nanosecond()/1000).Err())
	}
}

func TestStoreOnRedisWithAMovedClock(t *testing.T) {
	ratelimittest.TestStore(t, func(t *testing.T) ratelimittest.Harness {
		store, setNow := clocked(t)
		return ratelimittest.Harness{Store: store, SetNow: setNow}
	})
}

// Memory, a real Redis with the scripts that it runs, and miniredis with the
// one that runs anywhere answer the same to the microsecond, whatever the
// windows, the operations, and the clock, while two plans change off.
func TestBackendsAgree(t *testing.T) {
	ctx := context.Background()
	var now time.Time
	clock := func() time.Time { return now }
	inReal, setReal := clocked(t)
	server, mini := redistest.Mini(t)
	inMini := newStore(t, mini, ratelimitredis.Config{})
	inMemory := ratelimitmem.New(ratelimitmem.Config{Now: clock})
	tests := 0
	rapid.Check(t, func(t *rapid.T) {
		tests++
		at := func(next time.Time) {
			now = next
			setReal(now)
			server.SetTime(now)
		}
		at(time.Date(2026, time.March, 30, 23, 59, 0, 0, time.UTC))
		// What is over may be forgotten or not, and a step back would show which.
		// So where the clock goes back, it doesn't go forward, nothing is refunded,
		// and no bucket has a limit of 0, which ends what others have charged.
		back, least := rapid.Bool().Draw(t, "back"), int64(0)
		if back {
			least = 1
		}
		// Names are few, so that the plans share windows.
		window := rapid.Custom(func(t *rapid.T) ratelimit.Window {
			limit := rapid.Int64Range(least, 12).Draw(t, "limit")
			per := time.Duration(rapid.IntRange(1, 100).Draw(t, "per")) * time.Second
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				return ratelimit.Strict("strict", limit, per)
			case 1:
				return ratelimit.PerDay(limit).WithShadow()
			case 2, 3:
				return ratelimit.PerMonth(limit * 3)
			case 4, 5:
				return ratelimit.PerDay(limit)
			case 6, 7:
				return ratelimit.Rate("a", limit, per).WithBurst(rapid.Int64Range(0, 9).Draw(t, "burst"))
			default:
				return ratelimit.Rate("b", limit, per)
			}
		})
		name := func(w ratelimit.Window) string { return w.Name }
		var plans []*ratelimit.Plan
		for range 2 {
			p, err := ratelimit.NewPlan("p", rapid.SliceOfNDistinct(window, 1, 4, name).Draw(t, "windows")...)
			require.NoError(t, err)
			plans = append(plans, p)
		}
		cfg := ratelimit.Config{Name: fmt.Sprint("test-", tests), Now: clock}
		var limiters [3]*ratelimit.Limiter
		for i, store := range []ratelimit.Store{inMemory, inReal, inMini} {
			var err error
			limiters[i], err = ratelimit.New(store, cfg)
			require.NoError(t, err)
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch move := rapid.IntRange(0, 9).Draw(t, "clock"); {
			case back && move == 0:
				at(now.Add(-time.Duration(rapid.IntRange(1, 200_000).Draw(t, "millis")) * time.Millisecond))
			case back:
			case move == 0:
				at(now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "hours")) * time.Hour))
			case move < 6:
				at(now.Add(time.Duration(rapid.IntRange(1, 20_000_000).Draw(t, "micros")) * time.Microsecond))
			}
			p := plans[rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "plan")]
			cost := rapid.SampledFrom([]int64{1, 1, 1, 2, 3, 13, 1 << 40, 1<<63 - 1}).Draw(t, "cost")
			op := rapid.IntRange(0, 9).Draw(t, "op")
			var want ratelimit.Decision
			for i, l := range limiters {
				d, err := l.Do(ctx, ratelimit.Call{Key: "k", Plan: p, Cost: cost, Peek: op == 0})
				require.NoError(t, err)
				if op == 1 && !back {
					require.NoError(t, l.Refund(ctx, "k", d))
				}
				if i == 0 {
					want = d
					continue
				}
				require.Equal(t, want.Allowed(), d.Allowed(), "of limiter %d", i)
				require.Equal(t, want.WouldDeny(), d.WouldDeny())
				require.Equal(t, want.Violated(), d.Violated())
				require.Equal(t, want.RetryAfter(), d.RetryAfter())
				require.Equal(t, want.At(), d.At())
				for w := range d.Len() {
					require.Equal(t, want.Window(w), d.Window(w), "of limiter %d", i)
				}
			}
		}
	})
}
