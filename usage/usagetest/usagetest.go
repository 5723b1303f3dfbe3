// Package usagetest is the contract of usage.Store as tests: TestStore for a
// whole store, TestQuotas for one that only decides about quotas.
package usagetest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
)

// start is the suite's present. Stores take time from what they are given.
var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

var march = usage.Period{From: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)}

// TestStore runs the whole contract. newStore returns an empty store.
func TestStore(t *testing.T, newStore func(t *testing.T) usage.Store) {
	TestQuotas(t, func(t *testing.T) usage.QuotaStore { return newStore(t) })
	run := func(name string, f func(t *testing.T, s usage.Store)) {
		t.Run(name, func(t *testing.T) { f(t, newStore(t)) })
	}
	run("TheSameKeyIsCountedOnce", sameKeyOnce)
	run("TheSameKeyIsCountedOnceAcrossRacingBatches", sameKeyOnceRacing)
	run("OtherContentUnderAKeyIsReused", otherContent)
	run("AKeyBelongsToAccountAndMeter", keyScope)
	run("ACallersKeyHoldsWhateverTheTime", keyIgnoresTime)
	run("RecordedEventsChargeTheCounterOnce", recordedCharge)
	run("AThresholdMakesOneNotice", oneNotice)
	run("ANoticeIsClaimedByOne", claims)
	run("AnAdmittedStepStoresItsEvent", stepStoresEvent)
	run("AStepWhoseEventIsKnownIsAReplay", knownEvent)
	run("AggregateEqualsAFullScan", aggregateEqualsScan)
	run("EventPagesAreCompleteAndOrdered", eventPages)
	run("AuditFindsNothingToReport", auditClean)
	run("ExportHasEverythingAndEraseLeavesNothing", exportErase)
	run("MaintainKeepsWhatIsNeeded", maintain)
	if _, ok := newStore(t).(usage.GrantStore); ok {
		t.Run("Grants", func(t *testing.T) { TestGrants(t, newStore) })
	}
	if _, ok := newStore(t).(usage.ReportStore); ok {
		t.Run("Reports", func(t *testing.T) { TestReports(t, newStore) })
	}
}

type kit struct {
	ctx context.Context
	svc *usage.Service
	now *fakeClock
}

type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// meters are what the suite counts.
var meters = []usage.Meter{
	{Name: "kolekts", Quota: true, Measures: []usage.Measure{{Property: "chars"}, {Property: "score", Scale: 2}}, Dimensions: []string{"tone", "images"}},
	{Name: "tokens", Aggregation: usage.Sum},
	{Name: "credits", Aggregation: usage.Sum, Quota: true},
	{Name: "users", Aggregation: usage.Unique, Property: "user"},
	{Name: "level", Aggregation: usage.Latest},
}

func newKit(t testing.TB, s usage.Store, limit int64) kit {
	t.Helper()
	clock := &fakeClock{t: start}
	svc, err := usage.New(s, usage.Config{
		Meters: meters,
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(limit), nil },
		MaxAge: 100 * 24 * time.Hour,
		Now:    clock.Now,
	})
	require.NoError(t, err)
	return kit{ctx: t.Context(), svc: svc, now: clock}
}

// clean asserts that an audit finds no difference.
func (k kit) clean(t testing.TB) usage.Audit {
	t.Helper()
	audit, err := k.svc.Audit(k.ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences, "audit")
	return audit
}

func (k kit) total(t testing.TB, account, meter string) usage.Stats {
	t.Helper()
	sum, err := k.svc.Summary(k.ctx, usage.Query{Account: account, Meter: meter, From: start.AddDate(0, -4, 0), To: start.AddDate(0, 1, 0)})
	require.NoError(t, err)
	return sum.Value
}

func sameKeyOnce(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	e := usage.Event{ID: "a", Account: "acct", Meter: "tokens", Value: 5}
	res, err := k.svc.RecordBatch(k.ctx, []usage.Event{e, e, {ID: "b", Account: "acct", Meter: "tokens", Value: 2}})
	require.NoError(t, err)
	require.Equal(t, 2, res.Stored)
	require.Equal(t, 1, res.Duplicates)
	for range 3 {
		require.NoError(t, k.svc.Record(k.ctx, e))
	}
	require.EqualValues(t, 7, k.total(t, "acct", "tokens").Sum)
	require.EqualValues(t, 7, k.total(t, "", "tokens").Sum, "the platform")
	k.clean(t)
}

