package usagepg_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagepg"
)

// daily are questions that days answer, of an account, of all and of each.
func daily(t *testing.T, svc *usage.Service, from, to time.Time) (out []any) {
	t.Helper()
	ctx := t.Context()
	for _, account := range []string{"acct0", "acct3"} {
		for _, q := range []usage.Query{
			{Meter: "tokens"}, {Meter: "tokens", Step: usage.Day}, {Meter: "kolekts", Step: usage.Month},
			{Meter: "tokens", Step: usage.Week, GroupBy: "tone", Measure: "chars"},
			{Meter: "tokens", Step: usage.Day, Filter: map[string]string{"tone": "dry"}},
		} {
			q.Account, q.From, q.To = account, from, to
			series, err := svc.Series(ctx, q)
			require.NoError(t, err)
			out = append(out, series)
		}
	}
	for _, meter := range []string{"tokens", "bytes"} {
		top, err := svc.Top(ctx, usage.Query{Meter: meter, From: from, To: to}, 3)
		require.NoError(t, err)
		active, err := svc.Active(ctx, usage.Query{Meter: meter, From: from, To: to, Step: usage.Week})
		require.NoError(t, err)
		cohorts, err := svc.Retention(ctx, usage.Query{Meter: meter, From: from, To: to, Step: usage.Week})
		require.NoError(t, err)
		out = append(out, top, active, cohorts)
	}
	return out
}

// Folding changes where days are, and nothing else: also for what comes late,
// and for whoever is erased.
func TestFoldingChangesNoAnswer(t *testing.T) {
	ctx := t.Context()
	pool, store, svc := packing(t, usagepg.Config{PackAfter: -1})
	r := rand.New(rand.NewPCG(8, 9))
	events := oldEvents(r, 1500)
	from, to := june.AddDate(0, -4, 0).Truncate(24*time.Hour), june.Truncate(24*time.Hour)
	var rows int
	for i, part := range slices.Collect(slices.Chunk(events, 500)) {
		_, err := svc.RecordBatch(ctx, part)
		require.NoError(t, err)
		before := daily(t, svc, from, to)
		require.NoError(t, store.Maintain(ctx, june))
		require.Zero(t, count(t, pool, "usage_quarters"), "all are old")
		rows = count(t, pool, "usage_months")
		require.Equal(t, before, daily(t, svc, from, to), "round %d", i)
		audited(t, svc)
	}
	// A late event stands beside its month until the next round.
	late := events[0]
	late.ID = "late"
	require.NoError(t, svc.Record(ctx, late))
	require.Positive(t, count(t, pool, "usage_quarters"))
	audited(t, svc)
	before := daily(t, svc, from, to)
	require.NoError(t, store.Maintain(ctx, june))
	require.Zero(t, count(t, pool, "usage_quarters"))
	require.Equal(t, rows, count(t, pool, "usage_months"))
	require.Equal(t, before, daily(t, svc, from, to))

	total, err := svc.Summary(ctx, usage.Query{Meter: "tokens", From: from, To: to})
	require.NoError(t, err)
	_, err = store.EraseSubject(ctx, "acct0")
	require.NoError(t, err)
	require.Zero(t, count(t, pool, "usage_months where account = 'acct0'"))
	require.Zero(t, count(t, pool, "usage_quarters where account = 'acct0'"))
	require.Positive(t, count(t, pool, "usage_quarters where account = ''"))
	audited(t, svc)
	require.NoError(t, store.Maintain(ctx, june))
	audited(t, svc)
	after, err := svc.Summary(ctx, usage.Query{Meter: "tokens", From: from, To: to})
	require.NoError(t, err)
	require.Equal(t, total, after)

	// The control: the audit sees a folded month that lacks its days.
	_, err = pool.Exec(ctx, "update usage_months set days = '', quarters = '' where meter = 'tokens' and dim = ''")
	require.NoError(t, err)
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, audit.Differences)

	_, err = pool.Exec(ctx, `update usage_months set days = '\xff'`)
	require.NoError(t, err)
	_, err = svc.Summary(ctx, usage.Query{Account: "acct3", Meter: "tokens", From: from, To: to})
	require.ErrorContains(t, err, "damaged")
}

