package usage_test

import (
	"archive/zip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/usage"
	"github.com/kolekt/commerce/usage/usagemem"
)

// zones returns all names of the tz database that comes with Go.
func zones(t testing.TB) []string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	r, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Skipf("no tz database: %v", err)
	}
	defer r.Close()
	var out []string
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			out = append(out, f.Name)
		}
	}
	require.Greater(t, len(out), 400)
	if os.Getenv("COMMERCE_PROVE") != "1" {
		some := []string{"America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana", "Africa/Cairo", "Pacific/Apia", "America/Sao_Paulo"}
		for i := 0; i < len(out); i += 25 {
			some = append(some, out[i])
		}
		return some
	}
	return out
}

// For every zone, 31 anchors and 12 years: periods are gapless, never longer
// than 31 days, and begin on the anchor's day or on the last of its month.
func TestPeriodsFollowTheirAnchorForTwelveYears(t *testing.T) {
	for _, name := range zones(t) {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err, name)
		for day := 1; day <= 31; day++ {
			anchor := time.Date(2024, 1, day, 2, 30, 0, 0, loc)
			q := usage.Quota{Limit: 1, Anchor: anchor}
			utc := anchor.UTC()
			p := q.PeriodAt(anchor)
			require.True(t, p.From.Equal(anchor), "%s %d: the anchor begins a period", name, day)
			for range 12 * 12 {
				last := time.Date(p.From.Year(), p.From.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
				if p.From.Day() != min(utc.Day(), last) || p.From.Hour() != utc.Hour() || p.From.Minute() != utc.Minute() {
					t.Fatalf("%s: anchor %v gives a period from %v", name, utc, p.From)
				}
				if d := p.To.Sub(p.From); d < 28*24*time.Hour || d > 31*24*time.Hour {
					t.Fatalf("%s: anchor %v gives %v of %v", name, utc, p, d)
				}
				next := q.PeriodAt(p.To)
				if !next.From.Equal(p.To) || !q.PeriodAt(p.To.Add(-1)).From.Equal(p.From) {
					t.Fatalf("%s: anchor %v: a gap at %v", name, utc, p.To)
				}
				p = next
			}
		}
	}
}

func TestAGivenPeriodIsTheTruth(t *testing.T) {
	from, to := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC), time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)
	q := usage.Quota{From: from, To: to}
	require.Equal(t, usage.Period{From: from, To: to}, q.PeriodAt(to.Add(-1)))
	require.Equal(t, from, q.PeriodAt(from).From)
	require.NotEqual(t, from, q.PeriodAt(to).From)
	require.Equal(t, "2026-03-01T00:00:00Z", usage.Calendar(1).PeriodAt(to).From.Format(time.RFC3339))
	require.Equal(t, time.Monday, usage.Quota{Every: usage.Weekly}.PeriodAt(to).From.Weekday())
	require.Equal(t, 24*time.Hour, usage.Quota{Every: usage.Daily}.PeriodAt(to).To.Sub(usage.Quota{Every: usage.Daily}.PeriodAt(to).From))
	require.Equal(t, 1, usage.Quota{Every: usage.Yearly}.PeriodAt(to).From.YearDay())
}

// In every zone the days of a series are exactly the calendar's: each instant
// of a point has the point's date, and no date is missing or comes twice.
func TestSeriesDaysAreTheCalendarsInEveryZone(t *testing.T) {
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m"}}})
	require.NoError(t, err)
	for _, name := range zones(t) {
		loc, err := time.LoadLocation(name)
		require.NoError(t, err, name)
		for year := 1988; year < 2028; year += 2 { // old years have the odd rules
			from := time.Date(year, 1, 10, 12, 0, 0, 0, loc)
			points, err := svc.Series(t.Context(), usage.Query{Meter: "m", From: from, To: from.AddDate(1, 0, 0), Location: loc})
			require.NoError(t, err)
			lastDate := ""
			for i, p := range points {
				if i > 0 && !p.From.Equal(points[i-1].To) {
					t.Fatalf("%s: a gap at %v", name, p.From)
				}
				first, last := p.From.In(loc).Format(time.DateOnly), p.To.Add(-1).In(loc).Format(time.DateOnly)
				if first != last || first <= lastDate {
					t.Fatalf("%s: the point from %v to %v is on %s and %s after %s", name, p.From, p.To, first, last, lastDate)
				}
				lastDate = first
			}
		}
	}
}

// Whatever the step, the points cover the range without a gap or an overlap.
func TestStepsPartitionTheRange(t *testing.T) {
	names := zones(t)
	svc, err := usage.New(usagemem.New(), usage.Config{Meters: []usage.Meter{{Name: "m"}}})
	require.NoError(t, err)
	rapid.Check(t, func(rt *rapid.T) {
		loc, err := time.LoadLocation(rapid.SampledFrom(names).Draw(rt, "zone"))
		require.NoError(rt, err)
		step := rapid.SampledFrom([]usage.Step{usage.Minute, usage.Hour, usage.Day, usage.Week, usage.Month}).Draw(rt, "step")
		from := time.Unix(rapid.Int64Range(0, 2e9).Draw(rt, "from"), 0)
		to := from.Add(time.Duration(rapid.Int64Range(int64(time.Microsecond), int64(40*time.Hour)).Draw(rt, "for")))
		if step == usage.Day || step == usage.Week || step == usage.Month {
			to = to.AddDate(0, rapid.IntRange(0, 20).Draw(rt, "months"), 0)
		}
		points, err := svc.Series(t.Context(), usage.Query{Meter: "m", From: from, To: to, Location: loc, Step: step})
		require.NoError(rt, err)
		require.True(rt, points[0].From.Equal(from.Truncate(time.Microsecond)))
		require.True(rt, points[len(points)-1].To.Equal(to.Truncate(time.Microsecond)))
		for i, p := range points {
			require.True(rt, p.From.Before(p.To))
			if i == 0 {
				continue
			}
			require.True(rt, p.From.Equal(points[i-1].To))
			local := p.From.In(loc)
			if step == usage.Week {
				require.Equal(rt, time.Monday, local.Weekday())
			}
			if step == usage.Month {
				require.Equal(rt, 1, local.Day())
			}
		}
	})
}