func sameKeyOnceRacing(t *testing.T, s usage.Store) {
	k := newKit(t, s, usage.Unlimited)
	const workers, events = 8, 60
	var wg sync.WaitGroup
	errs := make([]error, workers)
	stored := make([]int, workers)
	for w := range workers {
		wg.Go(func() {
			order := rand.New(rand.NewPCG(1, uint64(w))).Perm(events)
			for part := range slices.Chunk(order, 7) {
				var batch []usage.Event
				for _, i := range part {
					batch = append(batch, usage.Event{ID: fmt.Sprint(i), Account: fmt.Sprint("acct", i%3), Meter: "credits", Value: int64(i)})
				}
				res, err := k.svc.RecordBatch(k.ctx, batch)
				if err != nil {
					errs[w] = err
					return
				}
				stored[w] += res.Stored
			}
		})
	}
	wg.Wait()
	total := 0
	for w := range workers {
		require.NoError(t, errs[w])
		total += stored[w]
	}
	require.Equal(t, events, total)
	require.EqualValues(t, events*(events-1)/2, k.total(t, "", "credits").Sum)
	var used int64
	for i := range 3 {
		c, err := s.Counter(k.ctx, fmt.Sprint("acct", i), "credits", march)
		require.NoError(t, err)
		used += c.Used
	}
	require.EqualValues(t, events*(events-1)/2, used)
	k.clean(t)
}

func otherContent(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "a", Account: "acct", Meter: "tokens", Value: 5}))
	err := k.svc.Record(k.ctx, usage.Event{ID: "a", Account: "acct", Meter: "tokens", Value: 6})
	require.ErrorIs(t, err, usage.ErrKeyReused)
	err = k.svc.Record(k.ctx, usage.Event{ID: "a", Account: "acct", Meter: "tokens", Value: 5, Properties: usage.Properties{usage.Int("x", 1)}})
	require.ErrorIs(t, err, usage.ErrKeyReused)
	require.EqualValues(t, 5, k.total(t, "acct", "tokens").Sum)
}

func keyScope(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	for _, account := range []string{"acct_1", "acct_2"} {
		for _, meter := range []string{"tokens", "credits"} {
			require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "request", Account: account, Meter: meter, Value: 1}))
			require.EqualValues(t, 1, k.total(t, account, meter).Sum)
		}
	}
}

func keyIgnoresTime(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	for _, ago := range []time.Duration{0, time.Hour, 40 * 24 * time.Hour} {
		require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "a", Account: "acct", Meter: "tokens", Value: 5, Time: start.Add(-ago)}))
	}
	require.EqualValues(t, 5, k.total(t, "acct", "tokens").Sum)
}

func recordedCharge(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	february := usage.Period{From: march.From.AddDate(0, -1, 0), To: march.From}
	for range 2 {
		_, err := k.svc.RecordBatch(k.ctx, []usage.Event{
			{ID: "a", Account: "acct", Meter: "credits", Value: 5},
			{ID: "b", Account: "acct", Meter: "credits", Value: 8},
			{ID: "c", Account: "acct", Meter: "credits", Value: -1},
			{ID: "late", Account: "acct", Meter: "credits", Value: 3, Time: march.From.Add(-time.Microsecond)},
			{ID: "first", Account: "acct", Meter: "credits", Value: 4, Time: march.From},
		})
		require.NoError(t, err)
	}
	c, err := s.Counter(k.ctx, "acct", "credits", march)
	require.NoError(t, err)
	require.EqualValues(t, 16, c.Used, "recorded events count beyond the limit too")
	require.Zero(t, c.Bare)
	c, err = s.Counter(k.ctx, "acct", "credits", february)
	require.NoError(t, err)
	require.EqualValues(t, 3, c.Used, "a late event belongs to its own period")
	k.clean(t)
}

func oneNotice(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "kolekts"})
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	// A correction takes use below the threshold, and it is crossed again.
	for i, v := range []int64{9, -5, 5} {
		require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: fmt.Sprint(i), Account: "other", Meter: "credits", Value: v}))
	}
	// One step over both thresholds tells the higher one only.
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "jump", Meter: "credits", Value: 30}))
	var got []string
	n, err := k.svc.DeliverNotices(k.ctx, func(_ context.Context, n usage.Notice) error {
		got = append(got, fmt.Sprintf("%s %s %d %d", n.Account, n.Meter, n.Percent, n.Used))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, len(got), n)
	slices.Sort(got)
	require.Equal(t, []string{"acct kolekts 100 10", "acct kolekts 80 8", "jump credits 100 30", "other credits 80 9"}, got)
	n, err = k.svc.DeliverNotices(k.ctx, func(context.Context, usage.Notice) error { return nil })
	require.NoError(t, err)
	require.Zero(t, n)
}

