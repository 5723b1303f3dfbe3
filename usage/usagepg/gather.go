package usagepg

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kolekt/commerce/usage"
)

// flights is how many transactions of Append are under way at the same time:
// while one waits for the disk or for the other's rows, the other works.
const flights = 2

// gathering lets calls of Append share a transaction. Those that come while
// all flights are under way ride together in the next one, so that a row that
// all of them add to is written once, and waited for by nobody.
type gathering struct {
	mu       sync.Mutex
	queue    []*appending
	underWay int
}

// appending is one call of Append.
type appending struct {
	now     time.Time
	entries []usage.Entry
	out     []usage.AppendOutcome
	err     error
	done    chan struct{}
}

// gather takes the call on its own when nobody waits, or with others.
func (s *Store) gather(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	g := &s.appends
	g.mu.Lock()
	if g.underWay < flights {
		g.underWay++
		g.mu.Unlock()
		defer s.land()
		return s.appendAll(ctx, now, entries)
	}
	a := &appending{now: now, entries: entries, done: make(chan struct{})}
	g.queue = append(g.queue, a)
	g.mu.Unlock()
	select {
	case <-a.done:
		return a.out, a.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.queue, a)
	if i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		return nil, ctx.Err()
	}
	return nil, &unknownOutcomeError{ctx.Err()}
}

// land ends a flight, and leaves those who wait to a goroutine.
func (s *Store) land() {
	g := &s.appends
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		g.underWay--
		return
	}
	go s.fly()
}

// fly stores what waits until nobody waits any more.
func (s *Store) fly() {
	g := &s.appends
	for {
		g.mu.Lock()
		n, events := 0, 0
		for n < len(g.queue) && (n == 0 || events+len(g.queue[n].entries) <= maxBatch) {
			events += len(g.queue[n].entries)
			n++
		}
		if n == 0 {
			g.underWay--
			g.mu.Unlock()
			return
		}
		calls := slices.Clone(g.queue[:n])
		g.queue = slices.Delete(g.queue, 0, n)
		g.mu.Unlock()
		s.appendTogether(calls, events)
		for _, a := range calls {
			close(a.done)
		}
	}
}

// appendTogether takes several calls in one transaction, which no single
// caller's context ends.
func (s *Store) appendTogether(calls []*appending, events int) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	if len(calls) == 1 {
		calls[0].out, calls[0].err = s.appendAll(ctx, calls[0].now, calls[0].entries)
		return
	}
	entries := make([]usage.Entry, 0, events)
	now := calls[0].now
	for _, a := range calls {
		entries = append(entries, a.entries...)
		if a.now.After(now) {
			now = a.now
		}
	}
	out, err := s.appendAll(ctx, now, entries)
	if err != nil && isKind(err) {
		// Some event can't be stored: each call for itself, so that only its
		// own fails.
		for _, a := range calls {
			a.out, a.err = s.appendAll(ctx, a.now, a.entries)
		}
		return
	}
	for _, a := range calls {
		if a.err = err; err == nil {
			a.out, out = out[:len(a.entries):len(a.entries)], out[len(a.entries):]
		}
	}
}
