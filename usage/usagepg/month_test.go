package usagepg

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
)

var aMonth = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func randomMonth(t *rapid.T) (days []dayTotal) {
	for i := range 31 {
		if rapid.IntRange(0, 2).Draw(t, "has events") == 0 {
			continue
		}
		at := aMonth.AddDate(0, 0, i)
		d := dayTotal{day: at, scale: int16(rapid.IntRange(0, 2).Draw(t, "scale"))}
		d.LastAt = at.Add(time.Duration(rapid.Int64Range(0, day.Microseconds()-1).Draw(t, "last at")) * time.Microsecond)
		if rapid.Bool().Draw(t, "in milliseconds") {
			d.LastAt = d.LastAt.Truncate(time.Millisecond)
		}
		d.Sum = rapid.Int64().Draw(t, "sum")
		if d.Count = 1; rapid.Bool().Draw(t, "single") {
			d.Min, d.Max, d.Last = d.Sum, d.Sum, d.Sum
		} else {
			d.Count = rapid.Int64Range(1, math.MaxInt64).Draw(t, "count")
			d.Min, d.Max, d.Last = rapid.Int64().Draw(t, "min"), rapid.Int64().Draw(t, "max"), rapid.Int64().Draw(t, "last")
		}
		days = append(days, d)
	}
	return days
}

func decodedMonth(data []byte) (days []dayTotal, err error) {
	err = decodeMonth(aMonth, data, func(d dayTotal) error {
		days = append(days, d)
		return nil
	})
	return days, err
}

func TestAMonthReadsBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := randomMonth(t)
		data, err := encodeMonth(aMonth, days)
		require.NoError(t, err)
		got, err := decodedMonth(data)
		require.NoError(t, err)
		require.Equal(t, days, got)
		if len(days) > 0 { // a day that is cut off is noticed
			_, err = decodedMonth(data[:len(data)-1])
			require.ErrorIs(t, err, errMonth)
		}
	})
}

// Days are joined in any parts to the same months, and none goes astray.
func TestDaysJoinInAnyParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := randomMonth(t)
		var first, second []dayTotal
		for _, d := range days {
			if rapid.Bool().Draw(t, "first") {
				first = append(first, d)
			} else {
				second = append(second, d)
			}
		}
		merged, left := joinDays(first, second)
		require.Empty(t, left)
		require.Len(t, merged, len(days))
		for i := range days {
			require.Equal(t, days[i], merged[i])
		}
		// Once more: each is either in its day, or left over for being of
		// another scale or too large.
		again, left := joinDays(merged, days)
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
	for name, days := range map[string][]dayTotal{
		"no events":          {{day: aMonth, Stats: usage.Stats{LastAt: aMonth}}},
		"twice":              {{day: aMonth, Stats: one}, {day: aMonth, Stats: one}},
		"before the month":   {{day: aMonth.AddDate(0, 0, -1), Stats: one}},
		"in the day":         {{day: aMonth.Add(time.Hour), Stats: one}},
		"of another day":     {{day: aMonth.AddDate(0, 0, 1), Stats: one}},
		"behind all months":  {{day: aMonth.AddDate(0, 0, 31), Stats: usage.Stats{Count: 1, LastAt: aMonth.AddDate(0, 0, 31)}}},
		"of a scale below 0": {{day: aMonth, scale: -1, Stats: one}},
	} {
		_, err := encodeMonth(aMonth, days)
		require.Error(t, err, name)
	}
	full := dayTotal{day: aMonth, Stats: usage.Stats{Count: 1, Sum: math.MaxInt64, LastAt: aMonth}}
	_, left := joinDays([]dayTotal{full}, []dayTotal{full})
	require.Len(t, left, 1, "too large")
}

// Whatever the bytes, decoding ends without a panic, and what it accepts is
// encoded to the same days again.
func FuzzMonth(f *testing.F) {
	for _, days := range [][]dayTotal{
		{{day: aMonth, Stats: usage.Stats{Count: 1, Sum: 5, Min: 5, Max: 5, Last: 5, LastAt: aMonth.Add(time.Hour)}}},
		{
			{day: aMonth, scale: 2, Stats: usage.Stats{Count: 3, Sum: -5, Min: -9, Max: 5, Last: 2, LastAt: aMonth.Add(time.Microsecond)}},
			{day: aMonth.AddDate(0, 0, 30), Stats: usage.Stats{Count: 1, Sum: 1, Min: 1, Max: 1, Last: 1, LastAt: aMonth.AddDate(0, 0, 30)}},
		},
	} {
		data, err := encodeMonth(aMonth, days)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		days, err := decodedMonth(data)
		if err != nil {
			return
		}
		if len(days) > 0 && days[len(days)-1].day.Sub(aMonth) > 30*day {
			t.Fatalf("a day behind the month: %v", days[len(days)-1].day)
		}
		again, err := encodeMonth(aMonth, days)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodedMonth(again)
		if err != nil || len(back) != len(days) {
			t.Fatal(err, days, back)
		}
		for i := range days {
			if days[i] != back[i] {
				t.Fatal(days[i], back[i])
			}
		}
	})
}
