package usage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

// movable is a clock that only a test moves.
type movable struct {
	mu sync.Mutex
	t  time.Time
}

func (m *movable) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.t
}

func (m *movable) set(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t = t
}

func at(text string) time.Time { return clock(text)() }

func TestNewSaysWhatIsWrongWithAConfiguration(t *testing.T) {
	quota := func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(1), nil }
	meter := func(m usage.Meter) usage.Config { return usage.Config{Meters: []usage.Meter{m}, Quota: quota} }
	for text, cfg := range map[string]usage.Config{
		"Meters is empty":     {},
		"twice":               {Meters: []usage.Meter{{Name: "m"}, {Name: "m"}}},
		"the name must be":    meter(usage.Meter{Name: "Big Name"}),
		"unknown Aggregation": meter(usage.Meter{Name: "m", Aggregation: "mode"}),
		"which needs it":      meter(usage.Meter{Name: "m", Aggregation: usage.Unique}),
		"count or sum":        meter(usage.Meter{Name: "m", Aggregation: usage.Max, Quota: true}),
		"a Scale of 0 to 9":   meter(usage.Meter{Name: "m", Measures: []usage.Measure{{Property: "p", Scale: 10}}}),
		"can't be a measure":  meter(usage.Meter{Name: "m", Measures: []usage.Measure{{Property: "p"}}, Dimensions: []string{"p"}}),
		"without '='":         meter(usage.Meter{Name: "m", Dimensions: []string{"a=b"}}),
		"must ascend":         meter(usage.Meter{Name: "m", Thresholds: []int{100, 80}}),
		"at most 16 Measures": meter(usage.Meter{Name: "m", Measures: make([]usage.Measure, 17)}),
		"set Config.Quota":    {Meters: []usage.Meter{{Name: "m", Quota: true}}},
		"not be negative":     {Meters: []usage.Meter{{Name: "m"}}, HoldTTL: -1},
	} {
		_, err := usage.New(usagemem.New(), cfg)
		require.ErrorContains(t, err, text)
	}
	_, err := usage.New(nil, meter(usage.Meter{Name: "m"}))
	require.ErrorContains(t, err, "needs a store")
	_, err = usage.NewRecorder(newService(t, usagemem.New()), usage.RecorderConfig{Batch: 5001})
	require.ErrorContains(t, err, "Batch")
}

