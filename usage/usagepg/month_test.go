package usagepg

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
)

var aMonth = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func randomMonth(t *rapid.T, grain time.Duration) (totals []total) {
	for i := range 31 {
		if rapid.IntRange(0, 2).Draw(t, "has events") == 0 {
			continue
		}
		at := aMonth.Add(time.Duration(i) * grain)
		if grain == quarter { // the same few hours of several days
			at = at.Add(time.Duration(i/7) * day)
		}
		d := total{from: at, scale: int16(rapid.IntRange(0, 2).Draw(t, "scale"))}
		d.LastAt = at.Add(time.Duration(rapid.Int64Range(0, grain.Microseconds()-1).Draw(t, "last at")) * time.Microsecond)
		if rapid.Bool().Draw(t, "in milliseconds") {
			d.LastAt = d.LastAt.Truncate(time.Millisecond)
		}
		d.Sum = rapid.Int64().Draw(t, "sum")
		if d.Count = 1; rapid.Bool().Draw(t, "single") {
			d.Min, d.Max, d.Last = d.Sum, d.Sum, d.Sum
		} else {
			d.Count = rapid.Int64Range(1, math.MaxInt64/64).Draw(t, "count")
			d.Min, d.Max, d.Last = rapid.Int64().Draw(t, "min"), rapid.Int64().Draw(t, "max"), rapid.Int64().Draw(t, "last")
		}
		totals = append(totals, d)
	}
	return totals
}

func decoded(grain time.Duration, data []byte) (totals []total, err error) {
	err = decodeTotals(aMonth, grain, data, func(d total) error {
		totals = append(totals, d)
		return nil
	})
	return totals, err
}

func TestTotalsReadBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		grain := rapid.SampledFrom([]time.Duration{day, quarter}).Draw(t, "grain")
		totals := randomMonth(t, grain)
		data, err := encodeTotals(aMonth, grain, totals)
		require.NoError(t, err)
		got, err := decoded(grain, data)
		require.NoError(t, err)
		require.Equal(t, totals, got)
		if len(totals) > 0 { // one that is cut off is noticed
			_, err = decoded(grain, data[:len(data)-1])
			require.ErrorIs(t, err, errMonth)
		}
	})
}

// Whichever days are asked for by the quarter, each total comes once, and the
// parts of a day make the day.
func TestAMonthIsReadByDaysAndQuarters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		quarters, _ := joinQuarters(nil, randomMonth(t, quarter))
		days, rest, err := encodeMonth(aMonth, quarters)
		require.NoError(t, err)
		cut := rapid.SliceOfN(rapid.Bool(), 31, 31).Draw(t, "cut")
		var want, got []total
		for _, q := range quarters {
			if cut[q.from.Day()-1] {
				want = append(want, q)
				continue
			}
			at := q.from.Truncate(day)
			if n := len(want); n == 0 || !want[n-1].from.Equal(at) {
				want = append(want, total{from: at, scale: q.scale})
			}
			require.NoError(t, want[len(want)-1].Merge(q.Stats))
		}
		byDay := func(day time.Time) bool { return cut[day.Day()-1] }
		require.NoError(t, decodeMonth(aMonth, days, rest, byDay, func(d total) error {
			got = append(got, d)
			return nil
		}))
		slices.SortFunc(got, func(a, b total) int { return a.from.Compare(b.from) })
		require.Equal(t, want, got)
		if !slices.Contains(cut, true) {
			require.NoError(t, decodeMonth(aMonth, days, []byte{0xff}, byDay, func(total) error { return nil }), "nobody asks for them")
		}
	})
	one := []total{{from: aMonth, Stats: usage.Stats{Count: 1, LastAt: aMonth}}, {from: aMonth.Add(quarter), Stats: usage.Stats{Count: 1, LastAt: aMonth.Add(quarter)}}}
	_, quarters, err := encodeMonth(aMonth, one)
	require.NoError(t, err)
	err = decodeMonth(aMonth, nil, quarters, always, func(total) error { return nil })
	require.NoError(t, err, "nothing is asked for")
	days, _, err := encodeMonth(aMonth, []total{{from: aMonth.Add(day), Stats: usage.Stats{Count: 1, LastAt: aMonth.Add(day)}}})
	require.NoError(t, err)
	err = decodeMonth(aMonth, days, quarters, always, func(total) error { return nil })
	require.ErrorIs(t, err, errMonth, "quarters of another day")
}