func claims(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{Account: "acct", Meter: "credits", Value: 8}))
	first, err := s.ClaimNotices(k.ctx, start, start.Add(time.Minute), 10)
	require.NoError(t, err)
	require.Len(t, first, 1)
	require.Equal(t, march, first[0].Period)
	again, err := s.ClaimNotices(k.ctx, start.Add(59*time.Second), start.Add(time.Hour), 10)
	require.NoError(t, err)
	require.Empty(t, again, "claimed by somebody else")
	again, err = s.ClaimNotices(k.ctx, start.Add(time.Minute), start.Add(2*time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, first, again, "the claim is over")
	require.NoError(t, s.NoticeDone(k.ctx, first[0], start))
	again, err = s.ClaimNotices(k.ctx, start.Add(time.Hour), start.Add(2*time.Hour), 10)
	require.NoError(t, err)
	require.Empty(t, again, "delivered")
	all, err := s.Notices(k.ctx, "acct", 10)
	require.NoError(t, err)
	require.Equal(t, first, all)
}

func stepStoresEvent(t *testing.T, s usage.Store) {
	k := newKit(t, s, 2)
	props := usage.Properties{usage.Int("chars", 100), usage.String("tone", "dry")}
	for range 2 { // each step twice: a retry
		d, err := k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "kolekts", Key: "c", Record: true, Properties: props})
		require.NoError(t, err)
		require.True(t, d.Allowed)
		r, err := k.svc.Reserve(k.ctx, usage.Request{Account: "acct", Meter: "kolekts", Key: "r"})
		require.NoError(t, err)
		require.True(t, r.Allowed)
		d, err = r.CommitEvent(k.ctx, 1, props...)
		require.NoError(t, err)
		require.EqualValues(t, 2, d.Used)
		d, err = k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "kolekts", Key: "refused", Record: true, Properties: props})
		require.NoError(t, err)
		require.False(t, d.Allowed)
	}
	sum, err := k.svc.Summary(k.ctx, usage.Query{Account: "acct", Meter: "kolekts", GroupBy: "tone"})
	require.NoError(t, err)
	require.EqualValues(t, 2, sum.Value.Count, "a refused step has no event")
	require.EqualValues(t, 200, sum.Measures["chars"].Sum)
	require.Len(t, sum.Groups, 1)
	c, err := s.Counter(k.ctx, "acct", "kolekts", march)
	require.NoError(t, err)
	require.EqualValues(t, 2, c.Used)
	require.Zero(t, c.Bare)
	k.clean(t)
}

func knownEvent(t *testing.T, s usage.Store) {
	k := newKit(t, s, 5)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "x", Account: "acct", Meter: "kolekts"}))
	d, err := k.svc.Consume(k.ctx, usage.Request{Account: "acct", Meter: "kolekts", Key: "x", Record: true})
	require.NoError(t, err)
	require.True(t, d.Allowed)
	require.True(t, d.Replayed)
	require.EqualValues(t, 1, d.Used)
	k.clean(t)
}

func auditClean(t *testing.T, s usage.Store) {
	k := newKit(t, s, usage.Unlimited)
	entries := randomEvents(rand.New(rand.NewPCG(3, 4)), 300)
	for part := range slices.Chunk(entries, 50) {
		_, err := k.svc.RecordBatch(k.ctx, part)
		require.NoError(t, err)
	}
	r, err := k.svc.Reserve(k.ctx, usage.Request{Account: "acct0", Meter: "credits", N: 7})
	require.NoError(t, err)
	require.True(t, r.Allowed)
	audit := k.clean(t)
	require.Positive(t, audit.Events)
	require.Positive(t, audit.Counters)
}

func exportErase(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	for _, account := range []string{"gone", "stays"} {
		for i := range 9 {
			require.NoError(t, k.svc.Record(k.ctx, usage.Event{
				ID: fmt.Sprint("id", i), Account: account, Meter: "kolekts",
				Properties: usage.Properties{usage.String("tone", "dry"), usage.Int("chars", 10), usage.String("secret", "s")},
			}))
		}
		_, err := k.svc.Reserve(k.ctx, usage.Request{Account: account, Meter: "kolekts", Key: "held"})
		require.NoError(t, err)
	}
	count := func(account string) map[string]int64 {
		got := map[string]int64{}
		require.NoError(t, k.svc.ExportSubject(k.ctx, account, func(record string, fields map[string]any) error {
			got[record]++
			require.NotEmpty(t, fields)
			return nil
		}))
		return got
	}
	whole := map[string]int64{"event": 9, "counter": 1, "reservation": 1, "notice": 1}
	require.Equal(t, whole, count("gone"))
	erased, err := k.svc.EraseSubject(k.ctx, "gone")
	require.NoError(t, err)
	require.Equal(t, whole, erased)
	require.Empty(t, count("gone"))
	require.Equal(t, whole, count("stays"))
	erased, err = k.svc.EraseSubject(k.ctx, "gone")
	require.NoError(t, err)
	for record, n := range erased {
		require.Zero(t, n, record)
	}
	require.Zero(t, k.total(t, "gone", "kolekts").Count)
	platform, err := k.svc.Summary(k.ctx, usage.Query{Meter: "kolekts", GroupBy: "tone"})
	require.NoError(t, err)
	require.EqualValues(t, 18, platform.Value.Count, "the platform's totals stay")
	require.EqualValues(t, 180, platform.Measures["chars"].Sum)
	require.EqualValues(t, 18, platform.Groups[0].Value.Count)
	top, err := k.svc.Top(k.ctx, usage.Query{Meter: "kolekts"}, 5)
	require.NoError(t, err)
	require.Len(t, top, 1)
	require.Equal(t, "stays", top[0].Account)
	k.clean(t)
	boom := fmt.Errorf("stop")
	require.ErrorIs(t, k.svc.ExportSubject(k.ctx, "stays", func(string, map[string]any) error { return boom }), boom)
}