func TestEventsAreCheckedByIndex(t *testing.T) {
	now := at("2026-03-10T12:00:00Z")
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{
			{Name: "count", Measures: []usage.Measure{{Property: "n", Scale: 2}}, Dimensions: []string{"d"}},
			{Name: "max", Aggregation: usage.Max},
			{Name: "users", Aggregation: usage.Unique, Property: "user"},
			{Name: "sum", Aggregation: usage.Sum},
		},
		Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	with := func(meter string, props ...usage.Property) usage.Event {
		return usage.Event{Account: "a", Meter: meter, Properties: props}
	}
	var many usage.Properties
	for i := range 33 {
		many = append(many, usage.Int(fmt.Sprint(i), 1))
	}
	bad := []struct {
		event usage.Event
		kind  error
	}{
		{usage.Event{Account: "a", Meter: "none"}, usage.ErrUnknownMeter},
		{usage.Event{Meter: "count"}, usage.ErrInvalid},
		{usage.Event{Account: strings.Repeat("a", 201), Meter: "count"}, usage.ErrInvalid},
		{usage.Event{ID: "\xff", Account: "a", Meter: "count"}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "count", Value: 2}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "max", Value: -1}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "sum", Value: math.MaxInt64}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "users"}, usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "count", Properties: many}, usage.ErrInvalid},
		{with("count", usage.Float("n", math.NaN())), usage.ErrInvalid},
		{with("count", usage.Float("n", math.Inf(1))), usage.ErrInvalid},
		{with("count", usage.String("n", "7")), usage.ErrInvalid},
		{with("count", usage.Decimal("n", "1e40")), usage.ErrInvalid},
		{with("count", usage.Decimal("n", "1e999999999")), usage.ErrInvalid},
		{with("count", usage.Decimal("n", "0x10")), usage.ErrInvalid},
		{with("count", usage.Decimal("n", "1/3")), usage.ErrInvalid},
		{with("count", usage.Float("d", 1.5)), usage.ErrInvalid},
		{with("count", usage.String("d", strings.Repeat("x", 65))), usage.ErrInvalid},
		{with("count", usage.String("s", strings.Repeat("x", 1025))), usage.ErrInvalid},
		{with("count", usage.String("s", "a\x00b")), usage.ErrInvalid},
		{with("count", usage.Int("", 1)), usage.ErrInvalid},
		{with("count", usage.Property{Name: "x"}), usage.ErrInvalid},
		{with("count", usage.Int("x", 1), usage.Int("x", 1)), usage.ErrInvalid},
		{with("count", usage.Float("x", 1e31)), usage.ErrInvalid},
		{with("count", usage.Decimal("x", "1"+strings.Repeat("0", 63))), usage.ErrInvalid},
		{usage.Event{Account: "a", Meter: "count", Time: now.Add(6 * time.Minute)}, usage.ErrInFuture},
		{usage.Event{Account: "a", Meter: "count", Time: now.AddDate(0, 0, -36)}, usage.ErrTooLate},
	}
	good := []usage.Event{
		with("count", usage.Int("n", 3)), with("count", usage.Float("n", 0.25)), with("count", usage.Int("n", 1<<40)),
		with("count", usage.Decimal("n", "1.005")), with("count", usage.Float("n", -0.004)), with("count", usage.Bool("d", true)), with("count", usage.Int("d", -7)),
		with("users", usage.String("user", "u")), with("count", usage.Int("x", 1)), with("count", usage.Int("x", 1)), with("count", usage.Int("x", 1)),
		with("count", usage.Int("x", 1)), with("count", usage.Int("x", 1)), with("count", usage.Decimal("x", "1e3")),
		{Account: "a", Meter: "sum", Value: -usage.MaxValue, Time: now.Add(5 * time.Minute)},
	}
	var batch []usage.Event
	for i, b := range bad {
		batch = append(batch, b.event)
		if i < len(good) {
			batch = append(batch, good[i])
		}
	}
	res, err := svc.RecordBatch(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, len(good), res.Stored)
	require.Len(t, res.Rejected, len(bad))
	for i, r := range res.Rejected {
		require.ErrorIs(t, r, bad[i].kind, "%+v", bad[i].event)
		require.Equal(t, bad[i].event.Meter, batch[r.Index].Meter)
		require.Empty(t, res.IDs[r.Index])
	}
	sum, err := svc.Summary(t.Context(), usage.Query{Account: "a", Meter: "count"})
	require.NoError(t, err)
	require.EqualValues(t, 300+25+100*(1<<40)+101+0, sum.Measures["n"].Sum, "scaled, halves away from zero")

	clamping, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m"}}, ClampFuture: true, Now: func() time.Time { return now }})
	require.NoError(t, err)
	require.NoError(t, clamping.Record(t.Context(), usage.Event{Account: "a", Meter: "m", Time: now.AddDate(1, 0, 0)}))
	for e, err := range clamping.Events(t.Context(), usage.Query{Account: "a"}) {
		require.NoError(t, err)
		require.Equal(t, now, e.Time)
	}
}

