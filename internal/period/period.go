// Package period computes billing periods: half-open UTC ranges [From, To)
// that repeat from an anchor. A month later than the 31st is the last day of a
// shorter month, and each border is counted from the anchor and not from the
// border before it, so that 31 Jan, 28 Feb and 31 Mar follow each other.
package period

import (
	"fmt"
	"time"
)

// Unit is the length in which periods are counted.
type Unit uint8

// The units of a period.
const (
	Day Unit = iota + 1
	Week
	Month
	Year
)

// Period is a half-open range [From, To) in UTC.
type Period struct{ From, To time.Time }

// Contains reports whether t lies in [From, To).
func (p Period) Contains(t time.Time) bool { return !t.Before(p.From) && t.Before(p.To) }

// Cycle repeats every Count units from Anchor. The zero Count means 1.
type Cycle struct {
	Anchor time.Time
	Unit   Unit
	Count  int
}

// Border returns the n-th border: the anchor for 0, later ones for positive
// n, earlier ones for negative n.
func (c Cycle) Border(n int) time.Time {
	a := c.Anchor.UTC()
	count := max(c.Count, 1) * n
	switch c.Unit {
	case Day:
		return a.AddDate(0, 0, count)
	case Week:
		return a.AddDate(0, 0, 7*count)
	case Month:
		return AddMonths(a, count)
	case Year:
		return AddMonths(a, 12*count)
	}
	panic(fmt.Sprintf("period: unknown unit %d", c.Unit))
}

// At returns the period that contains t.
func (c Cycle) At(t time.Time) Period {
	t = t.UTC()
	n := c.guess(t)
	for c.Border(n).After(t) {
		n--
	}
	for !c.Border(n + 1).After(t) {
		n++
	}
	return Period{From: c.Border(n), To: c.Border(n + 1)}
}

// guess returns an index near the period of t: at most one or two off.
func (c Cycle) guess(t time.Time) int {
	a, count := c.Anchor.UTC(), max(c.Count, 1)
	days := int(t.Unix()/86400 - a.Unix()/86400)
	months := (t.Year()-a.Year())*12 + int(t.Month()) - int(a.Month())
	switch c.Unit {
	case Day:
		return days / count
	case Week:
		return days / (7 * count)
	case Month:
		return months / count
	case Year:
		return months / (12 * count)
	}
	panic(fmt.Sprintf("period: unknown unit %d", c.Unit))
}

// AddMonths moves t by n months and keeps day and time of day, or takes the
// last day of the month when it is too short.
func AddMonths(t time.Time, n int) time.Time {
	y, m, d := t.Date()
	first := time.Date(y, m+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(d, last)-1)
}
