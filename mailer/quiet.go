package mailer

import (
	"sync"
	"time"
)

// zones keeps the time zones that have been asked for, which are a few hundred at
// most: to read one anew takes as long as to store a mail.
type zones struct{ known sync.Map }

// find returns a zone of the tz database, UTC for "".
func (z *zones) find(name string) (*time.Location, bool) {
	if loc, ok := z.known.Load(name); ok {
		return loc.(*time.Location), true
	}
	if len(name) > 60 || name == "Local" {
		return nil, false
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, false
	}
	z.known.Store(name, loc)
	return loc, true
}

// open returns the first instant at or after t that is outside the quiet
// hours of the zone. An unknown zone counts as UTC.
func (q QuietHours) open(t time.Time, zones *zones, zone string) time.Time {
	if q.From == q.To {
		return t
	}
	loc, ok := zones.find(zone)
	if !ok {
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