// A long history, of more quarters than are written at a time, becomes nameless
// without a loss.
func TestALongHistoryIsErased(t *testing.T) {
	ctx := t.Context()
	pool, store, svc := packing(t, usagepg.Config{PackAfter: -1})
	const quarters = 24_000
	from := june.AddDate(0, 0, -1).Truncate(24 * time.Hour).Add(-quarters * 15 * time.Minute)
	for part := range slices.Chunk(make([]usage.Event, quarters), 1000) {
		for i := range part {
			part[i] = usage.Event{Account: "long", Meter: "bytes", Value: int64(i), Time: from}
			from = from.Add(15 * time.Minute)
		}
		_, err := svc.RecordBatch(ctx, part)
		require.NoError(t, err)
	}
	require.NoError(t, store.Maintain(ctx, june))
	require.Zero(t, count(t, pool, "usage_quarters"))
	q := usage.Query{Meter: "bytes", From: june.AddDate(-1, 0, 0), To: june}
	before, err := svc.Summary(ctx, q)
	require.NoError(t, err)
	_, err = store.EraseSubject(ctx, "long")
	require.NoError(t, err)
	require.Zero(t, count(t, pool, "usage_months"))
	require.Equal(t, quarters, count(t, pool, "usage_quarters where account = ''"))
	require.NoError(t, store.Maintain(ctx, june))
	require.Zero(t, count(t, pool, "usage_quarters"))
	audited(t, svc)
	after, err := svc.Summary(ctx, q)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// Days that are young stay as they are.
func TestRecentDaysAreNotFolded(t *testing.T) {
	ctx := t.Context()
	pool, store, svc := packing(t, usagepg.Config{PackAfter: -1})
	for _, ago := range []time.Duration{0, 11 * time.Hour, 13 * time.Hour, 48 * time.Hour} {
		require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "kolekts", Value: 1, Time: june.Add(-ago)}))
	}
	require.NoError(t, store.Maintain(ctx, june))
	require.Equal(t, 2, count(t, pool, "usage_quarters"))
	require.Equal(t, 1, count(t, pool, "usage_months"))
	s, err := svc.Summary(ctx, usage.Query{Account: "a", Meter: "kolekts"})
	require.NoError(t, err)
	require.EqualValues(t, 4, s.Value.Count)
}

// A sum that would outgrow an int64 stays a row of its own: the question is
// refused, and the data isn't lost.
func TestASumTooLargeIsNotFolded(t *testing.T) {
	ctx := t.Context()
	pool, store, svc := packing(t, usagepg.Config{PackAfter: -1})
	at := june.AddDate(0, -1, 0)
	require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "bytes", Value: 1, Time: at}))
	_, err := pool.Exec(ctx, "update usage_quarters set sum = $1::bigint", int64(math.MaxInt64))
	require.NoError(t, err)
	require.NoError(t, store.Maintain(ctx, june))
	require.Zero(t, count(t, pool, "usage_quarters"))
	require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "bytes", Value: 1, Time: at}))
	for range 2 {
		require.NoError(t, store.Maintain(ctx, june))
		require.Equal(t, 1, count(t, pool, "usage_quarters"))
		_, err = svc.Summary(ctx, usage.Query{Account: "a", Meter: "bytes", From: at.AddDate(0, 0, -7), To: june})
		require.ErrorIs(t, err, usage.ErrOverflow)
	}
}

// Folding, erasing, late events and questions at once: nothing is lost, and
// every answer on the way has each event once.
func TestFoldingMeetsEverybody(t *testing.T) {
	ctx := t.Context()
	_, store, svc := packing(t, usagepg.Config{PackAfter: -1})
	events := oldEvents(rand.New(rand.NewPCG(3, 4)), 400)
	for i := range events {
		events[i].Meter, events[i].Value, events[i].Properties = "kolekts", 1, nil
	}
	_, err := svc.RecordBatch(ctx, events)
	require.NoError(t, err)
	from, to := june.AddDate(0, -4, 0).Truncate(24*time.Hour), june.Truncate(24*time.Hour)
	ask := func(account string) int64 {
		// By account, as the platform's rows aren't folded.
		top, err := svc.Top(ctx, usage.Query{Meter: "kolekts", From: from, To: to}, 1000)
		require.NoError(t, err)
		var sum int64
		for _, a := range top {
			if account == "" || a.Account == account {
				sum += a.Count
			}
		}
		return sum
	}
	before := ask("acct1")
	var recording, rest sync.WaitGroup
	stop := make(chan struct{})
	const more = 60
	recording.Go(func() {
		for i := range more {
			e := usage.Event{ID: fmt.Sprint("late", i), Account: "acct1", Meter: "kolekts", Value: 1, Time: from.AddDate(0, 1, i%40)}
			if err := svc.Record(ctx, e); err != nil {
				t.Error(err)
			}
		}
	})
	recording.Go(func() {
		for range 3 {
			if _, err := store.EraseSubject(ctx, "acct2"); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		rest.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := store.Maintain(ctx, june); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rest.Go(func() {
		for last := before; ; {
			select {
			case <-stop:
				return
			default:
			}
			n := ask("acct1")
			if n < last || n > before+more {
				t.Errorf("%d after %d", n, last)
			}
			last = n
		}
	})
	recording.Wait()
	close(stop)
	rest.Wait()
	require.Equal(t, before+more, ask("acct1"))
	audited(t, svc)
}
