package billing

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// FeedConfig is what a Feed may be told.
type FeedConfig struct {
	// MaxAge is how old an answer may be that no change was heard of: the
	// staleness that is promised while the store can be read. 0 means 10 s.
	MaxAge time.Duration
	// Size is how many accounts are kept. 0 means 100,000.
	Size int
}

// Watcher is a Store that tells about the writes of all processes.
type Watcher interface {
	// Watch calls changed with the account of every write that is made after
	// ready was called, until ctx ends or the connection does.
	Watch(ctx context.Context, ready func(), changed func(account string)) error
}

// Feed answers Access, Limit and Quota from memory, for request paths: about
// as fast as a map, without allocation, and without waiting for a store in
// trouble. An answer is never older than FeedConfig.MaxAge while the store can
// be read. A write of this process is seen at once; one of another process
// too while Run runs on a store that is a Watcher. When the store can't be
// read, the last answer goes on and is marked stale. What changes with time
// alone, such as the end of a grace, changes on time.
//
// It is safe for concurrent use.
type Feed struct {
	svc    *Service
	cfg    FeedConfig
	seed   maphash.Seed
	shards [64]feedShard
	flight singleflight.Group
}

type feedShard struct {
	mu      sync.RWMutex
	entries map[string]*feedEntry
	// changes counts what was heard of: an answer that was read before a
	// change isn't kept after it.
	changes uint64
}

// feedEntry is replaced and never changed; its lock is the shard's.
type feedEntry struct {
	account  Account
	decision Decision
	again    time.Time // compute again: something changes with time
	read     time.Time // from the store; zero: a change was heard of
	fresh    time.Time // until when it is an answer: the earlier of again and the promised age; zero: not any more
	retry    time.Time // the store isn't asked before, after a failure
}

// NewFeed returns a feed of a service's decisions.
func (s *Service) NewFeed(cfg FeedConfig) (*Feed, error) {
	if cfg.MaxAge < 0 || cfg.Size < 0 {
		return nil, fmt.Errorf("%w: FeedConfig isn't negative", ErrInvalid)
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 10 * time.Second
	}
	if cfg.Size == 0 {
		cfg.Size = 100_000
	}
	f := &Feed{svc: s, cfg: cfg, seed: maphash.MakeSeed()}
	for i := range f.shards {
		f.shards[i].entries = map[string]*feedEntry{}
	}
	s.feeds.add(f)
	return f, nil
}

// Access is Service.Access. Decision.Stale also says that the store couldn't
// be read for longer than FeedConfig.MaxAge.
func (f *Feed) Access(ctx context.Context, account string) (Decision, error) {
	e, stale, err := f.lookUp(ctx, account)
	if err != nil {
		return Decision{}, err
	}
	d := e.decision
	d.Stale = d.Stale || stale
	return d, nil
}

// Limit is Service.Limit: -1 is no limit.
func (f *Feed) Limit(ctx context.Context, account, name string) (n int64, per time.Duration, err error) {
	e, _, err := f.lookUp(ctx, account)
	if err != nil {
		return 0, 0, err
	}
	l, err := e.decision.Limit(name)
	return l.feed(), l.Per, err
}

// Quota is Service.Quota: -1 is no limit.
func (f *Feed) Quota(ctx context.Context, account, name string) (n int64, from, to time.Time, err error) {
	e, _, err := f.lookUp(ctx, account)
	if err != nil {
		return 0, time.Time{}, time.Time{}, err
	}
	l, err := e.decision.Limit(name)
	if err == nil && l.Per != 0 {
		err = notQuota(name, l)
	}
	if err != nil {
		return 0, time.Time{}, time.Time{}, err
	}
	return l.feed(), e.decision.Period.From, e.decision.Period.To, nil
}

func (f *Feed) shard(account string) *feedShard {
	return &f.shards[maphash.String(f.seed, account)%uint64(len(f.shards))]
}

func (f *Feed) lookUp(ctx context.Context, account string) (e *feedEntry, stale bool, err error) {
	sh := f.shard(account)
	sh.mu.RLock()
	e, changes := sh.entries[account], sh.changes
	sh.mu.RUnlock()
	now := f.svc.cfg.Now()
	if e != nil && now.Before(e.fresh) {
		return e, false, nil
	}
	return f.slow(ctx, account, e, changes, now)
}

