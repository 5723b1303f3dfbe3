package apikeys

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// synchroniser knows how far this process has read the log.
type synchroniser struct {
	mu        sync.Mutex
	started   bool
	seen      int64
	confirmed atomic.Int64 // elapsed when the last complete reading began
}

// logPage is how many changes are taken one by one; after more, the whole
// cache goes.
const logPage = 1000

// Sync reads what other processes have changed since the last time and drops
// it from the cache. Everything that was changed before Sync began is in
// effect here when it returns. Run calls it.
func (s *Service) Sync(ctx context.Context) error {
	if s.cache == nil {
		return nil
	}
	s.sync.mu.Lock()
	defer s.sync.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LookupTimeout)
	defer cancel()
	mark := s.shared.begin()
	began := s.elapsed(s.now())
	if s.sync.started {
		entries, err := s.store.Log(ctx, LogQuery{After: s.sync.seen, Limit: logPage})
		if err != nil {
			return unavailable("read the log", err)
		}
		if len(entries) < logPage {
			s.apply(entries)
			s.shared.extend(entries, mark)
			s.sync.confirmed.Store(began)
			return nil
		}
	}
	// The first time nothing is known of what the cache was filled from.
	head, err := s.store.Head(ctx)
	if err != nil {
		return unavailable("read the head of the log", err)
	}
	if s.shared != nil {
		// What others have shared is good as far back as the log is known.
		after := max(head.Seq-logPage, 0)
		entries, err := s.store.Log(ctx, LogQuery{After: after, Limit: logPage})
		if err != nil {
			return unavailable("read the log", err)
		}
		s.shared.window.reset(after)
		s.shared.extend(entries, mark)
	}
	s.cache.flush()
	s.sync.seen, s.sync.started = head.Seq, true
	s.sync.confirmed.Store(began)
	return nil
}

func (s *Service) apply(entries []Entry) {
	ids := make(map[string]bool, len(entries))
	all := false
	for _, e := range entries {
		ids[e.Key] = true
		all = all || e.Key == allKeys
		s.sync.seen = e.Seq
	}
	if all {
		s.cache.flush()
		return
	}
	s.cache.drop(ids)
}

// Run follows other processes' changes and writes last uses until the context
// ends; then it writes the uses that wait, and returns nil. Errors of the
// store and of the bus go to Config.Logger, and are tried again. It starts one
// goroutine for the bus, and ends it before it returns.
//
// A process that verifies keys without Run is right all the same: each key is
// then read again every MaxStaleness.
func (s *Service) Run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	notify := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	if s.cfg.Bus != nil && s.cache != nil {
		wg.Go(func() { s.listen(ctx, notify) })
	}
	poll := time.NewTicker(s.cfg.PollInterval)
	defer poll.Stop()
	flushEvery := s.cfg.UseInterval
	if flushEvery < 0 {
		flushEvery = time.Hour
	}
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	notify()
	for {
		var err error
		select {
		case <-ctx.Done():
			wg.Wait()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LookupTimeout)
			defer cancel()
			if err := s.FlushUses(last); err != nil {
				s.log.Error("apikeys: last uses were lost at the end", "error", err)
			}
			return nil
		case <-wake:
			err = s.Sync(ctx)
		case <-poll.C:
			err = s.Sync(ctx)
		case <-flush.C:
			err = s.FlushUses(ctx)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			s.log.WarnContext(ctx, "apikeys: the store can't be reached; keys in the cache hold for MaxStaleness", "error", err)
		}
	}
}

// listen keeps one connection to the bus.
func (s *Service) listen(ctx context.Context, wake func()) {
	const first, most = 50 * time.Millisecond, time.Second
	pause := first
	for ctx.Err() == nil {
		connected := false
		err := s.cfg.Bus.Listen(ctx, func() { connected = true; wake() })
		if ctx.Err() != nil {
			return
		}
		if connected {
			pause = first
		}
		s.log.WarnContext(ctx, "apikeys: the bus is lost; changes are noticed by polling", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
}
