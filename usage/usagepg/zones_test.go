package usagepg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
	"github.com/kolekt/commerce/usage/usagepg"
)

var zoneMeters = []usage.Meter{
	{Name: "sum", Aggregation: usage.Sum, Measures: []usage.Measure{{Property: "chars", Scale: 1}}, Dimensions: []string{"tone"}},
	{Name: "max", Aggregation: usage.Max}, {Name: "min", Aggregation: usage.Min}, {Name: "average", Aggregation: usage.Average},
	{Name: "latest", Aggregation: usage.Latest}, {Name: "unique", Aggregation: usage.Unique, Property: "user"}, {Name: "count"},
}

// Zones beside moments at which their clocks were put forward, back, or moved
// for good: by an hour, by half of one, by a quarter, at midnight; the last are
// of times when their offset was no whole number of quarters.
var zoneChanges = []struct{ zone, at string }{
	{"UTC", "2026-03-01T00:00:00Z"},
	{"Asia/Kolkata", "2026-01-31T18:30:00Z"},
	{"Asia/Kathmandu", "2026-05-31T18:15:00Z"},
	{"Asia/Kathmandu", "1985-12-31T18:30:00Z"},
	{"Australia/Lord_Howe", "2026-04-04T15:00:00Z"},
	{"Australia/Lord_Howe", "2025-10-04T15:30:00Z"},
	{"America/Sao_Paulo", "2018-11-04T03:00:00Z"},
	{"America/Sao_Paulo", "2019-02-17T02:00:00Z"},
	{"America/Sao_Paulo", "2026-06-01T03:00:00Z"},
	{"America/New_York", "2026-03-08T07:00:00Z"},
	{"America/New_York", "2025-11-02T06:00:00Z"},
	{"Africa/Cairo", "2026-04-23T22:00:00Z"},
	{"Pacific/Chatham", "2026-04-04T14:00:00Z"},
	{"Pacific/Apia", "2011-12-30T10:00:00Z"},
	{"Africa/Monrovia", "1972-01-07T00:44:30Z"},
	{"America/Sao_Paulo", "1914-01-01T03:06:28Z"},
}

// The series of any time zone are what a scan of the events comes to, whatever
// has been folded and what has come late, across every kind of change of the
// clocks.
func TestEveryZonesSeriesAreThoseOfAScan(t *testing.T) {
	ctx := t.Context()
	store := usagepg.NewWith(migrated(t), usagepg.Config{PackAfter: -1})
	clock := time.Now()
	config := usage.Config{Meters: zoneMeters, MaxAge: -1, Now: func() time.Time { return clock }}
	svc, err := usage.New(store, config)
	require.NoError(t, err)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		account := fmt.Sprint("acct", n)
		scan, err := usage.New(usagemem.New(), config)
		require.NoError(t, err)
		change := rapid.SampledFrom(zoneChanges).Draw(t, "change")
		loc, err := time.LoadLocation(change.zone)
		require.NoError(t, err)
		at, err := time.Parse(time.RFC3339, change.at)
		require.NoError(t, err)
		meter := rapid.SampledFrom(zoneMeters).Draw(t, "meter")
		for range rapid.IntRange(1, 4).Draw(t, "batches") {
			batch := make([]usage.Event, rapid.IntRange(1, 30).Draw(t, "events"))
			for i := range batch {
				batch[i] = zoneEvent(t, account, meter.Name, at)
			}
			_, err := svc.RecordBatch(ctx, batch)
			require.NoError(t, err)
			_, err = scan.RecordBatch(ctx, batch)
			require.NoError(t, err)
			if rapid.Bool().Draw(t, "maintain") {
				// With a present in the middle, so that some is folded.
				require.NoError(t, store.Maintain(ctx, at.Add(time.Duration(rapid.IntRange(-80, 80).Draw(t, "hours"))*time.Hour)))
			}
		}
		q := usage.Query{Account: account, Meter: meter.Name, Location: loc}
		q.From = borderNear(t, at.Add(-72*time.Hour), loc)
		q.To = borderNear(t, at.Add(72*time.Hour), loc)
		q.Step = rapid.SampledFrom([]usage.Step{usage.Day, usage.Day, usage.Hour, usage.Week, usage.Month}).Draw(t, "step")
		if meter.Name == "sum" {
			switch rapid.IntRange(0, 3).Draw(t, "shape") {
			case 1:
				q.GroupBy = "tone"
			case 2:
				q.Filter = map[string]string{"tone": "dry"}
			case 3:
				q.Measure = "chars"
			}
		}
		want, err := scan.Series(ctx, q)
		require.NoError(t, err)
		got, err := svc.Series(ctx, q)
		require.NoError(t, err)
		require.Equal(t, want, got)
		q.Step, q.Measure = "", ""
		before, err := scan.Compare(ctx, q)
		require.NoError(t, err)
		after, err := svc.Compare(ctx, q)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
	audit, err := svc.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, audit.Differences)
}

