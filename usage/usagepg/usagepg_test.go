package usagepg_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/pgtest"
	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
	"github.com/kolekt/commerce/usage/usagetest"
)

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, usagepg.Migrate(t.Context(), pool))
	return pool
}

func TestStore(t *testing.T) {
	usagetest.TestStore(t, func(t *testing.T) usage.Store {
		// As early as may be, so that half of what the suite records is packed.
		return usagepg.NewWith(migrated(t), usagepg.Config{PackAfter: 24 * time.Hour})
	})
}

func TestVerifyWantsMigrations(t *testing.T) {
	pool := pgtest.Pool(t)
	require.Error(t, usagepg.Verify(t.Context(), pool))
	require.NoError(t, usagepg.Migrate(t.Context(), pool))
	require.NoError(t, usagepg.Verify(t.Context(), pool))
}

// What is recorded and consumed on the caller's transaction is there with its
// commit, and gone with its rollback.
func TestWorkJoinsTheCallersTransaction(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	svc, err := usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts", Quota: true}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
	})
	require.NoError(t, err)
	boom := fmt.Errorf("boom")
	for _, end := range []error{boom, nil} {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			in := svc.With(usagepg.New(tx))
			require.NoError(t, in.Record(ctx, usage.Event{ID: "e", Account: "a", Meter: "kolekts"}))
			d, err := in.Consume(ctx, usage.Request{Account: "a", Meter: "kolekts", Key: "k", Record: true})
			require.NoError(t, err)
			require.EqualValues(t, 2, d.Used)
			for range 20 { // far beyond: refusals must not end the transaction
				_, err := in.Consume(ctx, usage.Request{Account: "a", Meter: "kolekts"})
				require.NoError(t, err)
			}
			return end
		})
		require.Equal(t, end, err)
		d, err := svc.Quota(ctx, "a", "kolekts")
		require.NoError(t, err)
		if end != nil {
			require.Zero(t, d.Used)
		} else {
			require.EqualValues(t, 10, d.Used)
		}
	}
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

func TestRetentionDropsWholeMonths(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	now := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	svc, err := usage.New(usagepg.NewWith(pool, usagepg.Config{Retention: 62 * 24 * time.Hour}), usage.Config{
		Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum, Quota: true}}, MaxAge: -1,
		Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		Now:   func() time.Time { return now },
	})
	require.NoError(t, err)
	for month := time.January; month <= time.June; month++ {
		require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "tokens", Value: int64(month), Time: time.Date(2026, month, 10, 0, 0, 0, 0, time.UTC)}))
	}
	require.NoError(t, svc.Maintain(ctx))
	all := usage.Query{Account: "a", Meter: "tokens", From: now.AddDate(-1, 0, 0), To: now.AddDate(1, 0, 0)}
	sum, err := svc.Summary(ctx, all)
	require.NoError(t, err)
	require.EqualValues(t, 4+5+6, sum.Value.Sum)
	platform := all
	platform.Account = ""
	platform.From, platform.To = platform.From.Truncate(24*time.Hour), platform.To.Truncate(24*time.Hour)
	sum, err = svc.Summary(ctx, platform)
	require.NoError(t, err)
	require.EqualValues(t, 21, sum.Value.Sum, "the platform's totals stay")
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	// A month that was dropped can come back.
	require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "tokens", Value: 1, Time: time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)}))
}

// The audit isn't blind: each kind of damage is found.
func TestAuditFindsDamage(t *testing.T) {
	ctx := t.Context()
	for _, damage := range []string{
		"update usage_quarters set sum = sum + 1",
		"update usage_quarters set max = 99 where dim <> ''",
		"delete from usage_quarters where dim = ''",
		"update usage_platform set cnt = cnt + 1",
		"update usage_counters set used = used + 1",
		"update usage_counters set held = 1",
		"delete from usage_events",
	} {
		pool := migrated(t)
		svc, err := usage.New(usagepg.New(pool), usage.Config{
			Meters: []usage.Meter{{Name: "m", Quota: true, Dimensions: []string{"tone"}}},
			Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
		})
		require.NoError(t, err)
		require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "m", Properties: usage.Properties{usage.String("tone", "dry")}}))
		audit, err := svc.Audit(ctx)
		require.NoError(t, err)
		require.Empty(t, audit.Differences)
		_, err = pool.Exec(ctx, damage)
		require.NoError(t, err)
		audit, err = svc.Audit(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, audit.Differences, damage)
	}
}

