package usage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Forecast says where an account's period will end at its present pace.
type Forecast struct {
	Decision Decision `json:"quota"`
	// PerDay is the pace: what was used in this period, by the time that has
	// passed of it, at least a day.
	PerDay float64 `json:"per_day"`
	// AtEnd is what will have been used when the period ends.
	AtEnd float64 `json:"at_end"`
	// LimitReached is when the limit is reached: now if it has been, zero if
	// it won't be in this period.
	LimitReached time.Time `json:"limit_reached,omitzero"`
}

// Forecast returns where the account's current period will end at its present
// pace, and when its limit is reached.
func (s *Service) Forecast(ctx context.Context, account, meter string) (Forecast, error) {
	d, err := s.Quota(ctx, account, meter)
	if err != nil {
		return Forecast{}, err
	}
	return forecast(d, s.now()), nil
}

func forecast(d Decision, now time.Time) Forecast {
	f := Forecast{Decision: d}
	const day = 24 * time.Hour
	elapsed := max(now.Sub(d.Period.From), day)
	f.PerDay = float64(d.Used) / (float64(elapsed) / float64(day))
	left := float64(max(d.Period.To.Sub(now), 0)) / float64(day)
	f.AtEnd = float64(d.Used) + f.PerDay*left
	switch {
	case d.Limit == Unlimited:
	case d.Used >= d.Limit:
		f.LimitReached = now
	case f.AtEnd >= float64(d.Limit) && f.PerDay > 0:
		days := float64(d.Limit-d.Used) / f.PerDay
		f.LimitReached = now.Add(time.Duration(days * float64(day))).Truncate(time.Second)
	}
	return f
}

// Explanation says why an account's number is what it is.
type Explanation struct {
	Quota  Decision `json:"quota"`
	Events Stats    `json:"events"` // of the period
	// Bare is what was used without an event.
	Bare   int64   `json:"bare"`
	Newest []Event `json:"newest"` // events of the period, at most 10
	// Drawn is the part of what was used and is held that comes from grants;
	// Grants are those of which something is left or to come, in the order in
	// which they are used.
	Drawn  int64    `json:"drawn"`
	Grants []Lot    `json:"grants"`
	Holds  []Hold   `json:"holds"` // open reservations, at most 100
	Told   []Notice `json:"told"`  // thresholds that were crossed in the period
	Reset  string   `json:"reset"` // when, and why then
}

// String tells the explanation in a few lines.
func (e Explanation) String() string {
	d := e.Quota
	var b strings.Builder
	limit := fmt.Sprint(d.Limit)
	if d.Limit == Unlimited {
		limit = "unlimited"
	}
	fmt.Fprintf(&b, "%s: %d of %s used", d.Meter, d.Used, limit)
	fmt.Fprintf(&b, ", by %d events (%d) and %d without an event", e.Events.Count, e.Events.Sum, e.Bare)
	if d.Held > 0 {
		fmt.Fprintf(&b, "; %d held by %d reservations", d.Held, len(e.Holds))
	}
	if d.Granted > 0 && d.Limit != Unlimited {
		fmt.Fprintf(&b, "\nthe limit is %d of the quota and %d of grants, of which %d are drawn", d.Limit-d.Granted, d.Granted, e.Drawn)
	}
	fmt.Fprintf(&b, "\n%s", e.Reset)
	for _, l := range e.Grants {
		fmt.Fprintf(&b, "\n%s", l.tell())
	}
	for _, h := range e.Holds {
		fmt.Fprintf(&b, "\nreservation %s holds %d until %s", h.Key, h.N, h.Expires.Format(time.RFC3339))
	}
	for _, n := range e.Told {
		fmt.Fprintf(&b, "\n%d %% of %d crossed at %s with %d", n.Percent, n.Limit, n.At.Format(time.RFC3339), n.Used)
	}
	return b.String()
}

// tell says in a line what is left of a lot, until when, and what comes then.
func (l Lot) tell() string {
	text := fmt.Sprintf("grant %s has %d left of %d", l.Key, l.Remaining(), l.Issued+l.Carried)
	if l.Carried > 0 {
		text += fmt.Sprintf(" (%d carried over)", l.Carried)
	}
	switch end := l.End.Format(time.RFC3339); {
	case l.End.IsZero():
		text += ", which last"
	case !l.follows():
		text += " until " + end
	case l.Rollover == Unlimited:
		text += fmt.Sprintf(" until %s, when %d more come and all of these stay", end, l.Amount)
	default:
		text += fmt.Sprintf(" until %s, when %d more come and at most %d of these stay", end, l.Amount, l.Rollover)
	}
	if l.Note != "" {
		text += ": " + l.Note
	}
	return text
}

// Explain says why an account's number is what it is: its events, open
// reservations, grants and thresholds, and when and why the quota starts anew.
func (s *Service) Explain(ctx context.Context, account, meter string) (Explanation, error) {
	m, err := s.Meter(meter)
	if err != nil {
		return Explanation{}, err
	}
	q, err := s.quota(ctx, account, meter)
	if err != nil {
		return Explanation{}, err
	}
	d, err := s.Quota(ctx, account, meter)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Quota: d}
	p := d.Period
	points, err := s.store.Aggregate(ctx, s.selection(Query{Account: account}, m, Measure{}, []time.Time{p.From, p.To}))
	if err != nil {
		return Explanation{}, err
	}
	if len(points) > 0 {
		e.Events = points[0].Stats
	}
	c, err := s.quotas.Counter(ctx, account, meter, p)
	if err != nil {
		return Explanation{}, err
	}
	e.Bare, e.Drawn = c.Bare, c.Drawn+c.DrawnHeld
	w, err := s.wallet(ctx, account, meter)
	if err != nil {
		return Explanation{}, err
	}
	e.Grants = w.Open(s.now())
	if e.Holds, err = s.quotas.Holds(ctx, account, meter, 100); err != nil && !errors.Is(err, ErrUnsupported) {
		return Explanation{}, err
	}
	entries, err := s.store.Events(ctx, EventPage{Account: account, Meter: meter, From: p.From, To: p.To, Newest: true}, 10)
	if err != nil {
		return Explanation{}, err
	}
	for _, entry := range entries {
		e.Newest = append(e.Newest, entry.Event)
	}
	notices, err := s.store.Notices(ctx, account, 100)
	if err != nil {
		return Explanation{}, err
	}
	for _, n := range notices {
		if n.Meter == meter && n.Period.From.Equal(p.From) && !n.Superseded {
			e.Told = append(e.Told, n)
		}
	}
	e.Reset = resetReason(q, p)
	return e, nil
}

func resetReason(q Quota, p Period) string {
	to := p.To.Format(time.RFC3339)
	anchor := q.Anchor
	switch {
	case !q.From.IsZero() && p.To.Equal(q.To):
		return fmt.Sprintf("starts anew at %s, where the subscription's period ends", to)
	case anchor.IsZero() && !q.From.IsZero():
		anchor = q.From
	}
	if anchor.IsZero() {
		return fmt.Sprintf("starts anew at %s, with the calendar in UTC", to)
	}
	if anchor.UTC().Day() != p.To.Day() && q.Every != Daily && q.Every != Weekly {
		return fmt.Sprintf("starts anew at %s, because the anchor is the %d. and the month is shorter", to, anchor.UTC().Day())
	}
	return fmt.Sprintf("starts anew at %s, counted from the anchor %s", to, anchor.UTC().Format(time.RFC3339))
}
