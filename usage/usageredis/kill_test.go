package usageredis_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/internal/services"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usageredis"
)

// A real Redis without persistence is killed under load, again and again. With
// a durable store behind it, no more than the limit is ever admitted; the
// control without one admits more. The client sends commands again by itself,
// which must not count twice.
func TestAKilledRedisGivesNoQuotaBack(t *testing.T) {
	limit, kills := int64(5000), 4
	if os.Getenv("COMMERCE_PROVE") == "1" {
		limit, kills = 200_000, 24
	}
	for _, durable := range []bool{true, false} {
		server := redistest.Server(t, services.RedisConfig{})
		client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: 3})
		cfg := usageredis.Config{}
		if durable {
			cfg.Durable = usagemem.New()
		}
		svc, err := usage.New(usagemem.New(), usage.Config{
			Meters: []usage.Meter{{Name: "units"}}, Quotas: usageredis.NewWith(client, cfg),
			Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(limit), nil },
		})
		require.NoError(t, err)
		var admitted atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		progress := make(chan struct{}, 1)
		for range 16 {
			wg.Go(func() {
				for !stop.Load() {
					d, err := svc.Consume(t.Context(), usage.Request{Account: "acct", Meter: "units"})
					switch {
					case errors.Is(err, usage.ErrUnknownOutcome), errors.Is(err, usage.ErrUnavailable):
					case err != nil:
						t.Error(err)
						return
					case d.Allowed:
						admitted.Add(1)
					}
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			})
		}
		for range kills {
			// In all just above the limit, or half of it, which is never reached.
			each := limit/int64(kills) + limit/12
			if durable {
				each = limit / 2 / int64(kills)
			}
			for start := admitted.Load(); admitted.Load() < start+each; {
				<-progress
			}
			require.NoError(t, server.Kill())
			require.NoError(t, server.Start())
		}
		stop.Store(true)
		wg.Wait()
		require.NoError(t, client.Close())
		t.Logf("durable store behind: %v; %d kills, %d admitted of %d", durable, kills, admitted.Load(), limit)
		if durable {
			require.LessOrEqual(t, admitted.Load(), limit)
			require.GreaterOrEqual(t, admitted.Load(), limit/2)
		} else {
			require.Greater(t, admitted.Load(), limit, "the control")
		}
	}
}
