package ratelimitmem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kolekt/commerce/ratelimit"
)

// DefaultMaxKeys is how many live keys a scope may hold when Config doesn't
// say: about 200 MB with two windows.
const DefaultMaxKeys = 1 << 22

// maxWords bounds the windows of all plans of a scope.
const maxWords = 64

// Config configures a Store. The zero value is good.
type Config struct {
	// MaxKeys bounds the live keys of each scope; 0 means DefaultMaxKeys. A key
	// that is limited is never forgotten: beyond the bound, keys that are new
	// share the limits of 256 common entries until room returns.
	MaxKeys int
	// CoarseClock reads the time once a millisecond, in a goroutine that Close
	// ends, instead of at every decision. That takes about a quarter off a
	// decision, more where the clock is slow, and nearly half when the keys are too
	// many for the processor's caches, because it waits for memory before it reads
	// a clock. Decisions are up to a millisecond (more on a loaded machine) late,
	// never early.
	CoarseClock bool
	// Now replaces the clock, for tests.
	Now func() time.Time
}

// Store is a ratelimit.Store and a ratelimit.LeaseStore.
type Store struct {
	cfg    Config
	clock  *clock
	secret *secret
	mu     sync.Mutex
	scopes map[string]*scope
	leases leases
}

var (
	_ ratelimit.Store      = (*Store)(nil)
	_ ratelimit.LeaseStore = (*Store)(nil)
)

// New returns an empty Store. Close it when it has a coarse clock.
func New(cfg Config) *Store {
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = DefaultMaxKeys
	}
	return &Store{
		cfg:    cfg,
		clock:  newClock(cfg.Now, cfg.CoarseClock),
		secret: newSecret(),
		scopes: map[string]*scope{},
	}
}

// Close stops the coarse clock; the time stands still afterwards. It may be
// called more than once.
func (s *Store) Close() { s.clock.close() }

// scope holds the keys of one limiter. Its states only ever grow, so that an
// offset stays right for as long as the scope lives.
type scope struct {
	states   atomic.Pointer[[]state]
	words    int // of all states; under Store.mu
	maxShard uint64
	tables   [shards]atomic.Pointer[table]
	shards   [shards]shard
}

func (s *Store) scope(name string) *scope {
	sc := s.scopes[name]
	if sc == nil {
		sc = &scope{maxShard: uint64(max(s.cfg.MaxKeys/shards, 1))}
		sc.states.Store(new([]state))
		for i := range sc.tables {
			sc.tables[i].Store(newTable(1, 4))
		}
		s.scopes[name] = sc
	}
	return sc
}

// Prepare implements ratelimit.Store.
func (s *Store) Prepare(scopeName string, plan *ratelimit.Plan) (ratelimit.Decider, error) {
	if plan == nil || plan.Unlimited() {
		return nil, errors.New("ratelimitmem: Prepare needs a plan with a window")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sc := s.scope(scopeName)
	states := append([]state(nil), *sc.states.Load()...)
	d := &decider{clock: s.clock, secret: s.secret, scope: sc}
	for i, r := range plan.Rules() {
		at := -1
		for j := range states {
			if states[j].name == r.State {
				at = j
			}
		}
		if at < 0 {
			at = len(states)
			states = append(states, state{name: r.State, kind: r.Algorithm, offset: sc.words, interval: r.Interval})
			sc.words += words(r.Algorithm)
			if sc.words > maxWords {
				sc.words -= words(r.Algorithm)
				return nil, fmt.Errorf("ratelimitmem: the plans of limiter %q have more windows than %d: use a limiter for each kind of key", scopeName, maxWords)
			}
			sc.states.Store(&states)
		}
		d.rules[i] = rule{
			kind: r.Algorithm, offset: states[at].offset, limit: r.Limit,
			interval: r.Interval, burst: r.Limit * r.Interval,
		}
		if r.Shadow {
			d.shadow |= 1 << i
		}
		if r.Algorithm == ratelimit.Period {
			d.periods = true
		}
		d.words = max(d.words, states[at].offset+words(r.Algorithm))
	}
	d.n = len(plan.Rules())
	return d.shortest(), nil
}

// locked finds and locks a key's entry; ok is false when there is none.
func (sc *scope) locked(h uint64) (e entry, ok bool) {
	for {
		t := sc.tables[h%shards].Load()
		slot, ok := t.find(h)
		if !ok {
			return entry{}, false
		}
		words := t.entry(slot)
		if first, ok := lock(words); ok {
			return entry{words: words, first: first}, true
		}
		sc.next(h, t)
	}
}

func (s *Store) lookup(scopeName string) *scope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scopes[scopeName]
}

// Reset implements ratelimit.Store. Leases are no state of a plan and stay.
func (s *Store) Reset(_ context.Context, scopeName, key string) (bool, error) {
	sc := s.lookup(scopeName)
	if sc == nil {
		return false, nil
	}
	e, ok := sc.locked(s.secret.hash(key))
	if !ok {
		return false, nil
	}
	was := !dead(*sc.states.Load(), e.words, e.first, s.clock.now())
	clear(e.words[1:])
	unlock(&e.words[0], 0)
	return was, nil
}

// Inspect implements ratelimit.Store.
func (s *Store) Inspect(_ context.Context, scopeName, key string) ([]ratelimit.Held, error) {
	sc := s.lookup(scopeName)
	if sc == nil {
		return nil, nil
	}
	e, ok := sc.locked(s.secret.hash(key))
	if !ok {
		return nil, nil
	}
	first := e.first
	now := s.clock.now()
	var held []ratelimit.Held
	for _, st := range *sc.states.Load() {
		if st.offset >= len(e.words) {
			break
		}
		if used, until := st.held(&e, now); until > now && used > 0 {
			held = append(held, ratelimit.Held{State: st.name, Used: used, Until: time.UnixMicro(until).UTC()})
		}
	}
	unlock(&e.words[0], first)
	return held, nil
}

// Len returns how many entries a scope holds, dead ones included until their
// part is rebuilt, and how many bytes they take.
func (s *Store) Len(scopeName string) (entries int, bytes int64) {
	sc := s.lookup(scopeName)
	if sc == nil {
		return 0, 0
	}
	for i := range sc.shards {
		sh := &sc.shards[i]
		sh.mu.Lock()
		entries += int(sh.used)
		bytes += sc.tables[i].Load().bytes()
		sh.mu.Unlock()
	}
	return entries, bytes
}
