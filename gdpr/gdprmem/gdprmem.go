// Package gdprmem keeps the requests, tombstones, consents, keys and audit log
// of package gdpr in memory, for development and tests. It forgets everything
// with the process.
package gdprmem

import (
	"context"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/kolekt/commerce/gdpr"
)

// Store is a gdpr.Store in memory. The zero value is ready.
type Store struct {
	mu       sync.Mutex
	requests map[string]gdpr.Request
	stones   map[string]gdpr.Tombstone
	consents map[string][]gdpr.ConsentEvent
	keys     map[string]key
	audit    []gdpr.Entry
}

type key struct {
	wrapped   []byte
	destroyed bool
}

var _ gdpr.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{} }

func clone(r gdpr.Request) gdpr.Request {
	r.Sealed, r.Certificate = slices.Clone(r.Sealed), slices.Clone(r.Certificate)
	r.Steps = slices.Clone(r.Steps)
	for i := range r.Steps {
		r.Steps[i].Retained = slices.Clone(r.Steps[i].Retained)
	}
	return r
}

// CreateRequest implements gdpr.Store.
func (s *Store) CreateRequest(ctx context.Context, r gdpr.Request, audit ...gdpr.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.requests {
		if other.ID == r.ID || other.SubjectRef == r.SubjectRef && other.Kind == r.Kind && !other.State.Closed() {
			return gdpr.ErrActive
		}
	}
	if s.requests == nil {
		s.requests = map[string]gdpr.Request{}
	}
	r.Version = 1
	s.requests[r.ID] = clone(r)
	s.append(audit)
	return nil
}

// Request implements gdpr.Store.
func (s *Store) Request(ctx context.Context, id string) (gdpr.Request, error) {
	if err := ctx.Err(); err != nil {
		return gdpr.Request{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.requests[id]
	if !ok {
		return gdpr.Request{}, gdpr.ErrNotFound
	}
	return clone(r), nil
}

// Requests implements gdpr.Store.
func (s *Store) Requests(ctx context.Context, f gdpr.Filter) ([]gdpr.Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []gdpr.Request
	for _, r := range s.requests {
		open := !r.State.Closed()
		if f.SubjectRef != "" && r.SubjectRef != f.SubjectRef || f.Kind != "" && r.Kind != f.Kind ||
			f.Open && !open || !f.DueBefore.IsZero() && (!open || !r.DueAt.Before(f.DueBefore)) {
			continue
		}
		list = append(list, clone(r))
	}
	sort.Slice(list, func(i, j int) bool {
		if !list[i].ReceivedAt.Equal(list[j].ReceivedAt) {
			return list[i].ReceivedAt.After(list[j].ReceivedAt)
		}
		return list[i].ID > list[j].ID
	})
	if f.Limit == 0 {
		f.Limit = 100
	}
	return list[:min(len(list), f.Limit)], nil
}

// UpdateRequest implements gdpr.Store.
func (s *Store) UpdateRequest(ctx context.Context, r gdpr.Request, tombstones []gdpr.Tombstone, audit ...gdpr.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, ok := s.requests[r.ID]
	if !ok {
		return gdpr.ErrNotFound
	}
	if stored.Version != r.Version {
		return gdpr.ErrConflict
	}
	r.Version++
	s.requests[r.ID] = clone(r)
	s.bury(tombstones)
	s.append(audit)
	return nil
}

// Claim implements gdpr.Store.
func (s *Store) Claim(ctx context.Context, now time.Time, lease time.Duration, limit int) ([]gdpr.Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []gdpr.Request
	for _, r := range s.requests {
		if !r.NextRun.IsZero() && !r.NextRun.After(now) && !r.LeaseUntil.After(now) {
			due = append(due, r)
		}
	}
	sort.Slice(due, func(i, j int) bool { return due[i].NextRun.Before(due[j].NextRun) })
	due = due[:min(len(due), limit)]
	for i := range due {
		due[i].LeaseUntil = now.Add(lease)
		due[i].Version++
		s.requests[due[i].ID] = due[i]
		due[i] = clone(due[i])
	}
	return due, nil
}

// Tombstoned implements gdpr.Store.
func (s *Store) Tombstoned(ctx context.Context, hashes []string) ([]gdpr.Tombstone, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []gdpr.Tombstone
	for _, t := range s.stones {
		if slices.Contains(hashes, t.Hash) || slices.Contains(hashes, t.Loose) {
			found = append(found, t)
		}
	}
	return found, nil
}

// PutTombstones implements gdpr.Store.
func (s *Store) PutTombstones(ctx context.Context, tombstones []gdpr.Tombstone) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bury(tombstones)
	return nil
}

func (s *Store) bury(tombstones []gdpr.Tombstone) {
	if s.stones == nil {
		s.stones = map[string]gdpr.Tombstone{}
	}
	for _, t := range tombstones {
		if _, known := s.stones[t.Hash]; !known {
			s.stones[t.Hash] = t
		}
	}
}

// CountTombstones implements gdpr.Store.
func (s *Store) CountTombstones(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.stones)), nil
}