func TestEachAggregationMakesItsNumber(t *testing.T) {
	var meters []usage.Meter
	for _, a := range []usage.Aggregation{usage.Sum, usage.Max, usage.Min, usage.Average, usage.Latest} {
		meters = append(meters, usage.Meter{Name: string(a), Aggregation: a})
	}
	meters = append(meters, usage.Meter{Name: "count"}, usage.Meter{Name: "unique", Aggregation: usage.Unique, Property: "user"})
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: meters, Now: clock("2026-03-10T12:00:00Z")})
	require.NoError(t, err)
	for i, v := range []int64{4, 9, 2} {
		for _, m := range meters {
			e := usage.Event{Account: "a", Meter: m.Name, Value: v, Properties: usage.Properties{usage.String("user", fmt.Sprint(i%2))}, Time: at("2026-03-10T10:00:00Z").Add(-time.Duration(i) * time.Hour)}
			if m.Name == "count" {
				e.Value = 1
			}
			require.NoError(t, svc.Record(t.Context(), e))
		}
	}
	for meter, want := range map[string]float64{"sum": 15, "max": 9, "min": 2, "average": 5, "latest": 4, "count": 3, "unique": 2} {
		sum, err := svc.Summary(t.Context(), usage.Query{Account: "a", Meter: meter})
		require.NoError(t, err)
		require.InDelta(t, want, sum.Number, 0, meter)
	}
	_, err = svc.Consume(t.Context(), usage.Request{Account: "a", Meter: "max", Quota: &usage.Quota{Limit: 1}})
	require.ErrorIs(t, err, usage.ErrInvalid)
}

func TestPlatformQueries(t *testing.T) {
	ctx := t.Context()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts", Quota: true, Measures: []usage.Measure{{Property: "characters"}}}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(5), nil },
		Now:    clock("2026-03-10T12:00:00Z"),
		Location: func(_ context.Context, account string) (*time.Location, error) {
			if account == "ny" {
				return time.LoadLocation("America/New_York")
			}
			return nil, nil
		},
	})
	require.NoError(t, err)
	put := func(account, day string, n int) {
		for range n {
			require.NoError(t, svc.Record(ctx, usage.Event{Account: account, Meter: "kolekts", Time: at(day), Properties: usage.Properties{usage.Int("characters", 10)}}))
		}
	}
	put("a", "2026-03-08T01:00:00Z", 3)
	put("a", "2026-03-09T01:00:00Z", 1)
	put("b", "2026-03-09T01:00:00Z", 5)
	put("ny", "2026-03-10T03:30:00Z", 1) // the evening of the 9th in New York
	put("a", "2026-02-05T00:00:00Z", 2)

	week := usage.Query{Meter: "kolekts", From: at("2026-03-08T00:00:00Z"), To: at("2026-03-11T00:00:00Z")}
	top, err := svc.Top(ctx, week, 2)
	require.NoError(t, err)
	require.Equal(t, "b", top[0].Account)
	require.Equal(t, "a", top[1].Account)
	active, err := svc.Active(ctx, week)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 1}, []int64{active[0].Accounts, active[1].Accounts, active[2].Accounts})
	cohorts, err := svc.Retention(ctx, week)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1, 0}, cohorts[0].Active)
	require.Equal(t, []int64{1, 0}, cohorts[1].Active)
	near, err := svc.NearLimit(ctx, "kolekts", 80, 10)
	require.NoError(t, err)
	require.Len(t, near, 2)
	require.Equal(t, "b", near[0].Account)

	c, err := svc.Compare(ctx, usage.Query{Account: "a", Meter: "kolekts"})
	require.NoError(t, err)
	require.EqualValues(t, 4, c.Now.Value.Count)
	require.EqualValues(t, 2, c.Before.Value.Count)
	change, ok := c.Change()
	require.True(t, ok)
	require.InDelta(t, 1.0, change, 0)
	require.Equal(t, 30*24*time.Hour, c.Now.To.Sub(c.Now.From))
	require.Equal(t, c.Now.From, c.Before.To)

	series, err := svc.Series(ctx, usage.Query{Account: "ny", Meter: "kolekts", Measure: "characters"})
	require.NoError(t, err)
	require.Len(t, series, 30)
	require.InDelta(t, 10, series[28].Number, 0, "the account's own day")
	require.Equal(t, "2026-03-09", series[28].From.Format(time.DateOnly))
	for _, bad := range []usage.Query{
		{Meter: "none"}, {Meter: "kolekts", From: at("2026-03-11T00:00:00Z"), To: at("2026-03-11T00:00:00Z")},
		{Meter: "kolekts", Measure: "none"}, {Meter: "kolekts", Step: "decade"},
		{Meter: "kolekts", Step: usage.Minute},
	} {
		_, err := svc.Series(ctx, bad)
		require.Error(t, err)
	}
	_, err = svc.Top(ctx, usage.Query{Account: "a", Meter: "kolekts"}, 5)
	require.ErrorIs(t, err, usage.ErrInvalid)
	_, err = svc.Active(ctx, usage.Query{Account: "a", Meter: "kolekts"})
	require.ErrorIs(t, err, usage.ErrInvalid)

	var out strings.Builder
	require.NoError(t, svc.WriteJSONLines(ctx, &out, usage.Query{Account: "b"}))
	require.Equal(t, 5, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), `"properties":{"characters":10}`)
	out.Reset()
	require.NoError(t, svc.WriteCSV(ctx, &out, usage.Query{Meter: "kolekts", GroupBy: "characters", From: week.From, To: week.To}))
	require.Contains(t, out.String(), ",10,6,6,6,")
	n := 0
	for _, err := range svc.Events(ctx, usage.Query{Account: "a", Meter: "kolekts"}) {
		require.NoError(t, err)
		if n++; n == 2 {
			break
		}
	}
	for _, err := range svc.Events(ctx, usage.Query{Meter: "kolekts"}) {
		require.ErrorIs(t, err, usage.ErrInvalid)
	}
}

