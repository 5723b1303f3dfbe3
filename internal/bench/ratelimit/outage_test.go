package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/ratelimit"
	"github.com/kolekt/commerce/ratelimit/ratelimitmem"
	"github.com/kolekt/commerce/ratelimit/ratelimitredis"
)

// BenchmarkOutage stops a Redis under a Guard with a client as it comes, and
// beside it asks the same of the client alone.
func BenchmarkOutage(b *testing.B) {
	for _, c := range []struct {
		name          string
		honours, hang bool
	}{
		{"hung, default client", false, true}, {"hung, client that honours contexts", true, true},
		{"refused, default client", false, false}, {"refused, client that honours contexts", true, false},
	} {
		server := must(services.StartRedis(services.RedisConfig{}))
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: c.honours})
		g := must(ratelimit.NewGuard(must(ratelimitredis.New(client, ratelimitredis.Config{})), ratelimitmem.New(ratelimitmem.Config{}), ratelimit.GuardConfig{}))
		l := must(ratelimit.New(g, ratelimit.Config{}))
		plan := must(ratelimit.NewPlan("p", ratelimit.PerHour(500), ratelimit.PerMonth(1_000_000)))
		ctx := context.Background()
		must(l.Allow(ctx, "k", plan, 1))
		if c.hang {
			server.Freeze()
		} else {
			server.Kill()
		}
		var took []time.Duration
		admitted := 0
		for range 2000 {
			start := time.Now()
			d := must(l.Allow(ctx, "k", plan, 1))
			took = append(took, time.Since(start))
			if d.Allowed() {
				admitted++
			}
		}
		later := slices.Clone(took[10:])
		slices.Sort(later)
		fmt.Printf("%-40s first %v %v %v %v; then median %v, p99 %v; admitted %d of 2000 against 500\n", c.name,
			took[0].Round(time.Microsecond), took[1].Round(time.Microsecond), took[2].Round(time.Microsecond), took[3].Round(time.Microsecond),
			later[len(later)/2], later[len(later)*99/100], admitted)

		// The control: the client alone, on the same server.
		control, cancel := context.WithTimeout(ctx, 20*time.Second)
		start := time.Now()
		err := client.Get(control, "x").Err()
		fmt.Printf("%-40s the bare client's answer took %v: %v\n", "", time.Since(start).Round(time.Millisecond), err != nil)
		cancel()
		if c.hang {
			server.Thaw()
		} else {
			server.Start()
		}
		start = time.Now()
		for !g.State().Healthy {
			must(l.Allow(ctx, "k", plan, 1))
			time.Sleep(time.Millisecond)
		}
		d := must(l.Peek(ctx, "k", plan, 1))
		fmt.Printf("%-40s healed in %v, decided by the store again: %t\n", "", time.Since(start).Round(time.Millisecond), d.Source() == ratelimit.FromStore)
		client.Close()
		server.Close()
	}
}
