package usageredis_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/redistest"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usageredis"
	"github.com/kolekt/commerce/usage/usagetest"
)

func suite(t *testing.T, client func(t *testing.T) redis.UniversalClient) {
	t.Run("Alone", func(t *testing.T) {
		usagetest.TestQuotas(t, func(t *testing.T) usage.QuotaStore {
			return usageredis.NewWith(client(t), usageredis.Config{Prefix: redistest.Prefix()})
		})
	})
	t.Run("Durable", func(t *testing.T) {
		usagetest.TestQuotas(t, func(t *testing.T) usage.QuotaStore {
			return usageredis.NewWith(client(t), usageredis.Config{Prefix: redistest.Prefix(), Durable: usagemem.New()})
		})
	})
}

func TestMini(t *testing.T) {
	suite(t, func(t *testing.T) redis.UniversalClient {
		server, client := redistest.Mini(t)
		server.SetTime(time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC))
		return client
	})
}

func TestRedis(t *testing.T) {
	suite(t, func(t *testing.T) redis.UniversalClient { return redistest.Client(t) })
}

func TestCluster(t *testing.T) {
	client := redistest.Cluster(t)
	suite(t, func(*testing.T) redis.UniversalClient { return client })
}

// noRetries is a client that sends each command once.
func noRetries(t *testing.T, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestALostRedisGivesNoQuotaBack(t *testing.T) {
	ctx := t.Context()
	server, mini := redistest.Mini(t)
	client := noRetries(t, mini.Options().Addr)
	const limit = 1000
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "units"}}})
	require.NoError(t, err)
	for _, durable := range []bool{true, false} {
		cfg := usageredis.Config{Prefix: fmt.Sprint(durable, ":")}
		if durable {
			cfg.Durable = usagemem.New()
		}
		s := usageredis.NewWith(client, cfg)
		quota := usage.Calendar(limit)
		admitted := 0
		for i := range 3 * limit {
			if i%97 == 96 {
				server.FlushAll()
			}
			svc := withQuotas(t, svc, s)
			d, err := svc.Consume(ctx, usage.Request{Account: "acct", Meter: "units", Quota: &quota})
			require.NoError(t, err)
			if d.Allowed {
				admitted++
			}
		}
		if durable {
			require.LessOrEqual(t, admitted, limit)
			require.Greater(t, admitted, limit/3, "what is lost is the rest of a block")
		} else {
			require.Greater(t, admitted, limit, "the control: Redis alone gives the quota back")
		}
	}
}

func withQuotas(t *testing.T, _ *usage.Service, q usage.QuotaStore) *usage.Service {
	t.Helper()
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "units"}}, Quotas: q})
	require.NoError(t, err)
	return svc
}

func TestThresholdsReachTheDurableStoreOnce(t *testing.T) {
	_, client := redistest.Mini(t)
	durable := usagemem.New()
	svc, err := usage.New(durable, usage.Config{
		Meters: []usage.Meter{{Name: "kolekts"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		Quotas: usageredis.NewWith(client, usageredis.Config{Durable: durable}),
	})
	require.NoError(t, err)
	for i := range 15 {
		_, err := svc.Consume(t.Context(), usage.Request{Account: "{odd}", Meter: "kolekts", Key: fmt.Sprint(i), Record: true})
		require.NoError(t, err)
	}
	var got []string
	_, err = svc.DeliverNotices(t.Context(), func(_ context.Context, n usage.Notice) error {
		got = append(got, fmt.Sprint(n.Percent, "% at ", n.Used))
		return nil
	})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"80% at 8", "100% at 10"}, got)
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "{odd}", Meter: "kolekts"})
	require.NoError(t, err)
	require.EqualValues(t, 10, sum.Value.Count, "an event for each admitted step")

	records := map[string]int{}
	require.NoError(t, svc.ExportSubject(t.Context(), "{odd}", func(record string, _ map[string]any) error {
		records[record]++
		return nil
	}))
	require.Equal(t, 10, records["reservation"])
	counts, err := svc.EraseSubject(t.Context(), "{odd}")
	require.NoError(t, err)
	require.EqualValues(t, 10, counts["reservation"])
	require.EqualValues(t, 10, counts["event"])
}
