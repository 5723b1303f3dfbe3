package ratelimit

import "time"

// Decision is the answer to one request.
type Decision struct {
	// Allowed says that the request may go on, and was charged.
	Allowed bool
	// WouldDeny says that a shadow window had no room.
	WouldDeny bool
	// Source says who decided.
	Source Source
	// Violated is the name of the window that refused; of several, the one that
	// takes longest. Empty when allowed.
	Violated string
	// RetryAfter is how long until the same request would have room; 0 when
	// allowed, Never when the cost is over the limit.
	RetryAfter time.Duration

	plan  *Plan // that was applied
	cost  int64
	spans *Spans
	out   Outcome
	used  Used
}

// WindowState is where a window stands after a decision.
type WindowState struct {
	Name string
	// Limit is how many units fit at once: a bucket's burst, else the limit.
	Limit int64
	// Remaining is how many units are left.
	Remaining int64
	// Next is how long until there is at least one unit more; 0 when none is
	// used.
	Next time.Duration
	// Reset is how long until none is used any more.
	Reset time.Duration
	// Over says that this window had no room for the cost.
	Over bool
	// Shadow says that the window doesn't refuse.
	Shadow bool
}

// Plan returns the plan that was applied; nil for the zero Decision. While a
// Guard decides locally, it has the local share of the limits.
func (d *Decision) Plan() *Plan { return d.plan }

// Cost returns what was asked for.
func (d *Decision) Cost() int64 { return d.cost }

// At returns the time of the decision by the store's clock; zero when no store
// was asked.
func (d *Decision) At() time.Time {
	if d.out.Now == 0 {
		return time.Time{}
	}
	return time.UnixMicro(d.out.Now).UTC()
}

// Len returns the number of windows.
func (d *Decision) Len() int {
	if d.plan == nil {
		return 0
	}
	return len(d.plan.rules)
}

// Window returns where the i-th window of the plan stands.
func (d *Decision) Window(i int) WindowState {
	r, level := &d.plan.rules[i], d.used.Of(i)
	s := WindowState{
		Name:   d.plan.windows[i].Name,
		Limit:  r.Limit,
		Over:   d.out.Over()&(1<<i) != 0,
		Shadow: r.Shadow,
	}
	switch r.Algorithm {
	case Bucket:
		if r.Interval == 0 {
			break
		}
		used := (level + r.Interval - 1) / r.Interval
		s.Remaining = max(r.Limit-used, 0)
		s.Reset = micros(level)
		if used > 0 {
			// One unit more than Remaining: the debt must fall to
			// Limit-Remaining-1 intervals.
			s.Next = micros(level - (r.Limit-s.Remaining-1)*r.Interval)
		}
	case Period:
		s.Remaining = max(r.Limit-level, 0)
		if d.spans != nil && d.out.Now != 0 {
			s.Reset = micros(max(d.spans[i].To-d.out.Now, 0))
		}
		if level > 0 {
			s.Next = s.Reset
		}
	case Rolling:
		s.Remaining = max(r.Limit-level, 0)
		if level > 0 {
			// The slots' own ages stay in the store: this is the bound.
			s.Reset = micros(r.Interval * (RollingSlots + 1))
			s.Next = micros(r.Interval)
			if worst, wait := d.out.worst(); worst == i && wait > 0 && wait != WaitForever {
				s.Next = micros(wait)
			}
		}
	}
	return s
}

// Nearest returns the window that is nearest to its limit: the one that
// refused, or else the one with the smallest share left. ok is false when the
// plan is unlimited.
func (d *Decision) Nearest() (s WindowState, ok bool) {
	for i := range d.Len() {
		w := d.Window(i)
		switch {
		case w.Shadow:
		case !ok:
			s, ok = w, true
		case d.Violated != "":
			if w.Name == d.Violated {
				s = w
			}
		case share(w) < share(s):
			s = w
		}
	}
	return s, ok
}

// share is the part of a window that is left, in millionths.
func share(w WindowState) int64 {
	if w.Limit == 0 {
		return 0
	}
	return w.Remaining * 1_000_000 / w.Limit
}

// conclude fills in what follows from the outcome.
func (d *Decision) conclude() {
	over := d.out.Over()
	if over == 0 {
		d.Allowed = true
		return
	}
	d.WouldDeny = over&d.plan.shadow != 0
	if over&^d.plan.shadow == 0 {
		d.Allowed = true
		return
	}
	i, wait := d.out.worst()
	d.Violated = d.plan.windows[i].Name
	if d.RetryAfter = Never; wait != WaitForever {
		d.RetryAfter = micros(wait)
	}
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
