package mailer

import "time"

// open returns the first instant at or after t that is outside the quiet
// hours of the zone. An unknown zone counts as UTC.
func (q QuietHours) open(t time.Time, zone string) time.Time {
	if q.From == q.To {
		return t
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		loc = time.UTC
	}
	local := t.In(loc)
	hour := local.Hour()
	quiet := hour >= q.From && hour < q.To
	if q.From > q.To {
		quiet = hour >= q.From || hour < q.To
	}
	if !quiet {
		return t
	}
	// time.Date normalises days and the hour that a change of clocks skips.
	end := time.Date(local.Year(), local.Month(), local.Day(), q.To, 0, 0, 0, loc)
	if !end.After(local) {
		end = time.Date(local.Year(), local.Month(), local.Day()+1, q.To, 0, 0, 0, loc)
	}
	return end.UTC()
}
