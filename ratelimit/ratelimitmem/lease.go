package ratelimitmem

import (
	"context"
	"sync"
	"time"
)

// leases are the places that things running at the same time have taken. They
// are few and slow beside decisions, so a mutex and a map serve.
type leases struct {
	mu    sync.Mutex
	held  map[leaseKey]map[string]int64 // ID to end, microseconds
	sweep int                           // size at which to drop what has run out
}

type leaseKey struct{ scope, key string }

// Acquire implements ratelimit.LeaseStore.
func (s *Store) Acquire(_ context.Context, scopeName, key, id string, limit int64, ttl time.Duration) (bool, int64, time.Duration, error) {
	l := &s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	now := s.clock.slow()
	if l.held == nil {
		l.held, l.sweep = map[leaseKey]map[string]int64{}, 1024
	}
	k := leaseKey{scopeName, key}
	places := live(l.held[k], now)
	if _, renewed := places[id]; !renewed && int64(len(places)) >= limit {
		first := int64(0)
		for _, end := range places {
			if first == 0 || end < first {
				first = end
			}
		}
		return false, int64(len(places)), time.Duration(max(first-now, 0)) * time.Microsecond, nil
	}
	if places == nil {
		if len(l.held) >= l.sweep {
			for k, places := range l.held {
				if len(live(places, now)) == 0 {
					delete(l.held, k)
				}
			}
			l.sweep = max(1024, 2*len(l.held))
		}
		places = map[string]int64{}
		l.held[k] = places
	}
	places[id] = now + ttl.Microseconds()
	return true, int64(len(places)), 0, nil
}

// Release implements ratelimit.LeaseStore.
func (s *Store) Release(_ context.Context, scopeName, key, id string) (bool, error) {
	l := &s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	k := leaseKey{scopeName, key}
	places := live(l.held[k], s.clock.slow())
	_, held := places[id]
	delete(places, id)
	if len(places) == 0 {
		delete(l.held, k)
	}
	return held, nil
}

// live drops the places that have run out.
func live(places map[string]int64, now int64) map[string]int64 {
	for id, end := range places {
		if end <= now {
			delete(places, id)
		}
	}
	return places
}