func TestAReservationIsFoundByItsID(t *testing.T) {
	ctx := t.Context()
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "tokens", Aggregation: usage.Sum}}, Now: clock("2026-03-10T12:00:00Z"),
		Quota: usage.QuotaFrom(func(context.Context, string, string) (int64, time.Time, time.Time, error) {
			return 10, at("2026-03-05T00:00:00Z"), at("2026-04-05T00:00:00Z"), nil
		}),
	})
	require.NoError(t, err)
	made, err := svc.Reserve(ctx, usage.Request{Account: "a", Meter: "tokens", N: 4, TTL: time.Hour})
	require.NoError(t, err)
	require.Equal(t, at("2026-04-05T00:00:00Z"), made.Reset())
	found, err := svc.Reservation(ctx, "a", made.Key)
	require.NoError(t, err)
	require.Equal(t, made.Expires, found.Expires)
	d, err := found.Commit(ctx, 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, d.Used)
	require.ErrorIs(t, made.Release(ctx), usage.ErrSettled)
	_, err = svc.Reservation(ctx, "a", "rsv_none")
	require.ErrorIs(t, err, usage.ErrNotFound)

	refused, err := svc.Reserve(ctx, usage.Request{Account: "a", Meter: "tokens", N: 8})
	require.NoError(t, err)
	require.False(t, refused.Allowed)
	require.NoError(t, refused.Release(ctx))
	_, err = refused.Commit(ctx, 1)
	require.ErrorIs(t, err, usage.ErrNotFound)
	_, err = refused.CommitEvent(ctx, 1)
	require.ErrorIs(t, err, usage.ErrNotFound)
	for _, bad := range []usage.Request{
		{Account: "a", Meter: "none"}, {Meter: "tokens"}, {Account: "a", Meter: "tokens", N: -1}, {Account: "a", Meter: "tokens", TTL: -1},
		{Account: "a", Meter: "tokens", Key: "\x00"}, {Account: "a", Meter: "tokens", Record: true},
		{Account: "a", Meter: "tokens", Quota: &usage.Quota{Limit: -2}},
		{Account: "a", Meter: "tokens", Quota: &usage.Quota{Overage: -2}},
		{Account: "a", Meter: "tokens", Quota: &usage.Quota{Every: "fortnight"}},
		{Account: "a", Meter: "tokens", Quota: &usage.Quota{From: at("2026-04-05T00:00:00Z")}},
	} {
		_, err := svc.Reserve(ctx, bad)
		require.Error(t, err, "%+v", bad)
	}
	none, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m"}}})
	require.NoError(t, err)
	_, err = none.Consume(ctx, usage.Request{Account: "a", Meter: "m"})
	require.ErrorIs(t, err, usage.ErrNoQuota)
}

