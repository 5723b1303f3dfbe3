// Package refusals counts what was refused in the last 24 hours: requests that
// came too fast, and kolekts over the quota. A client that is refused asks
// again and again, so a refusal is a step in memory; a Log writes the counts
// down every two seconds, by account and hour, for all instances to read.
package refusals

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Reason is why something was refused.
type Reason string

// The reasons.
const (
	Rate  Reason = "rate"  // requests in a minute
	Quota Reason = "quota" // kolekts in a period
)

// Count is how often an account was refused in an hour.
type Count struct {
	Account string    `json:"account"`
	Plan    string    `json:"plan"`
	Reason  Reason    `json:"reason"`
	Hour    time.Time `json:"hour"` // its begin, UTC
	N       int64     `json:"n"`
}

func (c Count) key() Count { c.N = 0; return c }

// Store keeps counts. Implementations are safe for concurrent use.
type Store interface {
	// Add adds to what is there, all or nothing.
	Add(ctx context.Context, counts []Count) error
	// Since returns the counts of an account, or of all when it is empty, from
	// the hour that holds the instant on: at most limit, the greatest first.
	Since(ctx context.Context, account string, from time.Time, limit int) ([]Count, error)
	// Totals returns the sums by plan and reason, without accounts and hours.
	Totals(ctx context.Context, from time.Time) ([]Count, error)
	// Forget removes an account's counts and returns how many there were.
	Forget(ctx context.Context, account string) (int64, error)
	// Prune removes the counts of hours before.
	Prune(ctx context.Context, before time.Time) error
}

const (
	// Window is how far back the counts go.
	Window = 24 * time.Hour
	// bound is how many counts wait in memory. What doesn't fit counts for
	// nobody: an attack by many accounts can't take the memory.
	bound = 10_000
	every = 2 * time.Second
)

// Log takes refusals and hands them to a Store. Run writes.
type Log struct {
	store Store
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	waiting map[Count]int64
	lost    int64
}

// New returns a Log.
func New(store Store, now func() time.Time, log *slog.Logger) *Log {
	return &Log{store: store, now: now, log: log, waiting: map[Count]int64{}}
}

// Note counts a refusal.
func (l *Log) Note(account, plan string, reason Reason) {
	c := Count{Account: account, Plan: plan, Reason: reason, Hour: l.now().UTC().Truncate(time.Hour)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.waiting[c]; !known && len(l.waiting) >= bound {
		l.lost++
		return
	}
	l.waiting[c]++
}

// Lost is how many refusals didn't fit into the memory.
func (l *Log) Lost() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Flush writes what waits. What can't be written waits on.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	taken := l.waiting
	l.waiting = map[Count]int64{}
	l.mu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	counts := make([]Count, 0, len(taken))
	for c, n := range taken {
		c.N = n
		counts = append(counts, c)
	}
	// In the order of the key, so that two instances don't wait for each other.
	slices.SortFunc(counts, func(x, y Count) int {
		return cmp.Or(cmp.Compare(x.Account, y.Account), x.Hour.Compare(y.Hour), cmp.Compare(x.Reason, y.Reason), cmp.Compare(x.Plan, y.Plan))
	})
	err := l.store.Add(ctx, counts)
	if err != nil {
		l.mu.Lock()
		for c, n := range taken {
			l.waiting[c] += n // over the bound by one flush at most
		}
		l.mu.Unlock()
	}
	return err
}

// Run writes and prunes until ctx ends, and once more then.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := l.Flush(ctx); err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "refusals: not written yet", "err", err)
		}
		if n%1800 == 0 && ctx.Err() == nil { // an hour
			if err := l.store.Prune(ctx, l.now().Add(-Window-time.Hour)); err != nil && ctx.Err() == nil {
				l.log.WarnContext(ctx, "refusals: not pruned", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return l.Flush(last)
		case <-tick.C:
		}
	}
}

// Since returns an account's counts of the last 24 hours, or the greatest of
// all accounts, this process's newest included.
func (l *Log) Since(ctx context.Context, account string, limit int) ([]Count, error) {
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	return l.store.Since(ctx, account, l.from(), limit)
}

// Totals returns the sums of the last 24 hours by plan and reason.
func (l *Log) Totals(ctx context.Context) ([]Count, error) {
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	return l.store.Totals(ctx, l.from())
}

func (l *Log) from() time.Time { return l.now().UTC().Add(-Window).Truncate(time.Hour) }

// Memory is a Store that ends with the process. The zero value is ready.
type Memory struct {
	mu     sync.Mutex
	counts map[Count]int64
}

var _ Store = (*Memory)(nil)

// Add implements Store.
func (m *Memory) Add(_ context.Context, counts []Count) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[Count]int64{}
	}
	for _, c := range counts {
		m.counts[c.key()] += c.N
	}
	return nil
}

// Since implements Store.
func (m *Memory) Since(_ context.Context, account string, from time.Time, limit int) ([]Count, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Count
	for c, n := range m.counts {
		if (account == "" || c.Account == account) && !c.Hour.Before(from) {
			c.N = n
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(x, y Count) int {
		return cmp.Or(cmp.Compare(y.N, x.N), cmp.Compare(x.Account, y.Account), x.Hour.Compare(y.Hour))
	})
	return list[:min(limit, len(list))], nil
}

// Totals implements Store.
func (m *Memory) Totals(_ context.Context, from time.Time) ([]Count, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sums := map[Count]int64{}
	for c, n := range m.counts {
		if !c.Hour.Before(from) {
			sums[Count{Plan: c.Plan, Reason: c.Reason}] += n
		}
	}
	var list []Count
	for c, n := range sums {
		c.N = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y Count) int { return cmp.Or(cmp.Compare(x.Plan, y.Plan), cmp.Compare(x.Reason, y.Reason)) })
	return list, nil
}

// Forget implements Store.
func (m *Memory) Forget(_ context.Context, account string) (n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.counts {
		if c.Account == account {
			delete(m.counts, c)
			n++
		}
	}
	return n, nil
}

// Prune implements Store.
func (m *Memory) Prune(_ context.Context, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.counts {
		if c.Hour.Before(before) {
			delete(m.counts, c)
		}
	}
	return nil
}
