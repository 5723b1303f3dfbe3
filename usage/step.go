package usage

import "time"

// Step is the length of a point of a series, in the query's time zone.
type Step string

// The steps of a series. Weeks begin on Monday.
const (
	Minute Step = "minute"
	Hour   Step = "hour"
	Day    Step = "day"
	Week   Step = "week"
	Month  Step = "month"
)

// maxSteps bounds the points of one series.
const maxSteps = 20_000

// bounds returns the borders of the steps that make up [from, to): the first
// and last step may be cut.
func (s Step) bounds(from, to time.Time, loc *time.Location) ([]time.Time, error) {
	out := []time.Time{from}
	for t := s.next(from, loc); t.Before(to); t = s.next(t, loc) {
		if len(out) == maxSteps {
			return nil, invalid("the series has more than %d points: use a longer Step or a shorter range", maxSteps)
		}
		if !t.After(out[len(out)-1]) {
			return nil, invalid("unknown step %q", s)
		}
		out = append(out, t)
	}
	return append(out, to), nil
}

// next returns the first border after t, or t for an unknown step.
func (s Step) next(t time.Time, loc *time.Location) time.Time {
	t = t.In(loc)
	switch s {
	case Minute, Hour:
		// Counted in absolute time: a repeated hour is two points, a skipped
		// one none.
		d := time.Minute
		if s == Hour {
			d = time.Hour
		}
		_, offset := t.Zone()
		shift := time.Duration(offset) * time.Second
		return t.Add(shift).Truncate(d).Add(d).Add(-shift)
	case Day:
		return addDays(t, 1, loc)
	case Week:
		return addDays(t, 7-(int(t.Weekday())+6)%7, loc)
	case Month:
		y, m, _ := t.Date()
		return startOfDay(y, m+1, 1, loc)
	}
	return t
}

// addDays returns the beginning of the day that is n days after t's.
func addDays(t time.Time, n int, loc *time.Location) time.Time {
	y, m, d := t.In(loc).Date()
	return startOfDay(y, m, d+n, loc)
}

// startOfDay returns the first instant of a day, which is midnight unless the
// clocks skip or repeat it. time.Date alone may give an instant of the day
// before where midnight is skipped, and the second of two midnights.
func startOfDay(y int, m time.Month, d int, loc *time.Location) time.Time {
	utc := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	y, m, d = utc.Date()
	begun := func(t time.Time) bool { // is t in the day, or later?
		ty, tm, td := t.In(loc).Date()
		return !time.Date(ty, tm, td, 0, 0, 0, 0, time.UTC).Before(utc)
	}
	t := time.Date(y, m, d, 0, 0, 0, 0, loc)
	if !begun(t) {
		_, end := t.ZoneBounds() // midnight is skipped: the day begins with the new offset
		return end
	}
	if start, _ := t.ZoneBounds(); !start.IsZero() {
		_, before := start.Add(-1).In(loc).Zone()
		earlier := utc.Add(-time.Duration(before) * time.Second).In(loc)
		if earlier.Before(start) && begun(earlier) && earlier.Before(t) {
			return earlier // midnight comes twice
		}
		if begun(start) && start.Before(t) {
			return start.In(loc) // a whole day is skipped
		}
	}
	return t
}

func isMidnight(t time.Time, loc *time.Location) bool { return t.Equal(addDays(t, 0, loc)) }

// daysBetween returns how many calendar days lie between two instants.
func daysBetween(from, to time.Time, loc *time.Location) int {
	day := func(t time.Time) time.Time {
		y, m, d := t.In(loc).Date()
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	}
	return int(day(to).Sub(day(from)) / (24 * time.Hour))
}