func TestExplainSaysWhy(t *testing.T) {
	ctx := t.Context()
	now := at("2026-02-10T12:00:00Z")
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts", Quota: true}}, Now: func() time.Time { return now },
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			return usage.Quota{Limit: 10, Anchor: at("2025-12-31T00:00:00Z")}, nil
		},
	})
	require.NoError(t, err)
	for range 6 {
		require.NoError(t, svc.Record(ctx, usage.Event{Account: "a", Meter: "kolekts"}))
	}
	_, err = svc.Consume(ctx, usage.Request{Account: "a", Meter: "kolekts", N: 2})
	require.NoError(t, err)
	_, err = svc.Reserve(ctx, usage.Request{Account: "a", Meter: "kolekts", Key: "r1", N: 2})
	require.NoError(t, err)
	e, err := svc.Explain(ctx, "a", "kolekts")
	require.NoError(t, err)
	require.Len(t, e.Newest, 6)
	require.Equal(t, `kolekts: 8 of 10 used, by 6 events (6) and 2 without an event; 2 held by 1 reservations
starts anew at 2026-02-28T00:00:00Z, because the anchor is the 31. and the month is shorter
reservation r1 holds 2 until 2026-02-10T12:15:00Z
80 % of 10 crossed at 2026-02-10T12:00:00Z with 8`, e.String())
	_, err = svc.Explain(ctx, "a", "none")
	require.ErrorIs(t, err, usage.ErrUnknownMeter)
}

func TestForecastGivesTheDay(t *testing.T) {
	ctx := t.Context()
	clock := &movable{t: at("2026-03-11T00:00:00Z")}
	quota := usage.Calendar(30)
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "m", Aggregation: usage.Sum}}, Now: clock.now,
		Quota: func(context.Context, string, string) (usage.Quota, error) { return quota, nil },
	})
	require.NoError(t, err)
	use := func(n int64) usage.Forecast {
		if n > 0 {
			_, err := svc.Consume(ctx, usage.Request{Account: "a", Meter: "m", N: n})
			require.NoError(t, err)
		}
		f, err := svc.Forecast(ctx, "a", "m")
		require.NoError(t, err)
		return f
	}
	require.True(t, use(0).LimitReached.IsZero())
	f := use(20)
	require.InDelta(t, 2, f.PerDay, 1e-9)
	require.InDelta(t, 62, f.AtEnd, 1e-9)
	require.Equal(t, at("2026-03-16T00:00:00Z"), f.LimitReached)
	require.Equal(t, clock.now(), use(10).LimitReached)
	quota = usage.Calendar(usage.Unlimited)
	require.True(t, use(100).LimitReached.IsZero())
}

// A year of a subscription that began on the 31st, in milliseconds: each month
// admits exactly its quota, whatever is asked for.
func TestABillingYear(t *testing.T) {
	ctx := t.Context()
	clock := &movable{t: at("2025-12-31T10:00:00Z")}
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "kolekts"}}, Now: clock.now,
		Quota: func(context.Context, string, string) (usage.Quota, error) {
			return usage.Quota{Limit: 10, Anchor: at("2025-12-31T10:00:00Z")}, nil
		},
	})
	require.NoError(t, err)
	resets := map[string]int{}
	for clock.now().Before(at("2026-12-31T10:00:00Z")) {
		d, err := svc.Consume(ctx, usage.Request{Account: "a", Meter: "kolekts"})
		require.NoError(t, err)
		if d.Allowed {
			resets[d.Reset().Format("01-02 15:04")]++
		}
		clock.set(clock.now().Add(6 * time.Hour))
	}
	want := map[string]int{}
	for _, day := range []string{"01-31", "02-28", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31", "09-30", "10-31", "11-30", "12-31"} {
		want[day+" 10:00"] = 10
	}
	require.Equal(t, want, resets)
	n, err := svc.DeliverNotices(ctx, func(context.Context, usage.Notice) error { return nil })
	require.NoError(t, err)
	require.Equal(t, 24, n, "80 and 100 percent of each month")
}

