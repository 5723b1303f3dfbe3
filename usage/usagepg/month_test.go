package usagepg

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var aMonth = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func randomMonth(t *rapid.T, g grain) (totals []total) {
	for i := range 31 {
		if rapid.IntRange(0, 2).Draw(t, "has events") == 0 {
			continue
		}
		at := aMonth.Unix() + int64(i)*int64(g)
		if g == byQuarter { // the same few hours of several days
			at += int64(i/7) * daySeconds
		}
		d := total{from: at}
		d.scale = int16(rapid.IntRange(0, 2).Draw(t, "scale"))
		after := rapid.Int64Range(0, int64(g)*1e6-1).Draw(t, "last at")
		if rapid.Bool().Draw(t, "in milliseconds") {
			after -= after % 1000
		}
		d.lastAt = at*1e6 + after
		d.sum = rapid.Int64().Draw(t, "sum")
		if d.cnt = 1; rapid.Bool().Draw(t, "single") {
			d.min, d.max, d.last = d.sum, d.sum, d.sum
		} else {
			d.cnt = rapid.Int64Range(1, math.MaxInt64/64).Draw(t, "count")
			d.min, d.max, d.last = rapid.Int64().Draw(t, "min"), rapid.Int64().Draw(t, "max"), rapid.Int64().Draw(t, "last")
		}
		totals = append(totals, d)
	}
	return totals
}

func decoded(g grain, data []byte) (totals []total, err error) {
	err = decodeTotals(aMonth.Unix(), g, data, func(d *total) error {
		totals = append(totals, *d)
		return nil
	})
	return totals, err
}

func TestTotalsReadBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := rapid.SampledFrom([]grain{byDay, byQuarter}).Draw(t, "grain")
		totals := randomMonth(t, g)
		data, err := encodeTotals(aMonth.Unix(), g, totals)
		require.NoError(t, err)
		got, err := decoded(g, data)
		require.NoError(t, err)
		require.Equal(t, totals, got)
		if len(totals) > 0 { // one that is cut off is noticed
			_, err = decoded(g, data[:len(data)-1])
			require.ErrorIs(t, err, errMonth)
		}
	})
}

// Whichever days are asked for by the quarter, each total comes once, and the
// parts of a day make the day.
func TestAMonthIsReadByDaysAndQuarters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		quarters, _ := joinQuarters(nil, randomMonth(t, byQuarter))
		days, rest, err := encodeMonth(aMonth, quarters)
		require.NoError(t, err)
		cut := rapid.SliceOfN(rapid.Bool(), 31, 31).Draw(t, "cut")
		var want, got []total
		for _, q := range quarters {
			if cut[(q.from-aMonth.Unix())/daySeconds] {
				want = append(want, q)
				continue
			}
			if n := len(want); n > 0 && want[n-1].from == q.day() {
				require.True(t, want[n-1].merge(&q.sums))
				continue
			}
			want = append(want, total{q.day(), q.sums})
		}
		isCut := func(day int64) bool { return cut[(day-aMonth.Unix())/daySeconds] }
		require.NoError(t, decodeMonth(aMonth, days, rest, isCut, func(d *total) error {
			got = append(got, *d)
			return nil
		}))
		slices.SortFunc(got, func(a, b total) int { return cmp.Compare(a.from, b.from) })
		require.Equal(t, want, got)
		if !slices.Contains(cut, true) {
			require.NoError(t, decodeMonth(aMonth, days, []byte{0xff}, isCut, func(*total) error { return nil }), "nobody asks for them")
		}
	})
	start := aMonth.Unix()
	_, quarters, err := encodeMonth(aMonth, []total{single(start), single(start + quarterSeconds)})
	require.NoError(t, err)
	err = decodeMonth(aMonth, nil, quarters, always, func(*total) error { return nil })
	require.NoError(t, err, "nothing is asked for")
	days, _, err := encodeMonth(aMonth, []total{single(start + daySeconds)})
	require.NoError(t, err)
	err = decodeMonth(aMonth, days, quarters, always, func(*total) error { return nil })
	require.ErrorIs(t, err, errMonth, "quarters of another day")
}

