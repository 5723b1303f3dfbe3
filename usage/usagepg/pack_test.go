package usagepg_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

var june = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

var packMeters = []usage.Meter{
	{Name: "tokens", Aggregation: usage.Sum, Measures: []usage.Measure{{Property: "chars", Scale: 1}}, Dimensions: []string{"tone"}},
	{Name: "kolekts"}, {Name: "bytes", Aggregation: usage.Sum},
}

func packing(t testing.TB, cfg usagepg.Config) (*pgxpool.Pool, *usagepg.Store, *usage.Service) {
	t.Helper()
	pool := migrated(t)
	if cfg.PackAfter == 0 {
		cfg.PackAfter = 24 * time.Hour
	}
	store := usagepg.NewWith(pool, cfg)
	svc, err := usage.New(store, usage.Config{Meters: packMeters, MaxAge: -1, Now: func() time.Time { return june }})
	require.NoError(t, err)
	return pool, store, svc
}

// oldEvents are of the three months before June.
func oldEvents(r *rand.Rand, n int) []usage.Event {
	out := make([]usage.Event, n)
	for i := range out {
		m := packMeters[r.IntN(len(packMeters))].Name
		e := usage.Event{
			Account: fmt.Sprint("acct", r.IntN(4)), Meter: m, Value: 1,
			Time: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.Int64N(int64(90 * 24 * time.Hour)))),
		}
		if r.IntN(2) == 0 {
			e.ID = fmt.Sprint("id", i)
		}
		if m == "tokens" {
			e.Value = r.Int64N(1000)
			e.Properties = usage.Properties{usage.String("tone", "dry"), usage.Float("chars", r.Float64()), usage.String("secret", "s")}
		}
		out[i] = e
	}
	return out
}

func count(t testing.TB, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n))
	return n
}

func audited(t testing.TB, svc *usage.Service) {
	t.Helper()
	audit, err := svc.Audit(t.Context())
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
	require.Positive(t, audit.Events)
}

// Packing changes where events are, and nothing else.
func TestPackingChangesNoAnswer(t *testing.T) {
	ctx := t.Context()
	pool, store, svc := packing(t, usagepg.Config{})
	r := rand.New(rand.NewPCG(5, 6))
	for part := range slices.Chunk(oldEvents(r, 1500), 500) {
		_, err := svc.RecordBatch(ctx, part)
		require.NoError(t, err)
	}
	from, to := june.AddDate(0, -4, 0), june
	answers := func() (out []any) {
		for _, account := range []string{"acct0", "acct1", ""} {
			for _, q := range []usage.Query{
				{Meter: "tokens", Step: usage.Week}, {Meter: "kolekts", Step: usage.Day, From: from.Add(time.Minute)},
				{Meter: "tokens", Step: usage.Month, GroupBy: "secret", Measure: "chars"},
				{Meter: "tokens", Step: usage.Month, GroupBy: "tone", From: from.Add(time.Second)},
				{Meter: "tokens", Step: usage.Month, Filter: map[string]string{"secret": "s"}},
				{Meter: "tokens", Step: usage.Month, Filter: map[string]string{"secret": "other"}},
			} {
				q.Account, q.To = account, to
				if q.From.IsZero() {
					q.From = from
				}
				series, err := svc.Series(ctx, q)
				require.NoError(t, err)
				out = append(out, series)
			}
		}
		for _, at := range []time.Time{from, from.Truncate(24 * time.Hour)} {
			q := usage.Query{Meter: "bytes", From: at, To: at.AddDate(0, 3, 0), Step: usage.Week}
			top, err := svc.Top(ctx, usage.Query{Meter: "tokens", From: q.From, To: q.To}, 3)
			require.NoError(t, err)
			active, err := svc.Active(ctx, q)
			require.NoError(t, err)
			cohorts, err := svc.Retention(ctx, q)
			require.NoError(t, err)
			out = append(out, top, active, cohorts)
		}
		for _, meter := range []string{"", "tokens"} {
			page := usage.EventPage{Account: "acct2", Meter: meter, From: from, To: to}
			for {
				got, err := store.Events(ctx, page, 37)
				require.NoError(t, err)
				out = append(out, got)
				if len(got) < 37 {
					break
				}
				page.AfterTime, page.AfterKey = got[36].Time, got[36].Key
			}
			page.Newest = true
			got, err := store.Events(ctx, page, 50)
			require.NoError(t, err)
			out = append(out, got)
		}
		return out
	}
	before := answers()
	require.NoError(t, svc.Maintain(ctx))
	require.Zero(t, count(t, pool, "usage_events where ts < '2026-06-01Z'"))
	require.Equal(t, 4*3*3, count(t, pool, "usage_packed"))
	require.Equal(t, before, answers())
	audited(t, svc)

	// What is late lies beside the blocks, and goes into them.
	late := oldEvents(r, 300)
	for i := range late {
		late[i].ID = fmt.Sprint("late", i)
	}
	_, err := svc.RecordBatch(ctx, late)
	require.NoError(t, err)
	require.Equal(t, 300, count(t, pool, "usage_events"))
	audited(t, svc)
	before = answers()
	require.NoError(t, svc.Maintain(ctx))
	require.Zero(t, count(t, pool, "usage_events where ts < '2026-06-01Z'"))
	require.Equal(t, 4*3*3, count(t, pool, "usage_packed"), "blocks with room are filled")
	require.Equal(t, before, answers())
	audited(t, svc)
}