// A batch of more than one statement's worth of events is stored as a whole.
func TestLargeBatchesAreStoredAsAWhole(t *testing.T) {
	ctx := t.Context()
	svc, err := usage.New(usagepg.New(migrated(t)), usage.Config{Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}}})
	require.NoError(t, err)
	events := make([]usage.Event, 2500)
	for i := range events {
		events[i] = usage.Event{ID: fmt.Sprint(i % 2400), Account: fmt.Sprint("a", i%2400%7), Meter: "tokens", Value: 1}
	}
	for try := range 2 {
		res, err := svc.RecordBatch(ctx, events)
		require.NoError(t, err)
		require.Equal(t, 2400*(1-try), res.Stored)
		require.Equal(t, 100+2400*try, res.Duplicates)
	}
	sum, err := svc.Summary(ctx, usage.Query{Meter: "tokens"})
	require.NoError(t, err)
	require.EqualValues(t, 2400, sum.Value.Sum)
}

// Old buckets of the platform become one row each, and say what they said.
func TestMaintainCompactsThePlatform(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	now := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	svc, err := usage.New(usagepg.New(pool), usage.Config{Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}}, Now: func() time.Time { return now }})
	require.NoError(t, err)
	month := usage.Query{Meter: "tokens", From: now.AddDate(0, 0, -20).Truncate(time.Hour), To: now.Add(time.Hour)}
	for round := range 2 {
		for i := range 60 {
			at := now.Add(-time.Duration(i%3) * 36 * time.Hour).Add(time.Duration(i) * time.Second)
			require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "tokens", Value: int64(i), Time: at}))
		}
		before, err := svc.Summary(ctx, month)
		require.NoError(t, err)
		require.EqualValues(t, (round+1)*59*30, before.Value.Sum)
		require.NoError(t, svc.Maintain(ctx))
		after, err := svc.Summary(ctx, month)
		require.NoError(t, err)
		require.Equal(t, before, after)
		var rows, buckets int
		require.NoError(t, pool.QueryRow(ctx, "select count(*), count(distinct bucket) from usage_platform where grain = 0 and bucket < $1", now.Add(-time.Hour)).Scan(&rows, &buckets))
		require.Equal(t, buckets, rows)
	}
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// A month that another process has dropped is made again, by both ways to it.
func TestADroppedMonthComesBack(t *testing.T) {
	ctx := t.Context()
	pool := migrated(t)
	now := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	svc, err := usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "m"}}, Now: func() time.Time { return now },
		Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
	})
	require.NoError(t, err)
	for i := range 2 {
		require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "m"}))
		_, err = pool.Exec(ctx, "drop table usage_events_202606; drop table usage_quarters_202606")
		require.NoError(t, err)
		d, err := svc.Consume(ctx, usage.Request{Account: "a", Meter: "m", Key: fmt.Sprint(i), Record: true})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		_, err = pool.Exec(ctx, "drop table usage_events_202606; drop table usage_quarters_202606")
		require.NoError(t, err)
	}
}

func TestADatabaseOutOfReachIsUnavailable(t *testing.T) {
	pool := migrated(t)
	svc, err := usage.New(usagepg.New(pool), usage.Config{
		Meters: []usage.Meter{{Name: "m"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(10), nil },
	})
	require.NoError(t, err)
	require.NoError(t, svc.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}))
	closed, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	require.NoError(t, err)
	closed.Close()
	out := svc.With(usagepg.New(closed))
	require.ErrorIs(t, out.Record(t.Context(), usage.Event{Account: "a", Meter: "m"}), usage.ErrUnavailable)
	_, err = out.Consume(t.Context(), usage.Request{Account: "a", Meter: "m"})
	require.ErrorIs(t, err, usage.ErrUnavailable)
	_, err = out.Summary(t.Context(), usage.Query{Account: "a", Meter: "m"})
	require.ErrorIs(t, err, usage.ErrUnavailable)
}
