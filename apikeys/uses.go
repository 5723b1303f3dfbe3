package apikeys

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	maxWaiting = 1 << 16 // uses that may wait; more are dropped
	maxAgent   = 120
)

// useBuffer gathers last uses, one for each key, until they are written.
type useBuffer struct {
	mu      sync.Mutex
	pending map[string]Use
	flush   sync.Mutex
}

func (u *useBuffer) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.pending)
}

// noteUse costs one atomic read, but for twice in each UseInterval.
func (s *Service) noteUse(e *entry, now time.Time, src *source) {
	at := s.elapsed(now)
	next := e.nextUse.Load()
	if at < next || s.cfg.UseInterval < 0 || !e.nextUse.CompareAndSwap(next, at+int64(s.cfg.UseInterval/2)) {
		return
	}
	client := src.get()
	s.uses.add(Use{
		Key:   e.id,
		At:    now.UTC().Truncate(time.Microsecond),
		Addr:  client.Addr,
		Agent: cleanAgent(client.Agent),
	})
}

func (u *useBuffer) add(use Use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	old, ok := u.pending[use.Key]
	if !ok && len(u.pending) >= maxWaiting || ok && old.At.After(use.At) {
		return
	}
	u.pending[use.Key] = use
}

// cleanAgent makes a short copy, so that the request's memory can go.
func cleanAgent(s string) string {
	s = cleanText(s)
	for len(s) > maxAgent {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.Clone(s)
}

// cleanText drops what isn't UTF-8 and control characters, so that nobody
// writes lines into other people's pages, and every store keeps it exactly.
func cleanText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// FlushUses writes the last uses that are waiting. Run does it each
// Config.UseInterval. After an error they wait for the next time.
func (s *Service) FlushUses(ctx context.Context) error {
	s.uses.flush.Lock()
	defer s.uses.flush.Unlock()
	s.uses.mu.Lock()
	taken := s.uses.pending
	s.uses.pending = make(map[string]Use, min(len(taken), 1024))
	s.uses.mu.Unlock()
	batch := make([]Use, 0, min(len(taken), 500))
	write := func() error {
		if len(batch) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, s.cfg.LookupTimeout)
		defer cancel()
		err := s.store.RecordUses(ctx, batch)
		if err == nil {
			for _, u := range batch {
				delete(taken, u.Key)
			}
		}
		batch = batch[:0]
		return err
	}
	var err error
	for _, u := range taken {
		if batch = append(batch, u); len(batch) == cap(batch) {
			if err = write(); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = write()
	}
	if err != nil {
		for _, u := range taken {
			s.uses.add(u)
		}
		return unavailable("write last uses", err)
	}
	return nil
}
