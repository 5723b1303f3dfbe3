package usagetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/usage"
)

// aggregateEqualsScan records a random history in random order and compares
// every kind of query with a scan that this package writes for itself.
func aggregateEqualsScan(t *testing.T, s usage.Store) {
	k := newKit(t, s, usage.Unlimited)
	r := rand.New(rand.NewPCG(11, 12))
	for i, part := range slices.Collect(slices.Chunk(randomEvents(r, 600), 60)) {
		res, err := k.svc.RecordBatch(k.ctx, part)
		require.NoError(t, err)
		require.Empty(t, res.Rejected)
		if i == 3 || i == 6 {
			// What comes after this is late for what it compacts.
			require.NoError(t, k.svc.Maintain(k.ctx))
		}
	}
	k.clean(t)
	history := all(t, k, s)
	require.Len(t, history, 600)
	for i := range 250 {
		sel := randomSelection(r)
		want := scan(history, sel)
		got, err := s.Aggregate(k.ctx, sel)
		require.NoError(t, err)
		for j := range got {
			got[j].LastAt = got[j].LastAt.UTC()
		}
		require.Equal(t, want, got, "selection %d: %+v", i, sel)
	}
	for range 20 {
		sel := randomSelection(r)
		sel.Account, sel.GroupBy, sel.Unique = "", "", ""
		sel.Bounds = []time.Time{sel.Bounds[0], sel.Bounds[len(sel.Bounds)-1]}
		var want []usage.AccountStats
		for _, account := range []string{"acct0", "acct1", "acct2"} {
			one := sel
			one.Account = account
			for _, p := range scan(history, one) {
				want = append(want, usage.AccountStats{Account: account, Stats: p.Stats})
			}
		}
		sort.SliceStable(want, func(i, j int) bool { return want[i].Sum > want[j].Sum })
		want = want[:min(2, len(want))]
		got, err := s.Accounts(k.ctx, sel, 2)
		require.NoError(t, err)
		require.Len(t, got, len(want))
		for i := range got {
			require.Equal(t, want[i].Account, got[i].Account)
			require.Equal(t, want[i].Sum, got[i].Sum)
			require.Equal(t, want[i].Count, got[i].Count)
		}
		compareActivity(t, k, s, history, randomSelection(r).Bounds)
	}
}

// compareActivity checks Active and Retention.
func compareActivity(t *testing.T, k kit, s usage.Store, history []usage.Entry, bounds []time.Time) {
	n := len(bounds) - 1
	active := make([]int64, n)
	retention := make([][]int64, n)
	for i := range retention {
		retention[i] = make([]int64, n)
	}
	for _, account := range []string{"acct0", "acct1", "acct2"} {
		first := -1
		spans := make([]bool, n)
		for _, p := range scan(history, usage.Selection{Account: account, Meter: "tokens", Bounds: bounds}) {
			spans[p.Span] = true
		}
		for i, is := range spans {
			if !is {
				continue
			}
			if first < 0 {
				first = i
			}
			active[i]++
			retention[first][i]++
		}
	}
	gotActive, err := s.Active(k.ctx, "tokens", bounds)
	require.NoError(t, err)
	require.Equal(t, active, gotActive)
	gotRetention, err := s.Retention(k.ctx, "tokens", bounds)
	require.NoError(t, err)
	require.Equal(t, retention, gotRetention)
}

// all reads the whole history back.
func all(t *testing.T, k kit, s usage.Store) []usage.Entry {
	t.Helper()
	var out []usage.Entry
	for i := range 3 {
		got, err := s.Events(k.ctx, usage.EventPage{Account: fmt.Sprint("acct", i), From: start.AddDate(0, -4, 0), To: start.AddDate(0, 0, 1)}, 10_000)
		require.NoError(t, err)
		out = append(out, got...)
	}
	return out
}