// An event that a block has is known, whether its key is ours or the caller's.
func TestAPackedEventIsADuplicate(t *testing.T) {
	ctx := t.Context()
	_, store, svc := packing(t, usagepg.Config{KeyRetention: 1000 * 24 * time.Hour})
	entries := ownEntries(400)
	out, err := store.Append(ctx, june, entries)
	require.NoError(t, err)
	require.NotContains(t, out, usage.Duplicate)
	keyed := usage.Event{ID: "caller's", Account: "acct0", Meter: "tokens", Value: 3, Time: june.AddDate(0, -2, 0)}
	require.NoError(t, svc.Record(ctx, keyed))
	require.NoError(t, svc.Maintain(ctx))
	for range 2 {
		fresh := usage.Event{Account: "acct0", Meter: "bytes", Value: 1, Time: june.AddDate(0, -2, 0)}
		require.NoError(t, svc.Record(ctx, fresh))
		out, err = store.Append(ctx, june, entries)
		require.NoError(t, err)
		require.NotContains(t, out, usage.Stored)
		require.NoError(t, svc.Record(ctx, keyed))
	}
	audited(t, svc)
	sum, err := svc.Summary(ctx, usage.Query{Meter: "tokens", From: june.AddDate(0, -6, 0), To: june})
	require.NoError(t, err)
	require.EqualValues(t, 400+3, sum.Value.Sum)
}

func ownEntries(n int) []usage.Entry {
	entries := make([]usage.Entry, n)
	for i := range entries {
		at := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * time.Hour / 2)
		entries[i] = usage.Entry{
			Event: usage.Event{Account: fmt.Sprint("acct", i%3), Meter: "tokens", Value: 1, Time: at},
			Own:   true, Key: usage.KeyAt(at, rand.Uint64()), Hash: 1, Figures: []usage.Figure{{Value: 1}},
		}
	}
	return entries
}

// Retries race with packing, in every order that comes up: each event is
// counted once.
func TestRetriesRaceWithPacking(t *testing.T) {
	ctx := t.Context()
	_, store, svc := packing(t, usagepg.Config{})
	for range proving(6, 100) {
		entries := ownEntries(120)
		var wg sync.WaitGroup
		errs := make([]error, 5)
		stored := make([]int, 4)
		for w := range 4 {
			wg.Go(func() {
				for part := range slices.Chunk(entries, 1+w*13) {
					out, err := store.Append(ctx, june, part)
					if err != nil {
						errs[w] = err
						return
					}
					for _, o := range out {
						if o == usage.Stored {
							stored[w]++
						}
					}
				}
			})
		}
		wg.Go(func() {
			for range 4 {
				if err := svc.Maintain(ctx); err != nil {
					errs[4] = err
				}
			}
		})
		wg.Wait()
		total := 0
		for w := range 4 {
			total += stored[w]
		}
		require.Equal(t, []error{nil, nil, nil, nil, nil}, errs)
		require.Equal(t, len(entries), total)
	}
	audited(t, svc)
}

// An account's packed events are exported, and erased as all the others.
func TestPackedEventsAreErased(t *testing.T) {
	ctx := t.Context()
	pool, _, svc := packing(t, usagepg.Config{})
	_, err := svc.RecordBatch(ctx, oldEvents(rand.New(rand.NewPCG(8, 9)), 400))
	require.NoError(t, err)
	exported := func() (n int) {
		require.NoError(t, svc.ExportSubject(ctx, "acct1", func(string, map[string]any) error {
			n++
			return nil
		}))
		return n
	}
	before := exported()
	require.Positive(t, before)
	platform := usage.Query{Meter: "tokens", From: june.AddDate(0, -6, 0), To: june, GroupBy: "tone"}
	total, err := svc.Summary(ctx, platform)
	require.NoError(t, err)
	require.NoError(t, svc.Maintain(ctx))
	require.Equal(t, before, exported())
	counts, err := svc.EraseSubject(ctx, "acct1")
	require.NoError(t, err)
	require.EqualValues(t, before, counts["event"])
	require.Zero(t, exported())
	require.Zero(t, count(t, pool, "usage_packed where account = 'acct1'"))
	require.Zero(t, count(t, pool, "usage_events where account = '' and (id is not null or props ? 'secret')"))
	for range 2 {
		after, err := svc.Summary(ctx, platform)
		require.NoError(t, err)
		require.Equal(t, total, after, "the platform's totals stay")
		audited(t, svc)
		require.NoError(t, svc.Maintain(ctx)) // packs the nameless ones
	}
	require.Zero(t, count(t, pool, "usage_events"))
}

// What is beyond retention is dropped, packed or not.
func TestRetentionDropsPackedMonths(t *testing.T) {
	ctx := t.Context()
	pool, _, svc := packing(t, usagepg.Config{PackAfter: 24 * time.Hour})
	_, err := svc.RecordBatch(ctx, oldEvents(rand.New(rand.NewPCG(1, 9)), 400))
	require.NoError(t, err)
	require.NoError(t, svc.Maintain(ctx))
	whole := count(t, pool, "usage_packed")
	dropping, err := usage.New(usagepg.NewWith(pool, usagepg.Config{Retention: 62 * 24 * time.Hour}), usage.Config{Meters: packMeters, Now: func() time.Time { return june }})
	require.NoError(t, err)
	require.NoError(t, dropping.Maintain(ctx))
	require.Equal(t, whole/3*2, count(t, pool, "usage_packed"))
	audited(t, svc)
}

// Whoever never packs never does.
func TestPackingCanBeTurnedOff(t *testing.T) {
	pool, _, svc := packing(t, usagepg.Config{PackAfter: -1})
	_, err := svc.RecordBatch(context.Background(), oldEvents(rand.New(rand.NewPCG(1, 9)), 50))
	require.NoError(t, err)
	require.NoError(t, svc.Maintain(t.Context()))
	require.Equal(t, 50, count(t, pool, "usage_events"))
}