func maintain(t *testing.T, s usage.Store) {
	k := newKit(t, s, 10)
	_, err := k.svc.Reserve(k.ctx, usage.Request{Account: "acct", Meter: "kolekts", Key: "crashed", N: 4, TTL: time.Minute})
	require.NoError(t, err)
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "old", Account: "acct", Meter: "tokens", Value: 3, Time: start.AddDate(0, 0, -30)}))
	k.now.Add(time.Minute)
	require.NoError(t, k.svc.Maintain(k.ctx))
	c, err := s.Counter(k.ctx, "acct", "kolekts", march)
	require.NoError(t, err)
	require.Zero(t, c.Held, "an expired reservation comes back")
	require.NoError(t, k.svc.Record(k.ctx, usage.Event{ID: "old", Account: "acct", Meter: "tokens", Value: 3, Time: start.AddDate(0, 0, -30)}))
	require.EqualValues(t, 3, k.total(t, "acct", "tokens").Sum)
	k.clean(t)
}

// randomEvents returns events of a few accounts over 90 days, with properties,
// corrections and equal instants.
func randomEvents(r *rand.Rand, n int) []usage.Event {
	out := make([]usage.Event, n)
	tones := []string{"dry", "casual", "é=x"}
	for i := range out {
		at := start.Add(-time.Duration(r.Int64N(int64(90 * 24 * time.Hour)))).Truncate(time.Second)
		if r.IntN(4) == 0 {
			at = at.Truncate(24 * time.Hour) // on the borders of days
		}
		e := usage.Event{Account: fmt.Sprint("acct", r.IntN(3)), Time: at, Meter: meters[r.IntN(len(meters))].Name}
		switch e.Meter {
		case "kolekts":
			e.Properties = usage.Properties{usage.Bool("images", r.IntN(2) == 0), usage.Int("words", r.Int64N(3))}
			if r.IntN(5) > 0 {
				e.Properties = append(e.Properties, usage.String("tone", tones[r.IntN(3)]), usage.Int("chars", r.Int64N(1000)), usage.Float("score", r.Float64()*10))
			}
		case "users":
			e.Value = 1
			e.Properties = usage.Properties{usage.String("user", fmt.Sprint(r.IntN(6)))}
		case "tokens", "credits":
			e.Value = r.Int64N(1000) - 100
		case "level":
			e.Value = r.Int64N(100)
		}
		if r.IntN(2) == 0 {
			e.ID = fmt.Sprint("id", r.Int64())
		}
		out[i] = e
	}
	return out
}

func eventPages(t *testing.T, s usage.Store) {
	k := newKit(t, s, usage.Unlimited)
	events := randomEvents(rand.New(rand.NewPCG(7, 7)), 200)
	_, err := k.svc.RecordBatch(k.ctx, events)
	require.NoError(t, err)
	want := map[string]int{}
	for _, e := range events {
		want[e.Account]++
	}
	for _, account := range slices.Sorted(maps.Keys(want)) {
		page := usage.EventPage{Account: account, From: start.AddDate(0, -4, 0), To: start.AddDate(0, 0, 1)}
		seen := map[[16]byte]bool{}
		for {
			got, err := s.Events(k.ctx, page, 7)
			require.NoError(t, err)
			for _, e := range got {
				require.Falsef(t, e.Time.Before(page.AfterTime), "order")
				require.False(t, seen[e.Key], "twice")
				seen[e.Key] = true
				page.AfterTime, page.AfterKey = e.Time, e.Key
			}
			if len(got) < 7 {
				break
			}
		}
		require.Len(t, seen, want[account])
		newest, err := s.Events(k.ctx, usage.EventPage{Account: account, From: page.From, To: page.To, Newest: true}, 3)
		require.NoError(t, err)
		require.Len(t, newest, 3)
		require.Equal(t, page.AfterKey, newest[0].Key)
	}
}
