package stripesim

import (
	"context"
	"time"

	"github.com/kolekt/commerce/internal/period"
)

const day = 24 * time.Hour

// maxSteps bounds how many things one move of the clock may run: a loop in
// the simulator would be a bug, and ends here loudly.
const maxSteps = 1_000_000

// Now is the simulator's time. An application under test takes it as its own
// clock, so that both move together.
func (s *Simulator) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

func (s *Simulator) now() time.Time {
	switch {
	case !s.pinned.IsZero():
		return s.pinned
	case !s.stands.IsZero():
		return s.stands
	}
	return s.cfg.Now().UTC().Add(s.ahead)
}

// at returns the time of a test clock, or of the simulator for "".
func (s *Simulator) at(clock string) int64 {
	if clock != "" {
		if tc, ok := get[*testClock](s, kindTestClock, clock); ok {
			return tc.frozen
		}
	}
	return s.now().Unix()
}

// Advance moves the clock by d and runs, in order and each at its instant,
// everything that falls due: trial ends, renewals, invoices that are
// finalised, retries of payments and webhooks, expiries. Webhooks are
// delivered between two instants, so that what the application does in answer
// happens at the right time. It returns when all is done, or ctx's error.
func (s *Simulator) Advance(ctx context.Context, d time.Duration) error {
	return s.AdvanceTo(ctx, s.Now().Add(d))
}

// AdvanceTo is Advance to an instant; one in the past is ErrInvalid.
func (s *Simulator) AdvanceTo(ctx context.Context, t time.Time) error {
	t = t.UTC()
	s.mu.Lock()
	start := s.now()
	if t.Before(start) {
		s.mu.Unlock()
		return invalid("the clock is at %s and doesn't go back to %s", start.Format(time.RFC3339), t.Format(time.RFC3339))
	}
	s.mu.Unlock()
	for range maxSteps {
		if err := s.Settle(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		due, run := s.nextDue("")
		if run == nil || due > t.Unix() {
			s.moveTo(t)
			s.mu.Unlock()
			s.pump()
			return s.Settle(ctx)
		}
		s.moveTo(later(s.now(), time.Unix(due, 0).UTC()))
		run()
		s.mu.Unlock()
		s.pump()
	}
	return invalid("the clock ran %d steps and is not done", maxSteps)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// moveTo sets the clock forward.
func (s *Simulator) moveTo(t time.Time) {
	if !s.stands.IsZero() {
		s.stands = later(s.stands, t)
		return
	}
	if wait := t.Sub(s.now()); wait > 0 {
		s.ahead += wait
	}
}

// catchUp runs what has fallen due on a running clock.
func (s *Simulator) catchUp() {
	target := s.now()
	for range maxSteps {
		due, run := s.nextDue("")
		if run == nil || due > target.Unix() {
			break
		}
		s.pinned = time.Unix(due, 0).UTC()
		run()
	}
	s.pinned = time.Time{}
}

// nextDue returns the earliest thing that is still to happen on a clock.
// Among things of one second the older object goes first.
func (s *Simulator) nextDue(clock string) (int64, func()) {
	var due int64
	var run func()
	offer := func(t int64, f func()) {
		if t != 0 && (run == nil || t < due) {
			due, run = t, f
		}
	}
	for _, kind := range []string{kindInvoice, kindSubscription, kindSession} {
		for _, e := range s.db.byKind[kind] {
			if e.base().clock != clock {
				continue
			}
			switch e := e.(type) {
			case *invoice:
				offer(s.invoiceDue(e))
			case *subscription:
				offer(s.subscriptionDue(e))
			case *session:
				if e.status == "open" {
					offer(e.expiresAt, func() { s.expireSession(e) })
				}
			}
		}
	}
	if clock == "" {
		for _, e := range all[*endpoint](s, kindEndpoint, nil) {
			for _, d := range e.later {
				offer(d.due, func() { e.wake(d) })
			}
		}
	}
	return due, run
}

// cycle is the rhythm of a recurring price from an anchor.
func cycle(anchor int64, interval string, count int64) period.Cycle {
	units := map[string]period.Unit{"day": period.Day, "week": period.Week, "month": period.Month, "year": period.Year}
	return period.Cycle{Anchor: time.Unix(anchor, 0).UTC(), Unit: units[interval], Count: int(count)}
}