func TestRunDeliversAndMaintainsUntilItsContextEnds(t *testing.T) {
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "m"}},
		Quota:  func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(1), nil },
	})
	require.NoError(t, err)
	_, err = svc.Consume(t.Context(), usage.Request{Account: "a", Meter: "m"})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var got []int
	err = svc.Run(ctx, usage.RunConfig{Every: time.Millisecond, Notify: func(_ context.Context, n usage.Notice) error {
		got = append(got, n.Percent)
		cancel()
		return nil
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int{100}, got, "80 percent of 1 is 1 too: the higher one tells")
}

// A delivery that fails is due again when its claim has ended, with the same ID.
func TestAFailedDeliveryIsRepeated(t *testing.T) {
	clock := &movable{t: at("2026-03-10T12:00:00Z")}
	svc, err := usage.New(usagemem.New(), usage.Config{
		Meters: []usage.Meter{{Name: "m"}}, Now: clock.now,
		Quota: func(context.Context, string, string) (usage.Quota, error) { return usage.Calendar(1), nil },
	})
	require.NoError(t, err)
	_, err = svc.Consume(t.Context(), usage.Request{Account: "a", Meter: "m"})
	require.NoError(t, err)
	var ids []string
	fail := errors.New("smtp is down")
	deliver := func(_ context.Context, n usage.Notice) error {
		ids = append(ids, n.ID)
		return fail
	}
	_, err = svc.DeliverNotices(t.Context(), deliver)
	require.ErrorIs(t, err, fail)
	_, err = svc.DeliverNotices(t.Context(), deliver)
	require.NoError(t, err, "claimed still")
	clock.set(clock.now().Add(time.Hour))
	fail = nil
	n, err := svc.DeliverNotices(t.Context(), deliver)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Len(t, ids, 2)
	require.Equal(t, ids[0], ids[1])
}

// A counter under random steps agrees with a ledger that is kept beside it, and
// never admits beyond the limit.
func TestCountersAgreeWithALedger(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		store := usagemem.New()
		now := at("2026-03-10T12:00:00Z")
		limit := rapid.Int64Range(0, 30).Draw(rt, "limit")
		held := map[string]int64{}
		expires := map[string]time.Time{}
		var used int64
		charge := usage.Charge{Period: usage.Calendar(limit).PeriodAt(now), Limit: limit, Cap: limit}
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			key := fmt.Sprint("k", rapid.IntRange(0, 5).Draw(rt, "key"))
			op := usage.Op{Account: "a", Meter: "m", Charge: charge, Key: key, Now: now, N: rapid.Int64Range(1, 8).Draw(rt, "n")}
			switch rapid.IntRange(0, 4).Draw(rt, "kind") {
			case 0:
				op.Kind, op.Expires, op.Key = usage.Reserve, now.Add(10*time.Minute), fmt.Sprint("k", i)
				d, err := store.Apply(rt.Context(), op)
				require.NoError(rt, err)
				if d.Allowed {
					held[op.Key], expires[op.Key] = op.N, op.Expires
				}
			case 1:
				op.Kind, op.Key = usage.Consume, ""
				d, err := store.Apply(rt.Context(), op)
				require.NoError(rt, err)
				if d.Allowed {
					used += op.N
				}
			case 2:
				// What was used counts, also after the reservation's expiry.
				op.Kind, op.N = usage.Commit, rapid.Int64Range(0, max(held[key], 1)).Draw(rt, "actual")
				if d, err := store.Apply(rt.Context(), op); err == nil && !d.Replayed {
					used += op.N
					delete(held, key)
				}
			case 3:
				op.Kind = usage.Release
				if _, err := store.Apply(rt.Context(), op); err == nil {
					delete(held, key)
				}
			case 4:
				now = now.Add(4 * time.Minute)
				require.NoError(rt, store.Maintain(rt.Context(), now))
				for k := range held {
					if !expires[k].After(now) {
						delete(held, k)
					}
				}
			}
			c, err := store.Counter(rt.Context(), "a", "m", charge.Period)
			require.NoError(rt, err)
			var sum int64
			for _, n := range held {
				sum += n
			}
			// A refusal may have given expired holds back early.
			require.LessOrEqual(rt, c.Held, sum)
			require.Equal(rt, used, c.Used)
		}
	})
}