// Quarters are joined in any parts to the same months, and none goes astray.
func TestQuartersJoinInAnyParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Those that fit each other.
		quarters, _ := joinQuarters(nil, randomMonth(t, byQuarter))
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
		events := func(list []total) (n int64) {
			for i := range list {
				n += list[i].cnt % 1000 // the counts of all together are too large
			}
			return n
		}
		var more int64
		for i := range again {
			j, had := slices.BinarySearchFunc(merged, again[i].from, func(t total, from int64) int { return cmp.Compare(t.from, from) })
			if n := again[i].cnt; had {
				more += (n - merged[j].cnt) % 1000
			} else {
				more += n % 1000
			}
		}
		require.Equal(t, events(quarters), more+events(left))
	})
}

// single is a total of one event.
func single(from int64) total { return total{from, sums{cnt: 1, lastAt: from * 1e6}} }

func TestAMonthRefusesWhatItCannotHold(t *testing.T) {
	start := aMonth.Unix()
	none, below := single(start), single(start)
	none.cnt, below.scale = 0, -1
	elsewhere := single(start)
	elsewhere.lastAt += daySeconds * 1e6
	for name, totals := range map[string][]total{
		"no events":          {none},
		"twice":              {single(start), single(start)},
		"before the month":   {single(start - daySeconds)},
		"in a minute":        {single(start + 60)},
		"of another day":     {elsewhere},
		"behind all months":  {single(start + longest)},
		"of a scale below 0": {below},
	} {
		for _, g := range []grain{byDay, byQuarter} {
			_, err := encodeTotals(aMonth.Unix(), g, totals)
			require.Error(t, err, name)
		}
	}
	full, more := single(start), single(start+quarterSeconds)
	full.sum, more.sum = math.MaxInt64, 1
	_, left := joinQuarters([]total{full}, []total{full})
	require.Len(t, left, 1, "too large")
	_, left = joinQuarters([]total{full}, []total{more})
	require.Len(t, left, 1, "too large for the day")
	more.sum, more.scale = -1, 2
	_, left = joinQuarters([]total{full}, []total{more})
	require.Len(t, left, 1, "of another scale than its day")
	_, _, err := encodeMonth(aMonth, []total{full, more})
	require.ErrorContains(t, err, "fit")
}

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same totals again.
func FuzzMonth(f *testing.F) {
	start := aMonth.Unix()
	for _, days := range [][]total{
		{{start, sums{cnt: 1, sum: 5, min: 5, max: 5, last: 5, lastAt: (start + 60) * 1e6}}},
		{
			{start, sums{cnt: 3, sum: -5, min: -9, max: 5, last: 2, lastAt: start*1e6 + 1, scale: 2}},
			{start + 30*daySeconds, sums{cnt: 1, sum: 1, min: 1, max: 1, last: 1, lastAt: (start + 30*daySeconds) * 1e6}},
		},
	} {
		for _, g := range []grain{byDay, byQuarter} {
			data, err := encodeTotals(aMonth.Unix(), g, days)
			require.NoError(f, err)
			f.Add(data, g == byQuarter)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, fine bool) {
		g := byDay
		if fine {
			g = byQuarter
		}
		totals, err := decoded(g, data)
		if err != nil {
			return
		}
		if len(totals) > 0 && totals[len(totals)-1].from-start >= longest {
			t.Fatalf("a total behind the month: %v", totals[len(totals)-1].from)
		}
		again, err := encodeTotals(aMonth.Unix(), g, totals)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decoded(g, again)
		if err != nil || !slices.Equal(back, totals) {
			t.Fatal(err, totals, back)
		}
		// The days of one as quarters of the others: most of it is damage.
		months := func(days, quarters []byte) {
			var all []total
			err := decodeMonth(aMonth, days, quarters, always, func(d *total) error {
				all = append(all, *d)
				return nil
			})
			if err != nil || !slices.IsSortedFunc(all, func(a, b total) int { return cmp.Compare(a.from, b.from) }) {
				return
			}
			if days, quarters, err = encodeMonth(aMonth, all); err != nil {
				return // days that aren't what their quarters are, maybe
			}
			n := 0
			err = decodeMonth(aMonth, days, quarters, always, func(d *total) error {
				if n == len(all) || all[n] != *d {
					t.Fatal(all, *d)
				}
				n++
				return nil
			})
			if err != nil || n != len(all) {
				t.Fatal(err, n, all)
			}
		}
		full := []total{single(start), single(start + daySeconds)}
		if days, _, err := encodeMonth(aMonth, full); err == nil {
			months(days, data)
		}
		months(data, data)
	})
}