// zoneEvent is an event near a moment, often on a border of quarters.
func zoneEvent(t *rapid.T, account, meter string, at time.Time) usage.Event {
	at = at.Add(time.Duration(rapid.Int64Range(-100*3600, 100*3600).Draw(t, "seconds from it")) * time.Second)
	if rapid.Bool().Draw(t, "on a border") {
		at = at.Truncate(15 * time.Minute).Add(time.Duration(rapid.SampledFrom([]int{-1, 0}).Draw(t, "before")) * time.Microsecond)
	}
	e := usage.Event{Account: account, Meter: meter, Value: 1, Time: at}
	switch meter {
	case "unique":
		e.Properties = usage.Properties{usage.String("user", rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "user"))}
	case "sum":
		e.Properties = usage.Properties{
			usage.String("tone", rapid.SampledFrom([]string{"dry", "casual"}).Draw(t, "tone")),
			usage.Int("chars", rapid.Int64Range(0, 9).Draw(t, "chars")),
		}
	}
	if meter != "count" && meter != "unique" {
		e.Value = rapid.Int64Range(-50, 50).Draw(t, "value")
	}
	return e
}

// borderNear is the beginning of a day of the zone, or any moment.
func borderNear(t *rapid.T, at time.Time, loc *time.Location) time.Time {
	at = at.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, "hours off")) * time.Hour)
	if rapid.IntRange(0, 3).Draw(t, "any moment") == 0 {
		return at.Add(time.Duration(rapid.IntRange(0, 3599).Draw(t, "seconds off")) * time.Second)
	}
	y, m, d := at.In(loc).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, loc)
}

// statements remembers what a pool was asked.
type statements struct{ list []string }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.list = append(s.list, data.SQL)
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Days and hours of every zone of today are answered without reading an event,
// in one statement. The control, a minute's series, reads them.
func TestNoZonesDaysReadEvents(t *testing.T) {
	ctx := t.Context()
	cfg := migrated(t).Config()
	var asked statements
	cfg.ConnConfig.Tracer = &asked
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	require.NoError(t, err)
	defer pool.Close()
	svc, err := usage.New(usagepg.New(pool), usage.Config{Meters: zoneMeters, Now: func() time.Time { return june }})
	require.NoError(t, err)
	ask := func(zone string, step usage.Step) (n int, events bool) {
		loc, err := time.LoadLocation(zone)
		require.NoError(t, err)
		asked.list = nil
		q := usage.Query{Account: "a", Meter: "sum", Location: loc, Step: step}
		if step == usage.Minute {
			q.From, q.To = june.Add(-time.Hour), june
		}
		_, err = svc.Series(ctx, q)
		require.NoError(t, err)
		return len(asked.list), strings.Contains(strings.Join(asked.list, ";"), "usage_events")
	}
	for _, change := range zoneChanges {
		for _, step := range []usage.Step{usage.Hour, usage.Day, usage.Week, usage.Month} {
			n, events := ask(change.zone, step)
			require.Equal(t, 1, n, change.zone)
			require.False(t, events, change.zone)
		}
	}
	_, events := ask("UTC", usage.Minute)
	require.True(t, events)
}
