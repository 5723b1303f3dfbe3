package ratelimit

import "time"

// Decision is the answer to one request.
type Decision struct {
	// Seven words, which with an error are what Go returns in registers: a copy of
	// more would be a fifth of the time of a decision in memory.
	term *term   // what was asked; nil for the zero Decision
	out  Outcome // with the cost in its state, when allowed
	used Used
}

// Allowed reports whether the request may go on. Unless it was a peek, it was
// charged then.
func (d *Decision) Allowed() bool { return d.out.state > 0 }

// RetryAfter returns how long until the same request would have room; 0 when
// allowed, Never when the cost is over the limit.
func (d *Decision) RetryAfter() time.Duration {
	if wait := d.out.state.wait(); wait != WaitForever {
		return micros(wait)
	}
	return Never
}

// Violated returns the name of the window that refused; of several, the one
// that takes longest. Empty when allowed.
func (d *Decision) Violated() string {
	if d.out.state >= 0 {
		return ""
	}
	return d.Plan().windows[d.out.state.worst()].Name
}

// WouldDeny reports whether a shadow window had no room.
func (d *Decision) WouldDeny() bool {
	over := d.out.state.over()
	return over != 0 && over&d.Plan().shadow != 0
}

// Source says who decided.
func (d *Decision) Source() Source { return d.out.state.source() }

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
func (d *Decision) Plan() *Plan {
	if d.term == nil {
		return nil
	}
	if source := d.out.state.source(); source == FromLocal || source == FromFailure {
		if g, ok := d.term.decider.(*guarded); ok {
			return g.plan
		}
	}
	return d.term.plan
}

// Cost returns what was asked for; 0 when refused, for nothing was charged.
func (d *Decision) Cost() int64 {
	if d.out.state < 0 {
		return 0
	}
	return d.out.state.amount()
}

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
	if d.term == nil {
		return 0
	}
	return len(d.term.plan.rules)
}

// Window returns where the i-th window of the plan stands.
func (d *Decision) Window(i int) WindowState {
	p := d.Plan()
	r, level := &p.rules[i], d.used.Of(i)
	s := WindowState{
		Name:   p.windows[i].Name,
		Limit:  r.Limit,
		Over:   d.out.state.over()&(1<<i) != 0,
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
		if spans := d.term.spans; spans != nil && d.out.Now != 0 {
			s.Reset = micros(max(spans[i].To-d.out.Now, 0))
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
			if wait := d.out.state.wait(); wait != 0 && wait != WaitForever && d.out.state.worst() == i {
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
		case d.out.state < 0:
			if i == d.out.state.worst() {
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

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
