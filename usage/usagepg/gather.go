package usagepg

import (
	"context"
	"time"

	"github.com/kolekt/commerce/usage"
)

// flights is how many transactions of Append are under way at the same time:
// while one waits for the disk or for the other's rows, the other works.
const flights = 2

// appending is one call of Append.
type appending struct {
	now     time.Time
	entries []usage.Entry
	out     []usage.AppendOutcome
	err     error
}

// newAppends makes the lane in which calls of Append share a transaction, so
// that a row that all of them add to is written once, and waited for by nobody.
func (s *Store) newAppends() *lane[*appending] {
	return &lane[*appending]{
		flights:  flights,
		alone:    func(ctx context.Context, a *appending) { a.out, a.err = s.appendAll(ctx, a.now, a.entries) },
		together: s.appendTogether,
		weight:   func(a *appending) int { return len(a.entries) },
		most:     maxBatch,
	}
}

// gather takes the call on its own when nobody waits, or with others.
func (s *Store) gather(ctx context.Context, now time.Time, entries []usage.Entry) ([]usage.AppendOutcome, error) {
	a := &appending{now: now, entries: entries}
	underWay, err := s.appends.do(ctx, a)
	switch {
	case err == nil:
		return a.out, a.err
	case underWay:
		return nil, &unknownOutcomeError{err}
	}
	return nil, err
}

// appendTogether takes several calls in one transaction, which no single
// caller's context ends.
func (s *Store) appendTogether(calls []*appending) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	if len(calls) == 1 {
		calls[0].out, calls[0].err = s.appendAll(ctx, calls[0].now, calls[0].entries)
		return
	}
	var entries []usage.Entry
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
