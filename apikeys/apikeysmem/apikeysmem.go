// Package apikeysmem keeps API keys in memory: for development, tests, and
// programs of one process whose keys may end with it.
package apikeysmem

import (
	"context"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/kolekt/commerce/apikeys"
)

// Store is an apikeys.Store in memory. Its size is that of the keys and of
// their log, which is never cut.
type Store struct {
	mu     sync.RWMutex
	change sync.Mutex // held through a whole Change, decide included
	keys   map[string]*apikeys.Record
	hashes map[apikeys.Hash]string
	log    []apikeys.Entry
	head   apikeys.Head

	before time.Time // keys made before this are revoked
}

// New returns an empty store.
func New() *Store {
	return &Store{keys: map[string]*apikeys.Record{}, hashes: map[apikeys.Hash]string{}}
}

// read returns a copy of a record as readers see it.
func (s *Store) read(r *apikeys.Record) apikeys.Record {
	out := *r
	out.Key = r.Key.Clone()
	out.Verifier = slices.Clone(r.Verifier)
	if out.RevokedAt.IsZero() && out.CreatedAt.Before(s.before) {
		out.RevokedAt, out.RevokedFor = s.before, apikeys.RevokedForAll
	}
	return out
}

// Change implements apikeys.Store.
func (s *Store) Change(ctx context.Context, sel apikeys.Selection, decide func([]apikeys.Record) (apikeys.Delta, error)) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := decide(s.selected(sel))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(d.Put); err != nil {
		return err
	}
	for _, r := range d.Put {
		if old := s.keys[r.ID]; old != nil {
			delete(s.hashes, old.Hash)
			r.LastUsed = old.LastUsed
		}
		r.Key, r.Verifier = r.Key.Clone(), slices.Clone(r.Verifier)
		s.keys[r.ID] = &r
		s.hashes[r.Hash] = r.ID
	}
	for _, id := range d.Delete {
		if old := s.keys[id]; old != nil {
			delete(s.hashes, old.Hash)
			delete(s.keys, id)
		}
	}
	for _, e := range d.Log {
		e.Detail = maps.Clone(e.Detail)
		e, s.head = s.head.Seal(e)
		s.log = append(s.log, e)
	}
	if d.RevokeBefore.After(s.before) {
		s.before = d.RevokeBefore
	}
	return nil
}

// selected returns what a selection names, in order of ID.
func (s *Store) selected(sel apikeys.Selection) []apikeys.Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []apikeys.Record
	if sel.Owner.ID != "" {
		for _, r := range s.keys {
			if r := s.read(r); r.Owner == sel.Owner && (sel.Revoked || r.RevokedAt.IsZero()) {
				out = append(out, r)
			}
		}
		sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
		if sel.Limit > 0 && len(out) > sel.Limit {
			out = out[:sel.Limit]
		}
		return out
	}
	ids := slices.Clone(sel.IDs)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if r := s.keys[id]; r != nil {
			out = append(out, s.read(r))
		}
	}
	return out
}

func (s *Store) check(put []apikeys.Record) error {
	seen := map[apikeys.Hash]bool{}
	for i := range put {
		if id, taken := s.hashes[put[i].Hash]; seen[put[i].Hash] || taken && id != put[i].ID {
			return apikeys.ErrDuplicate
		}
		seen[put[i].Hash] = true
	}
	return nil
}

// Find implements apikeys.Store.
func (s *Store) Find(ctx context.Context, hashes []apikeys.Hash) (apikeys.Record, error) {
	if err := ctx.Err(); err != nil {
		return apikeys.Record{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, h := range hashes {
		if id, ok := s.hashes[h]; ok {
			return s.read(s.keys[id]), nil
		}
	}
	return apikeys.Record{}, apikeys.ErrNotFound
}

// Rehash implements apikeys.Store.
func (s *Store) Rehash(ctx context.Context, id string, old, hash apikeys.Hash, pepper int16) (bool, error) {
	s.change.Lock() // a change must not put back what it read before
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	r := s.keys[id]
	if r == nil || r.Hash != old {
		return false, nil
	}
	if _, taken := s.hashes[hash]; taken {
		return false, apikeys.ErrDuplicate
	}
	delete(s.hashes, old)
	s.hashes[hash] = id
	r.Hash, r.Pepper, r.Scheme, r.Verifier = hash, pepper, "", nil
	return true, nil
}

// List implements apikeys.Store.
func (s *Store) List(ctx context.Context, q apikeys.Query) ([]apikeys.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []apikeys.Key
	add := func(r *apikeys.Record) {
		if q.Owner.ID != "" && r.Owner != q.Owner || q.Lineage != "" && r.Lineage != q.Lineage ||
			q.Before != "" && r.ID >= q.Before || q.ID != "" && r.ID != q.ID {
			return
		}
		out = append(out, s.read(r).Key)
	}
	if q.ID != "" {
		if r := s.keys[q.ID]; r != nil {
			add(r)
		}
		return out, nil
	}
	for _, r := range s.keys {
		add(r)
	}
	slices.SortFunc(out, func(a, b apikeys.Key) int { return strings.Compare(b.ID, a.ID) })
	if n := apikeys.PageSize(q.Limit); len(out) > n {
		out = out[:n]
	}
	return out, nil
}

// RecordUses implements apikeys.Store.
func (s *Store) RecordUses(ctx context.Context, uses []apikeys.Use) error {
	s.change.Lock() // as in Rehash
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, u := range uses {
		if r := s.keys[u.Key]; r != nil && u.At.After(r.LastUsed.At) {
			r.LastUsed = u
		}
	}
	return nil
}

// Log implements apikeys.Store.
func (s *Store) Log(ctx context.Context, q apikeys.LogQuery) ([]apikeys.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []apikeys.Entry
	for i := max(q.After, 0); i < int64(len(s.log)) && len(out) < apikeys.PageSize(q.Limit); i++ {
		e := s.log[i]
		if q.Key != "" && e.Key != q.Key || q.Account != "" && e.Owner.ID != q.Account && e.Actor != q.Account {
			continue
		}
		e.Detail = maps.Clone(e.Detail)
		out = append(out, e)
	}
	return out, nil
}

// Head implements apikeys.Store.
func (s *Store) Head(ctx context.Context) (apikeys.Head, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head, ctx.Err()
}

// Forget implements apikeys.Store.
func (s *Store) Forget(ctx context.Context, account string, limit int) (int64, error) {
	s.change.Lock() // as in Rehash
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	for _, r := range s.keys {
		if r.CreatedBy == account {
			r.CreatedBy = ""
		}
	}
	n := int64(0)
	for i := range s.log {
		if e := &s.log[i]; n < int64(limit) && (e.Owner.ID == account || e.Actor == account) {
			e.Owner, e.Actor, e.Detail, e.Salt = apikeys.Owner{}, "", nil, nil
			n++
		}
	}
	return n, nil
}

// Peppers implements apikeys.Store.
func (s *Store) Peppers(ctx context.Context) ([]apikeys.PepperUse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	counts := map[int16]*apikeys.PepperUse{}
	at := func(id int16) *apikeys.PepperUse {
		if counts[id] == nil {
			counts[id] = &apikeys.PepperUse{Pepper: id}
		}
		return counts[id]
	}
	for _, r := range s.keys {
		if s.read(r).RevokedAt.IsZero() {
			at(r.Pepper).Hashed++
			at(r.Tag).Tagged++
		}
	}
	out := make([]apikeys.PepperUse, 0, len(counts))
	for _, c := range counts {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b apikeys.PepperUse) int { return int(a.Pepper) - int(b.Pepper) })
	return out, nil
}
