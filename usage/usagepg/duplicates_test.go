package usagepg_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// Ten producers send the same events, each in an order of its own, up to two
// days late: the sums of accounts, of the platform and of the counters are
// exact to the unit.
func TestShuffledLateDuplicatesAreExact(t *testing.T) {
	ctx := t.Context()
	n := proving(600, 1_000_000)
	pool := migrated(t)
	now := time.Now().UTC()
	svc, err := usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum, Quota: true}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(1), nil },
	})
	require.NoError(t, err)
	began := time.Now()
	events := make([]usage.Event, n)
	var want int64
	for i := range events {
		late := time.Duration(rand.Int64N(int64(48 * time.Hour)))
		events[i] = usage.Event{ID: fmt.Sprint(i), Account: fmt.Sprint("acct", i%17), Meter: "tokens", Value: int64(i % 1000), Time: now.Add(-late)}
		want += int64(i % 1000)
	}
	var wg sync.WaitGroup
	errs := make([]error, 10)
	results := make([]usage.Result, 10)
	for p := range errs {
		wg.Go(func() {
			var part []usage.Event
			for rest := rand.Perm(n); len(rest) > 0; rest = rest[len(part):] {
				part = part[:0]
				for _, i := range rest[:min(len(rest), proving(200, 1000))] {
					part = append(part, events[i])
				}
				res, err := svc.RecordBatch(ctx, part)
				if err != nil {
					errs[p] = err
					return
				}
				results[p].Stored += res.Stored
				results[p].Duplicates += res.Duplicates
			}
		})
	}
	wg.Wait()
	var stored, duplicates int
	for p, err := range errs {
		require.NoError(t, err)
		stored += results[p].Stored
		duplicates += results[p].Duplicates
	}
	require.Equal(t, n, stored)
	require.Equal(t, 9*n, duplicates)
	platform, err := svc.Summary(ctx, usage.Query{Meter: "tokens"})
	require.NoError(t, err)
	require.Equal(t, want, platform.Value.Sum)
	var accounts, used int64
	top, err := svc.Top(ctx, usage.Query{Meter: "tokens"}, 100)
	require.NoError(t, err)
	for _, a := range top {
		accounts += a.Sum
	}
	require.Equal(t, want, accounts)
	require.NoError(t, pool.QueryRow(ctx, "select sum(used)::bigint from usage_counters").Scan(&used))
	require.Equal(t, want, used)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	t.Logf("%d events, sent by each of 10 producers: %d stored, %d duplicates, sum %d, in %v",
		n, stored, duplicates, want, time.Since(began).Round(time.Second))
}

// The control: without IDs every copy is an event of its own.
func TestWithoutIDsDuplicatesAreCounted(t *testing.T) {
	svc, err := usage.New(usagepg.New(migrated(t)), usage.Config{Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}}})
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "tokens", Value: 5}))
	}
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "a", Meter: "tokens"})
	require.NoError(t, err)
	require.EqualValues(t, 15, sum.Value.Sum)
}