// slow reads the store, or computes the decision again where only time has
// passed.
func (f *Feed) slow(ctx context.Context, account string, e *feedEntry, changes uint64, now time.Time) (*feedEntry, bool, error) {
	if e != nil && now.Sub(e.read) < f.cfg.MaxAge {
		return f.put(account, changes, f.entry(e.account, e.read, now)), false, nil
	}
	if e == nil || !now.Before(e.retry) {
		// Only those share a read that have heard of the same changes.
		read, err, _ := f.flight.Do(fmt.Sprint(changes, ":", account), func() (any, error) {
			a, err := f.svc.store.Account(ctx, account)
			if err != nil {
				return nil, err
			}
			return f.put(account, changes, f.entry(a, now, now)), nil
		})
		switch {
		case err == nil:
			return read.(*feedEntry), false, nil
		case ctx.Err() != nil:
			return nil, false, ctx.Err()
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return f.slow(ctx, account, e, changes, now) // it was another caller's context that ended
		case e == nil:
			return nil, false, fmt.Errorf("billing: read account: %w", err)
		}
	}
	// The store can't be read: what was known goes on, and it is left alone
	// for a second.
	kept := f.entry(e.account, e.read, now)
	if kept.retry = e.retry; !now.Before(e.retry) {
		kept.retry = now.Add(time.Second)
	}
	return f.put(account, changes, kept), true, nil
}

func (f *Feed) entry(a Account, read, now time.Time) *feedEntry {
	e := &feedEntry{account: a, decision: Access(f.svc.catalog, f.svc.cfg.Policy, &a, now), read: read}
	e.again = earlier(e.decision.Until, e.decision.Period.To)
	if !read.IsZero() {
		e.fresh = earlier(e.again, read.Add(f.cfg.MaxAge))
	}
	return e
}

// put keeps an entry, unless a change was heard of since it was read.
func (f *Feed) put(account string, changes uint64, e *feedEntry) *feedEntry {
	sh := f.shard(account)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.changes != changes {
		return e // good for this caller; the next one reads again
	}
	if _, known := sh.entries[account]; !known && len(sh.entries) >= max(f.cfg.Size/len(f.shards), 1) {
		for other := range sh.entries {
			delete(sh.entries, other) // any one
			break
		}
	}
	sh.entries[account] = e
	return e
}

// forget makes the next look-up read the store; what is known stays for the
// case that it can't be read.
func (f *Feed) forget(account string) {
	sh := f.shard(account)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changes++
	if e := sh.entries[account]; e != nil {
		sh.entries[account] = &feedEntry{account: e.account, decision: e.decision}
	}
}

func (f *Feed) forgetAll() {
	for i := range f.shards {
		sh := &f.shards[i]
		sh.mu.Lock()
		sh.changes++
		for account, e := range sh.entries {
			sh.entries[account] = &feedEntry{account: e.account, decision: e.decision}
		}
		sh.mu.Unlock()
	}
}

// Run listens to the writes of other processes until ctx ends, on a store that
// is a Watcher; on another one it waits for the end. While it can't listen,
// answers are as old as FeedConfig.MaxAge at most.
func (f *Feed) Run(ctx context.Context) error {
	w, ok := f.svc.store.(Watcher)
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		err := w.Watch(ctx, func() {
			failures = 0
			f.forgetAll() // what was missed meanwhile
		}, f.forget)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrUnsupported) {
			<-ctx.Done()
			break
		}
		f.svc.cfg.Logger.WarnContext(ctx, "billing: feed doesn't hear of changes", "error", err)
		wait := min(time.Duration(math.Pow(2, float64(min(failures, 10))))*100*time.Millisecond, 10*time.Second)
		if sleep(ctx, wait) != nil {
			break
		}
	}
	return ctx.Err()
}

// Close makes the service forget the feed.
func (f *Feed) Close() { f.svc.feeds.remove(f) }

// feedList is the feeds of a service.
type feedList struct {
	mu    sync.RWMutex
	feeds []*Feed
}

func (l *feedList) add(f *Feed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.feeds = append(l.feeds, f)
}

func (l *feedList) remove(f *Feed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.feeds[:0:0]
	for _, g := range l.feeds {
		if g != f {
			kept = append(kept, g)
		}
	}
	l.feeds = kept
}

func (l *feedList) forget(account string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, f := range l.feeds {
		f.forget(account)
	}
}