// ExpireTombstones implements gdpr.Store.
func (s *Store) ExpireTombstones(ctx context.Context, before time.Time) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for hash, t := range s.stones {
		if t.ExpiresAt.Before(before) {
			delete(s.stones, hash)
			n++
		}
	}
	return n, nil
}

// AppendConsent implements gdpr.Store.
func (s *Store) AppendConsent(ctx context.Context, c gdpr.ConsentEvent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, known := range s.consents[c.SubjectRef] {
		if known.ID == c.ID {
			return nil
		}
	}
	if s.consents == nil {
		s.consents = map[string][]gdpr.ConsentEvent{}
	}
	s.consents[c.SubjectRef] = append(s.consents[c.SubjectRef], c)
	return nil
}

// Consents implements gdpr.Store.
func (s *Store) Consents(ctx context.Context, subjectRef string) ([]gdpr.ConsentEvent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.consents[subjectRef])
	sort.SliceStable(list, func(i, j int) bool { return list[i].At.Before(list[j].At) })
	return list, nil
}

// DeleteConsents implements gdpr.Store.
func (s *Store) DeleteConsents(ctx context.Context, subjectRef string) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.consents[subjectRef])
	delete(s.consents, subjectRef)
	return int64(n), nil
}

// PutKey implements gdpr.Store.
func (s *Store) PutKey(ctx context.Context, subjectRef string, wrapped []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[subjectRef]
	if !ok {
		if s.keys == nil {
			s.keys = map[string]key{}
		}
		k = key{wrapped: slices.Clone(wrapped)}
		s.keys[subjectRef] = k
	}
	if k.destroyed {
		return nil, gdpr.ErrShredded
	}
	return slices.Clone(k.wrapped), nil
}

// Key implements gdpr.Store.
func (s *Store) Key(ctx context.Context, subjectRef string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[subjectRef]
	switch {
	case !ok:
		return nil, gdpr.ErrNotFound
	case k.destroyed:
		return nil, gdpr.ErrShredded
	}
	return slices.Clone(k.wrapped), nil
}

// DestroyKey implements gdpr.Store.
func (s *Store) DestroyKey(ctx context.Context, subjectRef string, _ time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.keys[subjectRef]; ok {
		clear(k.wrapped)
		s.keys[subjectRef] = key{destroyed: true}
	}
	return nil
}

// Audit implements gdpr.Store.
func (s *Store) Audit(ctx context.Context, from int64) iter.Seq2[gdpr.Entry, error] {
	return func(yield func(gdpr.Entry, error) bool) {
		s.mu.Lock()
		entries := slices.Clone(s.audit)
		s.mu.Unlock()
		for _, e := range entries {
			if e.Seq < from {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(gdpr.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// AppendAudit implements gdpr.Store.
func (s *Store) AppendAudit(ctx context.Context, entries ...gdpr.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(entries)
	return nil
}

func (s *Store) append(entries []gdpr.Entry) {
	previous := ""
	if n := len(s.audit); n > 0 {
		previous = s.audit[n-1].Hash
	}
	for _, e := range entries {
		e.Seq = int64(len(s.audit)) + 1
		e.Hash = gdpr.ChainHash(previous, e)
		previous = e.Hash
		s.audit = append(s.audit, e)
	}
}
