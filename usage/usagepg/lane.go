package usagepg

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

// lane gathers the calls of those who wait at the same time. While as many
// transactions as it has flights are under way the next callers queue up, and
// ride together in the next one. Its goroutines live only as long as calls wait.
type lane[C any] struct {
	flights  int
	alone    func(context.Context, C) // takes a caller's call at once
	together func([]C)                // takes several; no single caller's context ends it
	weight   func(C) int
	most     int // that several may weigh together

	mu       sync.Mutex
	queue    []*waiting[C]
	underWay int
}

type waiting[C any] struct {
	call C
	done chan struct{}
}

// do waits for the call's turn and end. When the context ends first, the call is
// taken back if it isn't under way yet, and the error is the context's.
func (l *lane[C]) do(ctx context.Context, call C) (underWay bool, err error) {
	l.mu.Lock()
	if l.underWay < l.flights {
		// The caller goes at once and by itself, and leaves those who come
		// meanwhile to a goroutine.
		l.underWay++
		l.mu.Unlock()
		defer l.land()
		l.alone(ctx, call)
		return true, nil
	}
	w := &waiting[C]{call, make(chan struct{})}
	l.queue = append(l.queue, w)
	l.mu.Unlock()
	select {
	case <-w.done:
		return true, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.queue, w)
	if i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	return i < 0, ctx.Err()
}

// land ends a flight, or hands it on to those who wait.
func (l *lane[C]) land() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.underWay--
		return
	}
	go l.fly()
}

// fly takes what waits until nobody waits any more.
func (l *lane[C]) fly() {
	for {
		l.mu.Lock()
		n, weight := 0, 0
		for n < len(l.queue) {
			if weight += l.weight(l.queue[n].call); n > 0 && weight > l.most {
				break
			}
			n++
		}
		if n == 0 {
			l.underWay--
			l.mu.Unlock()
			return
		}
		batch := slices.Clone(l.queue[:n])
		l.queue = slices.Delete(l.queue, 0, n)
		l.mu.Unlock()
		calls := make([]C, n)
		for i, w := range batch {
			calls[i] = w.call
		}
		l.together(calls)
		for _, w := range batch {
			close(w.done)
		}
	}
}

const (
	lanes    = 4
	maxFlush = 512 // steps in one transaction
)

// step is one caller's quota step.
type step struct {
	op       usage.Op
	along    func(*pgx.Batch) // statements that are committed with it; nil: none
	counted  bool             // it is allowed and new
	decision usage.Decision
	err      error
}

func (s *Store) newLane() *lane[*step] {
	return &lane[*step]{
		flights:  1,
		alone:    func(ctx context.Context, st *step) { s.flush(ctx, []*step{st}) },
		together: func(steps []*step) { s.flush(context.Background(), steps) },
		weight:   func(*step) int { return 1 },
		most:     maxFlush,
	}
}

// inLane waits for the step's turn and outcome.
func (s *Store) inLane(ctx context.Context, st *step) (usage.Decision, error) {
	underWay, err := s.lanes[maphash.String(s.seed, st.op.Account)%lanes].do(ctx, st)
	switch {
	case err == nil:
		return st.decision, st.err
	case underWay:
		return usage.Decision{}, &usage.UnknownOutcomeError{Key: st.op.Key, Err: err}
	}
	return usage.Decision{}, err
}
