package usagepg

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/kolekt/commerce/usage"
)

const (
	lanes    = 4
	maxFlush = 512 // steps in one transaction
)

// lane gathers the steps of callers who wait at the same time. While one
// transaction is under way the next callers queue up, and ride together in the
// next one. Its goroutine lives only as long as there are steps.
type lane struct {
	mu      sync.Mutex
	queue   []*step
	running bool
	flush   func(context.Context, []*step)
}

// step is one caller's quota step.
type step struct {
	op       usage.Op
	along    func(*pgx.Batch) // statements that are committed with it; nil: none
	counted  bool             // it is allowed and new
	decision usage.Decision
	err      error
	done     chan struct{}
}

func (s *Store) laneOf(account string) *lane {
	return &s.lanes[maphash.String(s.seed, account)%lanes]
}

// do waits for the step's turn and outcome. When the context ends first, the
// step is taken back if it isn't under way yet.
func (l *lane) do(ctx context.Context, st *step) (usage.Decision, error) {
	l.mu.Lock()
	if !l.running {
		// Nobody is under way: the caller goes at once and by itself, and
		// leaves those who come meanwhile to a goroutine.
		l.running = true
		l.mu.Unlock()
		l.flush(ctx, []*step{st})
		l.mu.Lock()
		if l.running = len(l.queue) > 0; l.running {
			go l.run()
		}
		l.mu.Unlock()
		return st.decision, st.err
	}
	l.queue = append(l.queue, st)
	l.mu.Unlock()
	select {
	case <-st.done:
		return st.decision, st.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(l.queue, st)
	if i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
	l.mu.Unlock()
	if i >= 0 {
		return usage.Decision{}, ctx.Err()
	}
	return usage.Decision{}, &usage.UnknownOutcomeError{Key: st.op.Key, Err: ctx.Err()}
}

func (l *lane) run() {
	for {
		l.mu.Lock()
		n := min(len(l.queue), maxFlush)
		if n == 0 {
			l.running, l.queue = false, nil
			l.mu.Unlock()
			return
		}
		batch := slices.Clone(l.queue[:n])
		l.queue = append(l.queue[:0], l.queue[n:]...)
		l.mu.Unlock()
		l.flush(context.Background(), batch) // no single caller's context ends it
		for _, st := range batch {
			close(st.done)
		}
	}
}