// Quarters are joined in any parts to the same months, and none goes astray.
func TestQuartersJoinInAnyParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Those that fit each other.
		quarters, _ := joinQuarters(nil, randomMonth(t, quarter))
		var first, second []total
		for _, d := range quarters {
			if rapid.Bool().Draw(t, "first") {
				first = append(first, d)
			} else {
				second = append(second, d)
			}
		}
		merged, left := joinQuarters(first, second)
		if len(left) == 0 { // on the way there, a sum may be too large
			require.Equal(t, quarters, merged)
		}
		// Once more: each is either in its day, or left over for being of
		// another scale or too large.
		again, left := joinQuarters(merged, quarters)
		var before, after, over int64
		for i, d := range merged {
			before += d.Count % 1000
			after += (again[i].Count - d.Count) % 1000
		}
		for _, d := range left {
			over += d.Count % 1000
		}
		require.Equal(t, before, after+over)
	})
}

func TestAMonthRefusesWhatItCannotHold(t *testing.T) {
	one := usage.Stats{Count: 1, LastAt: aMonth}
	for name, totals := range map[string][]total{
		"no events":          {{from: aMonth, Stats: usage.Stats{LastAt: aMonth}}},
		"twice":              {{from: aMonth, Stats: one}, {from: aMonth, Stats: one}},
		"before the month":   {{from: aMonth.AddDate(0, 0, -1), Stats: one}},
		"in the day":         {{from: aMonth.Add(time.Minute), Stats: one}},
		"of another day":     {{from: aMonth.AddDate(0, 0, 1), Stats: one}},
		"behind all months":  {{from: aMonth.AddDate(0, 0, 31), Stats: usage.Stats{Count: 1, LastAt: aMonth.AddDate(0, 0, 31)}}},
		"of a scale below 0": {{from: aMonth, scale: -1, Stats: one}},
	} {
		for _, grain := range []time.Duration{day, quarter} {
			_, err := encodeTotals(aMonth, grain, totals)
			require.Error(t, err, name)
		}
	}
	second := aMonth.Add(quarter)
	_, _, err := encodeMonth(aMonth, []total{{from: aMonth, Stats: one}, {from: second, scale: 1, Stats: usage.Stats{Count: 1, LastAt: second}}})
	require.ErrorContains(t, err, "one scale")
	full := total{from: aMonth, Stats: usage.Stats{Count: 1, Sum: math.MaxInt64, LastAt: aMonth}}
	_, left := joinQuarters([]total{full}, []total{full})
	require.Len(t, left, 1, "too large")
	more := total{from: second, Stats: usage.Stats{Count: 1, Sum: 1, LastAt: second}}
	_, left = joinQuarters([]total{full}, []total{more})
	require.Len(t, left, 1, "too large for the day")
	other := more
	other.Sum, other.scale = -1, 2
	_, left = joinQuarters([]total{full}, []total{other})
	require.Len(t, left, 1, "of another scale than its day")
}

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same totals again.
func FuzzMonth(f *testing.F) {
	for _, days := range [][]total{
		{{from: aMonth, Stats: usage.Stats{Count: 1, Sum: 5, Min: 5, Max: 5, Last: 5, LastAt: aMonth.Add(time.Minute)}}},
		{
			{from: aMonth, scale: 2, Stats: usage.Stats{Count: 3, Sum: -5, Min: -9, Max: 5, Last: 2, LastAt: aMonth.Add(time.Microsecond)}},
			{from: aMonth.AddDate(0, 0, 30), Stats: usage.Stats{Count: 1, Sum: 1, Min: 1, Max: 1, Last: 1, LastAt: aMonth.AddDate(0, 0, 30)}},
		},
	} {
		for _, grain := range []time.Duration{day, quarter} {
			data, err := encodeTotals(aMonth, grain, days)
			require.NoError(f, err)
			f.Add(data, grain == quarter)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, fine bool) {
		grain := day
		if fine {
			grain = quarter
		}
		totals, err := decoded(grain, data)
		if err != nil {
			return
		}
		if len(totals) > 0 && totals[len(totals)-1].from.Sub(aMonth) >= longest {
			t.Fatalf("a total behind the month: %v", totals[len(totals)-1].from)
		}
		again, err := encodeTotals(aMonth, grain, totals)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decoded(grain, again)
		if err != nil || !slices.Equal(back, totals) {
			t.Fatal(err, totals, back)
		}
		if !fine {
			_ = decodeMonth(aMonth, data, again, always, func(total) error { return nil })
		}
	})
}