func randomSelection(r *rand.Rand) usage.Selection {
	sel := usage.Selection{Meter: meters[r.IntN(len(meters))].Name}
	if r.IntN(3) > 0 {
		sel.Account = fmt.Sprint("acct", r.IntN(3))
	}
	from := start.AddDate(0, 0, -r.IntN(100))
	switch r.IntN(3) {
	case 0:
		from = from.Truncate(24 * time.Hour)
	case 1:
		from = from.Truncate(15 * time.Minute).Add(-time.Duration(r.IntN(90)) * 15 * time.Minute)
	}
	if r.IntN(4) == 0 {
		return randomDays(r, sel, from)
	}
	steps := []time.Duration{time.Hour, 24 * time.Hour, 25 * time.Hour, 17 * time.Minute, 30 * 24 * time.Hour}
	step := steps[r.IntN(len(steps))]
	sel.Bounds = []time.Time{from}
	for range 1 + r.IntN(30) {
		from = from.Add(step)
		sel.Bounds = append(sel.Bounds, from)
	}
	return randomShape(r, sel)
}

// zones have days that begin at every quarter of an hour, and of every length.
var zones = []string{"UTC", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo"}

// randomDays selects days of a time zone.
func randomDays(r *rand.Rand, sel usage.Selection, from time.Time) usage.Selection {
	loc, err := time.LoadLocation(zones[r.IntN(len(zones))])
	if err != nil {
		loc = time.UTC // the machine has no zones
	}
	y, m, d := from.In(loc).Date()
	for i := range 2 + r.IntN(30) {
		sel.Bounds = append(sel.Bounds, time.Date(y, m, d+i, 0, 0, 0, 0, loc).UTC())
	}
	return randomShape(r, sel)
}

func randomShape(r *rand.Rand, sel usage.Selection) usage.Selection {
	sel.Declared = true
	if sel.Meter == "users" {
		sel.Unique = "user"
	}
	if sel.Meter != "kolekts" {
		return sel
	}
	switch r.IntN(3) {
	case 0:
		sel.Figure = "chars"
	case 1:
		sel.Figure, sel.Scale = "score", 2
	}
	switch r.IntN(5) {
	case 0:
		sel.GroupBy = "tone"
	case 1:
		sel.Filter = map[string]string{"images": "true"}
	case 2:
		sel.GroupBy, sel.Filter, sel.Declared = "images", map[string]string{"tone": "é=x"}, false
	case 3:
		sel.GroupBy, sel.Declared = "words", false
	}
	return sel
}

// scan is the plainest possible Aggregate.
func scan(history []usage.Entry, sel usage.Selection) []usage.Point {
	texts := func(e usage.Entry, name string) (string, bool) {
		v, ok := e.Properties.Get(name)
		return fmt.Sprint(v.Value()), ok
	}
	points := []usage.Point{}
	for span := range len(sel.Bounds) - 1 {
		groups := map[string]*usage.Point{}
		unique := map[string]map[string]bool{}
	events:
		for _, e := range history {
			if e.Meter != sel.Meter || sel.Account != "" && e.Account != sel.Account ||
				e.Time.Before(sel.Bounds[span]) || !e.Time.Before(sel.Bounds[span+1]) {
				continue
			}
			for name, want := range sel.Filter {
				if got, ok := texts(e, name); !ok || got != want {
					continue events
				}
			}
			group := ""
			if sel.GroupBy != "" {
				var ok bool
				if group, ok = texts(e, sel.GroupBy); !ok {
					continue
				}
			}
			value := e.Value
			if sel.Figure != "" {
				v, ok := e.Properties.Get(sel.Figure)
				if !ok || !v.IsNumber() {
					continue
				}
				f, err := v.Value().(json.Number).Float64()
				if err != nil {
					panic(err)
				}
				for range sel.Scale {
					f *= 10
				}
				value = int64(f + 0.5)
			}
			p := groups[group]
			if p == nil {
				p = &usage.Point{Span: span, Group: group, Stats: usage.Stats{Scale: sel.Scale, Min: value, Max: value, Last: value, LastAt: e.Time}}
				groups[group] = p
				unique[group] = map[string]bool{}
			}
			p.Count++
			p.Sum += value
			p.Min, p.Max = min(p.Min, value), max(p.Max, value)
			if e.Time.After(p.LastAt) || e.Time.Equal(p.LastAt) && value > p.Last {
				p.Last, p.LastAt = value, e.Time
			}
			if sel.Unique != "" {
				v, _ := texts(e, sel.Unique)
				unique[group][v] = true
			}
		}
		names := make([]string, 0, len(groups))
		for name := range groups {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			p := *groups[name]
			p.Unique = int64(len(unique[name]))
			p.LastAt = p.LastAt.UTC()
			points = append(points, p)
		}
	}
	return points
}
