package ratelimit

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

// Concurrency limits how many things of a key run at the same time.
type Concurrency struct {
	// Limit is how many places there are, at least 1.
	Limit int64
	// TTL is how long a place is held at most without Renew, at least a
	// millisecond: longer than the work takes, and as long as a crashed holder
	// may block it. 0 means a minute.
	TTL time.Duration
}

// Lease is a place, or the refusal of one. It is for one goroutine.
type Lease struct {
	Allowed    bool
	Held       int64         // places taken, this one included
	RetryAfter time.Duration // until the first place runs out; 0 when allowed

	limiter *Limiter
	store   LeaseStore
	key, id string
	conc    Concurrency
}

// Acquire takes a place. When the lease is allowed, release it. The store must
// be a LeaseStore, as ours are; else the error is ErrUnsupported.
func (l *Limiter) Acquire(ctx context.Context, key string, c Concurrency) (*Lease, error) {
	store, ok := l.store.(LeaseStore)
	if !ok {
		return nil, fmt.Errorf("%w: concurrency limits need a LeaseStore", ErrUnsupported)
	}
	if c.TTL == 0 {
		c.TTL = time.Minute
	}
	if key == "" || c.Limit < 1 || c.TTL < time.Millisecond {
		return nil, fmt.Errorf("%w: a lease needs a key, a limit of 1 or more and a TTL of a millisecond or more", ErrInvalid)
	}
	lease := &Lease{limiter: l, store: store, key: key, id: rand.Text(), conc: c}
	var err error
	lease.Allowed, lease.Held, lease.RetryAfter, err = store.Acquire(ctx, l.name, key, lease.id, c.Limit, c.TTL)
	if err != nil {
		return nil, err
	}
	return lease, nil
}

// Renew holds the place for another TTL. It reports false when the place was
// not held any more and none was free: stop the work.
func (l *Lease) Renew(ctx context.Context) (bool, error) {
	if !l.Allowed {
		return false, nil
	}
	ok, held, _, err := l.store.Acquire(ctx, l.limiter.name, l.key, l.id, l.conc.Limit, l.conc.TTL)
	if err != nil {
		return false, err
	}
	l.Allowed, l.Held = ok, held
	return ok, nil
}

// Release gives the place back. It may be repeated.
func (l *Lease) Release(ctx context.Context) error {
	if !l.Allowed {
		return nil
	}
	if _, err := l.store.Release(ctx, l.limiter.name, l.key, l.id); err != nil {
		return err
	}
	l.Allowed = false
	return nil
}
